"""Training on steps that are drawn from keys instead of read from files: in this process, or on several ranks.

A test of several ranks has a script of its own that says what is trained and calls `main`; with several devices
Lightning starts that script again for each further rank.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selftrain_core.accelerators import CpuAccelerator
from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate
from selftrain_core.config import TrainingConfig
from selftrain_core.distributed import rank
from selftrain_core.fitting import fit, silence_lightning
from selftrain_core.interfaces import Augmentation, Task
from selftrain_core.objective import NormalisedObjective
from selftrain_core.progress import Reporter
from selftrain_core.recorder import Recorder, Validation
from selftrain_core.samples import StepDataset
from selftrain_core.stepping import Recipe
from selftrain_core.testing.fakes import Brightness
from selftrain_core.training import TrainingModule

Draw = Callable[[int, int, int], Batch]
"""Makes one image of (step, `HUMAN` or `PSEUDO`, number within the half)."""


@dataclass(frozen=True)
class Drawn:
    """What is trained, and on what.

    Attributes:
        task: The task.
        model: Its model; changed in place.
        draw: Makes the images.
        training: With ``human`` images and the number of steps.
        pseudo: Pseudo images of the steps, in turn.
        alpha: Weight of the pseudo half.
        augmentation: Of all images.
    """

    task: Task[Any, Any]
    model: nn.Module
    draw: Draw
    training: TrainingConfig
    pseudo: tuple[int, ...] = (0,)
    alpha: float = 0.7
    augmentation: Augmentation = field(default_factory=lambda: Brightness(None))


@dataclass(frozen=True)
class _Stream:
    images_per_step: int


@dataclass(frozen=True)
class _Group:
    """Stands for one of `StepDataset.groups`: `fit` asks for the largest stream."""

    streams: tuple[_Stream, ...]


class DrawnSteps(StepDataset):
    """The steps of `drawn`, shared out as `Plan.share` does."""

    def __init__(self, drawn: Drawn, micro_batches: int) -> None:
        self.drawn, self.micro_batches, self.rank, self.ranks = drawn, micro_batches, 0, 1
        self.steps = drawn.training.steps
        self.groups = (_Group((_Stream(drawn.training.human),)),)  # type: ignore[assignment]

    def fingerprint(self) -> str:
        """Return the same for every rank."""
        return "drawn"

    def __getitem__(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of a step."""
        drawn, parts, first = self.drawn, self.ranks * self.micro_batches, self.rank * self.micro_batches
        halves = [(HUMAN, drawn.training.human), (PSEUDO, drawn.pseudo[step % len(drawn.pseudo)])]
        return [
            collate([drawn.draw(step, source, n) for source, count in halves for n in range(count)[part::parts]])
            for part in range(first, first + self.micro_batches)
        ]


def train(drawn: Drawn, folder: Path, *, devices: int = 1, micro_batches: int = 1) -> TrainingModule:
    """Train on the processor, with a checkpoint every five steps, and return the module.

    Args:
        drawn: What to train.
        folder: Where the log and a checkpoint are left.
        devices: Ranks, of which this process is one.
        micro_batches: Parts into which each rank cuts its share.
    """
    silence_lightning()
    per_step = drawn.training.human + max(drawn.pseudo)
    recipe = Recipe("round-1/student", 5, drawn.training.steps, per_step, drawn.training)
    objective = NormalisedObjective(drawn.task.terms, alpha=drawn.alpha, decay=0.9)
    module = TrainingModule(drawn.model, drawn.task, drawn.augmentation, objective, recipe, folder)
    name = drawn.task.metric_name
    recorder = Recorder(
        folder, Validation(name, lambda _: {name: 0.0}, 5 * per_step), {},
        Reporter(recipe.stage, lambda _: None), checkpoint_seconds=1e9,
    )  # fmt: skip
    fit(module, DrawnSteps(drawn, micro_batches), recorder, CpuAccelerator(), devices=devices)
    return module


def spoilt(drawn: Batch) -> Batch:
    """Return an image whose labels weigh what is no number: no step with it can be taken."""
    weights = {
        name: torch.full_like(weight, torch.nan)
        for name in ("weight_BHW", "weight_BN", "class_weight_B")
        if (weight := getattr(drawn.targets, name)) is not None
    }
    return replace(drawn, targets=replace(drawn.targets, **weights))


def main(make: Callable[[], Drawn]) -> None:
    """Train as the command line says, ``FOLDER DEVICES MICRO_BATCHES``, and write each rank's outcome."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    module = train(make(), folder, devices=int(sys.argv[2]), micro_batches=int(sys.argv[3]))
    torch.save(module.state(), folder / f"rank-{rank()}.pt")


def on_ranks(script: Path, folder: Path, devices: int, micro_batches: int) -> Iterator[dict[str, Any]]:
    """Run a script that calls `main`, and yield the outcome of each rank.

    Raises:
        AssertionError: It failed; the message is what it said.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PL_", "MASTER_"))}
    command = [sys.executable, str(script), str(folder), str(devices), str(micro_batches)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield from (torch.load(folder / f"rank-{number}.pt", weights_only=True) for number in range(devices))
