"""The optimiser step of everything that is trained, whatever its loss.

What happens at step t is a function of (seed, stage, t) and the weights: draws come from keys, the learning rate from
t, dropout from a generator seeded with (seed, stage, t, rank). A step takes a list of micro-batches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selftrain_core.batch import Batch
from selftrain_core.config import PretrainingConfig, TrainingConfig
from selftrain_core.distributed import rank
from selftrain_core.errors import SelftrainError, StageFailedError
from selftrain_core.interfaces import Augmentation
from selftrain_core.keys import fold, name_key, seed_of
from selftrain_core.optim import build_optimizer, learning_rate
from selftrain_core.precision import Precision
from selftrain_core.samples import raised
from selftrain_core.weights import KeptBuffers, WeightAverage, save_state


@dataclass(frozen=True)
class Recipe:
    """What a training stage is, beside its model and data.

    Attributes:
        stage: Its name, such as ``round-1/student``: part of every draw.
        seed: The run's seed.
        steps: Optimiser steps.
        images_per_step: Images of a step, over all ranks; those of joint streams apart.
        training: Optimiser, patience with non-finite steps, and of a task's model the weight average.
    """

    stage: str
    seed: int
    steps: int
    images_per_step: int
    training: TrainingConfig | PretrainingConfig


class StepModule(pl.LightningModule):
    """One model in training. Lightning supplies the device, the ranks and the gradient reduction; the step is ours.

    Args:
        model: Maps images in 0..1 to what the loss takes.
        recipe: What the stage is.
        folder: Where a batch that stops the run is saved.
        precision: In which the model computes.
        ema_decay: Of the weight average; None for none.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        folder: Path,
        *,
        precision: Precision = "float32",
        ema_decay: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.recipe, self.folder = recipe, folder
        self.precision: Precision = precision
        self.average = None if ema_decay is None else WeightAverage(model, ema_decay)
        self.next_step = 0
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self._kept_buffers = KeptBuffers()
        self._key = fold(recipe.seed, name_key(recipe.stage))

    @abstractmethod
    def prepared(self, batches: list[Batch]) -> Any:
        """Return the batches of a step as `gradients` takes them. No gradient of any kind is needed of it."""

    @abstractmethod
    def gradients(self, step: Any) -> Tensor:
        """Leave the gradients of a step with the model, and return the losses: [K], the same on every rank."""

    @abstractmethod
    def taken(self, losses_K: Tensor, step: Any) -> None:
        """Take note of a step after which the weights moved."""

    @abstractmethod
    def remember(self, losses_K: Tensor, gradient_norm: Tensor, rate: float, *, is_finite: bool) -> None:
        """Remember what a step was like, for the log; called before `taken`."""

    @abstractmethod
    def log_values(self) -> dict[str, float]:
        """Return what the log says of the last step; ``loss`` is among it."""

    @abstractmethod
    def blame(self, step: Any) -> str:
        """Return, of a step that was not finite, its losses for people, such as ``human loss nan``."""

    @property
    def result(self) -> nn.Module:
        """The model that counts: the weight average where there is one."""
        return self.model if self.average is None else self.average.model

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser; the learning rate is set anew at each step."""
        return build_optimizer(self.recipe.training.optimizer, self.model)

    def training_step(self, item: list[Batch] | SelftrainError, batch_idx: int) -> None:
        """Take one optimiser step over all micro-batches."""
        number = self.next_step
        torch.manual_seed(self._seed_of(number))
        step = self.prepared(raised(item))
        self._kept_buffers.keep(self.model)
        optimizer = self._optimizer
        optimizer.zero_grad(set_to_none=True)
        losses_K = self.gradients(step)
        settings = self.recipe.training.optimizer
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip or float("inf"))
        # Judged on the device from sums that every rank shares, so that all ranks skip or none does.
        is_finite = bool(torch.isfinite(losses_K).all() & torch.isfinite(norm))
        rate = learning_rate(settings, number, self.recipe.steps)
        self.remember(losses_K, norm, rate, is_finite=is_finite)
        if is_finite:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            self.taken(losses_K, step)
            if self.average is not None:
                self.average.update(self.model)
            self.skipped_in_a_row = 0
        else:
            self._skip(number, step, norm)
        self.next_step = number + 1

    def state(self) -> dict[str, Any]:
        """Return everything the next step depends on, beside its number and the seed."""
        return {
            "next_step": self.next_step,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any], *, finished: bool = False) -> None:
        """Take up what `state` returned; a finished training needs no optimiser, and Lightning has made none."""
        self.next_step = state["next_step"]
        self.skipped_steps, self.skipped_in_a_row = state["skipped_steps"], state["skipped_in_a_row"]
        self.model.load_state_dict(state["model"])
        if not finished:
            self._optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _seed_of(self, step: int) -> int:
        return seed_of(fold(self._key, step, rank()))

    def augmented(self, batch: Batch, augmentation: Augmentation, *more: int) -> Batch:
        """Return a batch as it looks at this visit, of the model's type.

        Args:
            batch: The batch.
            augmentation: Changes it.
            *more: Further parts of the key, where one visit has several looks.
        """
        with torch.no_grad():
            key_B = fold(self._key.to(batch.id_B.device), batch.id_B, batch.visit_B, *more)
            changed = augmentation(batch, key_B)
        return replace(changed, image_B3HW=changed.image_B3HW.to(next(self.model.parameters()).dtype))

    def without_reduction(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are added up on this rank alone."""
        wrapper = self.trainer.strategy.model
        return wrapper.no_sync() if isinstance(wrapper, DistributedDataParallel) else nullcontext()

    def _skip(self, number: int, step: Any, gradient_norm: Tensor) -> None:
        """Leave everything as it was before the step: no update was made, only batch norm saw the images.

        Raises:
            StageFailedError: Too many steps in a row were not finite.
        """
        self._kept_buffers.put_back(self.model)
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row < self.recipe.training.max_skipped_steps:
            return
        batches = self.batches_of(step)
        path = self.folder / f"nonfinite-step-{number}-rank-{rank()}.pt"
        save_state(path, [vars(replace(batch, targets=vars(batch.targets))) for batch in batches])  # type: ignore[arg-type]
        torch.manual_seed(self._seed_of(number))
        losses = self.blame(step)
        self._kept_buffers.put_back(self.model)
        remedy = self.remedy
        if not all(bool(torch.isfinite(batch.image_B3HW).all()) for batch in batches):
            remedy = "the images themselves are not finite once they are augmented: look at the augmentation"
        raise StageFailedError(
            f"{self.recipe.stage}: the loss or its gradient was not finite for {self.skipped_in_a_row} steps in a row, "
            f"up to step {number} ({losses}, gradient norm {float(gradient_norm):g})\n"
            f"  the batch is in {path}\n"
            f"  {remedy}"
        )

    @abstractmethod
    def batches_of(self, step: Any) -> Sequence[Batch]:
        """Return all batches that `prepared` made."""

    remedy = "what usually helps: a lower optimizer.lr or optimizer.gradient_clip"
    """What to try, for people, where steps are not finite."""
