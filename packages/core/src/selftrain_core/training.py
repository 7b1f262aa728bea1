"""The training of every task's model, teacher, baseline and student alike: the normalised objective, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selftrain_core.batch import HUMAN, PSEUDO, Batch
from selftrain_core.config import TrainingConfig
from selftrain_core.distributed import sum_over_ranks, world_size
from selftrain_core.interfaces import Augmentation, Task
from selftrain_core.joint import JointModel, JointPart, task_model
from selftrain_core.objective import Denominators, NormalisedObjective
from selftrain_core.precision import Precision, forward
from selftrain_core.stepping import Recipe, StepModule


@dataclass(frozen=True)
class StepReport:
    """What one step was like, for the log. Tensors stay on the device until somebody reads them."""

    half_2: Tensor
    joint_J: Tensor
    ratio: Tensor
    averages_2: Tensor
    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    finite: bool


@dataclass(frozen=True)
class Step:
    """The batches of a step on this rank, and what its losses are divided by.

    Attributes:
        micro_batches: Of the human and the pseudo stream.
        denominators: Theirs.
        joint: Of each joint stream, its micro-batches and their denominators.
    """

    micro_batches: list[Batch]
    denominators: Denominators
    joint: list[tuple[list[Batch], Denominators]]


class TrainingModule(StepModule):
    """A task's model in training, on human and pseudo labels, and on what joint streams add.

    Args:
        model: Maps images in 0..1 to outputs; with joint streams a `JointModel`.
        task: Interprets them.
        augmentation: Applied to each micro-batch on the device.
        objective: Weighs the two halves.
        recipe: What the stage is; its settings are a `TrainingConfig`.
        folder: Where a batch that stops the run is saved.
        precision: In which the model computes.
        joint: The streams of other tasks on the same backbone, each with a loss of its own weight.
    """

    remedy = (
        "what usually helps: a lower optimizer.lr or optimizer.gradient_clip (of teacher or student), or a lower "
        "objective.alpha"
    )

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
        joint: Sequence[JointPart] = (),
    ) -> None:
        assert isinstance(recipe.training, TrainingConfig)
        super().__init__(model, recipe, folder, precision=precision, ema_decay=recipe.training.ema_decay)
        self.task, self.augmentation, self.objective, self.joint = task, augmentation, objective, tuple(joint)
        self.report: StepReport | None = None

    @property
    def result(self) -> nn.Module:
        """The task's model that counts: the weight average where there is one, without the heads of joint streams."""
        return task_model(super().result)

    @property
    def whole_result(self) -> JointModel | None:
        """The same with those heads; None without joint streams."""
        found = super().result
        return found if isinstance(found, JointModel) else None

    def prepared(self, batches: list[Batch]) -> Step:
        """Return the batches augmented, with what they are divided by; those of joint streams come last."""
        size = len(batches) // (1 + len(self.joint))
        own = [self.augmented(batch, self.augmentation) for batch in batches[:size]]
        joint = []
        for number, part in enumerate(self.joint, start=1):
            mine = [self.augmented(each, part.augmentation) for each in batches[number * size : (number + 1) * size]]
            joint.append((mine, _denominators(part.task, part.objective, mine)))
        return Step(own, _denominators(self.task, self.objective, own), joint)

    def gradients(self, step: Step) -> Tensor:
        """Return (L_h, L_p), and the loss of each joint stream behind them."""
        total = torch.zeros(2 + len(self.joint), dtype=step.denominators.filled_2.dtype, device=self.device)
        for number, batch in enumerate(step.micro_batches):
            half_2 = self.objective.halves(self._losses(batch), batch.source_B, step.denominators)
            loss, values = self.objective.combine(half_2), [half_2]
            for part, (mine, denominators) in zip(self.joint, step.joint, strict=True):
                own = part.loss(self.model, mine[number], denominators, self.precision)
                loss, values = loss + part.weight * own, [*values, own[None]]
            with nullcontext() if number == len(step.micro_batches) - 1 else self.without_reduction():
                # DDP averages gradients over the ranks; the objective has already divided by the counts of all.
                self.manual_backward(loss * world_size())
            total = total + torch.cat(values).detach()
        return sum_over_ranks(total)

    def remember(self, losses_K: Tensor, gradient_norm: Tensor, rate: float, *, is_finite: bool) -> None:
        """Remember what the step was like, with the ratio it was weighed by."""
        half_2, joint_J = losses_K[:2], losses_K[2:]
        loss = self.objective.combine(half_2)
        for part, own in zip(self.joint, joint_J, strict=True):
            loss = loss + part.weight * own
        ratio, averages_2 = self.objective.ratio, self.objective.averages_2
        self.report = StepReport(half_2, joint_J, ratio, averages_2, loss, gradient_norm, rate, is_finite)

    def taken(self, losses_K: Tensor, step: Step) -> None:
        """Move the averages of the objective."""
        self.objective.update(losses_K[:2], step.denominators)

    def log_values(self) -> dict[str, float]:
        """Return the losses, the ratio and its averages, and how the weights moved."""
        report = self.report
        assert report is not None
        (human, pseudo), (mean_human, mean_pseudo) = report.half_2.tolist(), report.averages_2.tolist()
        return {
            "loss": float(report.loss),
            "human_loss": human,
            "pseudo_loss": pseudo,
            **{f"{p.name}_loss": loss for p, loss in zip(self.joint, report.joint_J.tolist(), strict=True)},
            "ratio": float(report.ratio),
            "human_average": mean_human,
            "pseudo_average": mean_pseudo,
            "gradient_norm": float(report.gradient_norm),
            "learning_rate": report.learning_rate,
        }

    def state(self) -> dict[str, Any]:
        """Return everything the next step depends on, beside its number and the seed."""
        return {**super().state(), "objective": self.objective.state_dict()}

    def restore(self, state: dict[str, Any], *, finished: bool = False) -> None:
        """Take up what `state` returned; a finished training needs no optimiser, and Lightning has made none."""
        super().restore(state, finished=finished)
        self.objective.load_state_dict(state["objective"])

    def batches_of(self, step: Step) -> list[Batch]:
        """Return all batches of a step."""
        return [*step.micro_batches, *(batch for mine, _ in step.joint for batch in mine)]

    def blame(self, step: Step) -> str:
        """Return L_h and L_p of a step, each from its own images alone, and the losses of joint streams.

        In a step the halves are told apart by multiplication with 0 and 1, which turns a NaN of one into one of both.
        """
        values = torch.zeros(2 + len(self.joint), dtype=step.denominators.filled_2.dtype, device=self.device)
        with torch.no_grad():
            for number, batch in enumerate(step.micro_batches):
                losses = self._losses(batch)
                for source in (HUMAN, PSEUDO):
                    own = {name: torch.where(batch.source_B == source, loss, 0.0) for name, loss in losses.items()}
                    values[source] += self.objective.halves(own, batch.source_B, step.denominators)[source]
                for place, (part, (mine, divided)) in enumerate(zip(self.joint, step.joint, strict=True), start=2):
                    values[place] += part.loss(self.model, mine[number], divided, self.precision)
        names = ["human", "pseudo", *(part.name for part in self.joint)]
        shown = zip(names, sum_over_ranks(values).tolist(), strict=True)
        return ", ".join(f"{name} loss {value:g}" for name, value in shown)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.task.losses(forward(self.model, batch.image_B3HW, self.precision), batch.targets)


def _denominators(task: Task[Any, Any], objective: NormalisedObjective, batches: Sequence[Batch]) -> Denominators:
    counts = [task.counts(batch.targets) for batch in batches]
    return objective.denominators(counts, [batch.source_B for batch in batches])
