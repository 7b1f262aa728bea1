"""Trains the tiny model for 20 steps in float64 and writes what came of it: ``FOLDER DEVICES MICRO_BATCHES``.

Run by `test_distributed.py`. With several devices Lightning starts this script again for each further rank.
"""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selftrain_core.accelerators import CpuAccelerator
from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.distributed import rank
from selftrain_core.fitting import fit, silence_lightning
from selftrain_core.geometry import Geometry
from selftrain_core.labels import IGNORE
from selftrain_core.objective import NormalisedObjective
from selftrain_core.progress import Reporter
from selftrain_core.recorder import Recorder
from selftrain_core.samples import StepDataset
from selftrain_core.testing.fakes import Brightness, PixelTask, TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import decisions, draws, mask_labels, picture, sample
from selftrain_core.training import Recipe, TrainingModule

STEPS = 20
NUM_HUMAN = 4
NUM_PSEUDO = (4, 1, 3, 0)
"""Pseudo images of the steps, in turn: cut into four parts, some parts have fewer than others, or none."""
NAN_STEP = 6
SIZES = ((32, 32), (20, 32), (32, 11))


class Streams:
    """Stands for `StepDataset.streams`: `fit` asks for the largest."""

    images_per_step = NUM_HUMAN


class Steps(StepDataset):
    """Steps drawn from keys instead of read from files; shared out as `Plan.share` does."""

    def __init__(self, task: PixelTask, micro_batches: int) -> None:
        self.task, self.micro_batches, self.rank, self.ranks, self.steps = task, micro_batches, 0, 1, STEPS
        self.streams = (Streams(),)  # type: ignore[assignment]

    def fingerprint(self) -> str:
        return "drawn"

    def __getitem__(self, step: int) -> list[Batch]:
        parts, first = self.ranks * self.micro_batches, self.rank * self.micro_batches
        halves = [(HUMAN, NUM_HUMAN), (PSEUDO, NUM_PSEUDO[step % len(NUM_PSEUDO)])]
        return [
            collate([self._one(step, source, n) for source, count in halves for n in range(count)[part::parts]])
            for part in range(first, first + self.micro_batches)
        ]

    def _one(self, step: int, source: int, number: int) -> Batch:
        seed = step * 100 + source * 10 + number
        size = SIZES[seed % len(SIZES)]
        labels = mask_labels(size, 3, seed, scored=source == PSEUDO)
        # From none to all of an image is ignored.
        labels.classes_HW[draws(size, seed, 1).numpy() < (seed % 4) / 3] = IGNORE
        decided = None if source == HUMAN else decisions(labels, weight=0.5 + 0.5 * (number % 2))
        targets = self.task.to_targets(labels, decided, Geometry.fit(size, (32, 32)))
        if (step, source, number) == (NAN_STEP, HUMAN, 0):
            assert targets.weight_BHW is not None
            targets = replace(targets, weight_BHW=torch.full_like(targets.weight_BHW, np.nan))
        return sample(picture(size, seed), (32, 32), str(seed), visit=step, source=source, targets=targets)


def train(folder: Path, devices: int, micro_batches: int) -> TrainingModule:
    """Train, and return the module."""
    silence_lightning()
    task = PixelTask(StrictModel(), ("ground", "red", "green"))
    torch.manual_seed(0)
    model = task.build_model(TinyBackbone(TinyBackboneConfig(width=4), "", task.strides)).double()
    training = TrainingConfig(
        steps=STEPS,
        human=NUM_HUMAN,
        # Not adamw, which forgives a gradient that is wrong by a factor.
        optimizer=OptimizerConfig(name="sgd", lr=0.2, weight_decay=0.01, warmup_steps=3, gradient_clip=0.5),
        ema_decay=0.9,
    )
    recipe = Recipe("round-1/student", seed=5, steps=STEPS, images_per_step=8, training=training)
    objective = NormalisedObjective(task.terms, alpha=0.7, decay=0.9)
    module = TrainingModule(model, task, Brightness(None), objective, recipe, folder)
    recorder = Recorder(
        folder, "accuracy", lambda _: {"accuracy": 0.0}, 40, {}, Reporter(recipe.stage, lambda _: None),
        checkpoint_seconds=1e9,
    )  # fmt: skip
    fit(module, Steps(task, micro_batches), recorder, CpuAccelerator(), devices=devices)
    return module


def main(folder: Path, devices: int, micro_batches: int) -> None:
    """Train, and write each rank's outcome."""
    module = train(folder, devices, micro_batches)
    torch.save(module.state(), folder / f"rank-{rank()}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
