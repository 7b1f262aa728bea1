"""The optimiser step of every model, teacher, baseline and student alike.

What happens at step t is a function of (seed, stage, t) and the weights: draws come from keys, the learning rate from
t, dropout from a generator seeded with (seed, stage, t, rank). A step takes a list of micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selftrain_core.batch import HUMAN, PSEUDO, Batch
from selftrain_core.config import TrainingConfig
from selftrain_core.distributed import rank, sum_over_ranks, world_size
from selftrain_core.errors import SelftrainError, StageFailedError
from selftrain_core.interfaces import Augmentation, Task
from selftrain_core.keys import fold, name_key, seed_of
from selftrain_core.objective import Denominators, NormalisedObjective
from selftrain_core.optim import build_optimizer, learning_rate
from selftrain_core.precision import Precision, forward
from selftrain_core.samples import raised
from selftrain_core.weights import KeptBuffers, WeightAverage, save_state


@dataclass(frozen=True)
class Recipe:
    """What a training stage is, beside its model and data.

    Attributes:
        stage: Its name, such as ``round-1/student``: part of every draw.
        seed: The run's seed.
        steps: Optimiser steps.
        images_per_step: Images of both halves in a step, over all ranks.
        training: Optimiser, weight average, patience with non-finite steps.
    """

    stage: str
    seed: int
    steps: int
    images_per_step: int
    training: TrainingConfig


@dataclass(frozen=True)
class StepReport:
    """What one step was like, for the log. Tensors stay on the device until somebody reads them."""

    half_2: Tensor
    ratio: Tensor
    averages_2: Tensor
    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    finite: bool


class TrainingModule(pl.LightningModule):
    """One model in training. Lightning supplies the device, the ranks and the gradient reduction; the step is ours.

    Args:
        model: Maps images in 0..1 to outputs.
        task: Interprets them.
        augmentation: Applied to each micro-batch on the device.
        objective: Weighs the two halves.
        recipe: What the stage is.
        folder: Where a batch that stops the run is saved.
        precision: In which the model computes.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task[Any, Any],
        augmentation: Augmentation,
        objective: NormalisedObjective,
        recipe: Recipe,
        folder: Path,
        *,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.task, self.augmentation, self.objective, self.recipe = task, augmentation, objective, recipe
        self.folder = folder
        self.precision: Precision = precision
        decay = recipe.training.ema_decay
        self.average = None if decay is None else WeightAverage(model, decay)
        self.next_step = 0
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.report: StepReport | None = None
        self._kept_buffers = KeptBuffers()
        self._key = fold(recipe.seed, name_key(recipe.stage))

    @property
    def result(self) -> nn.Module:
        """The model that counts: the weight average where there is one."""
        return self.model if self.average is None else self.average.model

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser; the learning rate is set anew at each step."""
        return build_optimizer(self.recipe.training.optimizer, self.model)

    def training_step(self, item: list[Batch] | SelftrainError, batch_idx: int) -> None:
        """Take one optimiser step over all micro-batches."""
        step = self.next_step
        torch.manual_seed(seed_of(fold(self._key, step, rank())))
        micro_batches = [self._augmented(batch) for batch in raised(item)]
        counts = [self.task.counts(batch.targets) for batch in micro_batches]
        denominators = self.objective.denominators(counts, [batch.source_B for batch in micro_batches])
        self._kept_buffers.keep(self.model)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        optimizer.zero_grad(set_to_none=True)
        half_2 = sum_over_ranks(self._backward(micro_batches, denominators))
        clip = self.recipe.training.optimizer.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), clip or float("inf"))
        loss = self.objective.combine(half_2)
        # Judged on the device from sums that every rank shares, so that all ranks skip or none does.
        finite = bool(torch.isfinite(half_2).all() & torch.isfinite(norm))
        rate = learning_rate(self.recipe.training.optimizer, step, self.recipe.steps)
        self.report = StepReport(half_2, self.objective.ratio, self.objective.averages_2, loss, norm, rate, finite)
        if finite:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            self.objective.update(half_2, denominators)
            if self.average is not None:
                self.average.update(self.model)
            self.skipped_in_a_row = 0
        else:
            self._skip(step, micro_batches, denominators)
        self.next_step = step + 1

    def state(self) -> dict[str, Any]:
        """Return everything the next step depends on, beside its number and the seed."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return {
            "next_step": self.next_step,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def restore(self, state: dict[str, Any], *, finished: bool = False) -> None:
        """Take up what `state` returned; a finished training needs no optimiser, and Lightning has made none."""
        self.next_step = state["next_step"]
        self.skipped_steps, self.skipped_in_a_row = state["skipped_steps"], state["skipped_in_a_row"]
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        if not finished:
            optimizer = self.optimizers(use_pl_optimizer=False)
            assert isinstance(optimizer, torch.optim.Optimizer)
            optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _augmented(self, batch: Batch) -> Batch:
        with torch.no_grad():
            key = fold(self._key.to(batch.id_B.device), batch.id_B, batch.visit_B)
            changed = self.augmentation(batch, key)
        dtype = next(self.model.parameters()).dtype
        return replace(changed, image_B3HW=changed.image_B3HW.to(dtype))

    def _backward(self, micro_batches: Sequence[Batch], denominators: Denominators) -> Tensor:
        total = torch.zeros_like(denominators.filled_2)
        for number, batch in enumerate(micro_batches):
            losses = self._losses(batch)
            half_2 = self.objective.halves(losses, batch.source_B, denominators)
            is_last = number == len(micro_batches) - 1
            with nullcontext() if is_last else self._without_reduction():
                # DDP averages gradients over the ranks; the objective has already divided by the counts of all.
                self.manual_backward(self.objective.combine(half_2) * world_size())
            total = total + half_2.detach()
        return total

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.task.losses(forward(self.model, batch.image_B3HW, self.precision), batch.targets)

    def _without_reduction(self) -> AbstractContextManager[None]:
        wrapper = self.trainer.strategy.model
        return wrapper.no_sync() if isinstance(wrapper, DistributedDataParallel) else nullcontext()

    def _skip(self, step: int, micro_batches: Sequence[Batch], denominators: Denominators) -> None:
        """Leave everything as it was before the step: no update was made, only batch norm saw the images.

        Raises:
            StageFailedError: Too many steps in a row were not finite.
        """
        self._kept_buffers.put_back(self.model)
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row < self.recipe.training.max_skipped_steps:
            return
        path = self.folder / f"nonfinite-step-{step}-rank-{rank()}.pt"
        save_state(path, [vars(replace(batch, targets=vars(batch.targets))) for batch in micro_batches])  # type: ignore[arg-type]
        assert self.report is not None
        torch.manual_seed(seed_of(fold(self._key, step, rank())))
        human, pseudo = self._each_half(micro_batches, denominators).tolist()
        self._kept_buffers.put_back(self.model)
        remedy = (
            "what usually helps: a lower optimizer.lr or optimizer.gradient_clip (of teacher or student), or a lower "
            "objective.alpha"
        )
        if not all(bool(torch.isfinite(batch.image_B3HW).all()) for batch in micro_batches):
            remedy = "the images themselves are not finite once they are augmented: look at the augmentation"
        raise StageFailedError(
            f"{self.recipe.stage}: the loss or its gradient was not finite for {self.skipped_in_a_row} steps in a row, "
            f"up to step {step} (human loss {human:g}, pseudo loss {pseudo:g}, gradient norm "
            f"{float(self.report.gradient_norm):g})\n"
            f"  the batch is in {path}\n"
            f"  {remedy}"
        )

    def _each_half(self, micro_batches: Sequence[Batch], denominators: Denominators) -> Tensor:
        """Return (L_h, L_p) of a step, each from its own images alone.

        In a step the halves are told apart by multiplication with 0 and 1, which turns a NaN of one into one of both.
        """
        half_2 = torch.zeros_like(denominators.filled_2)
        with torch.no_grad():
            for batch in micro_batches:
                losses = self._losses(batch)
                for source in (HUMAN, PSEUDO):
                    own = {name: torch.where(batch.source_B == source, loss, 0.0) for name, loss in losses.items()}
                    half_2[source] += self.objective.halves(own, batch.source_B, denominators)[source]
        return sum_over_ranks(half_2)
