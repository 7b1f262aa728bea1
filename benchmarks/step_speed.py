"""An optimiser step of a student, against a bare forward + backward + optimiser step: ``step_speed.py DATA``.

Both take the same batches, already read, and take turns step by step: the bare step is taken while the loop waits for
its next batch. Ours is the whole loop between two batches: augmentation, counts, the normalised loss, gradient
clipping, the check for non-finite numbers, the weight average, Lightning's loop, the log. The first losses are
compared. DATA is ccp10.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import lite0_config, print_table
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.accelerators import CpuAccelerator, prepare_model
from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate
from selftrain_core.components import build_augmentation, build_model, build_task
from selftrain_core.config import DeviceConfig, RunConfig, TrainingConfig
from selftrain_core.config_model import AugmentationChoice
from selftrain_core.data_source import DataSource
from selftrain_core.fitting import fit, silence_lightning
from selftrain_core.images import read_picture
from selftrain_core.index import build_sources
from selftrain_core.interfaces import Task
from selftrain_core.objective import NormalisedObjective
from selftrain_core.optim import build_optimizer
from selftrain_core.progress import Reporter
from selftrain_core.recorder import Recorder
from selftrain_core.samples import StepDataset, one_image
from selftrain_core.stepping import Recipe
from selftrain_core.training import TrainingModule

NUM_HUMAN = NUM_PSEUDO = 8
WARM_UP = 3
"""Steps that are not counted."""


class BareStep:
    """Forward, backward, optimiser step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model.train(), optimizer
        self.first_loss: float | None = None

    def __call__(self, images: Tensor, mask: Tensor, is_human: Tensor) -> None:
        """Take it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss_BHW = functional.cross_entropy(self.model(images), mask, ignore_index=255, reduction="none")
        known_BHW = mask != 255
        human, pseudo = (loss_BHW[half].sum() / known_BHW[half].sum() for half in (is_human, ~is_human))
        loss = (human + pseudo) / 2
        loss.backward()
        self.optimizer.step()
        if self.first_loss is None:
            self.first_loss = float(loss.detach())


class Steps(StepDataset):
    """The same batch for every step; fetching one takes the time, and takes a bare step."""

    def __init__(self, batch: Batch, steps: int, bare: BareStep) -> None:
        self.batch, self.steps, self.bare = batch, steps, bare
        self.streams, self.micro_batches, self.rank, self.ranks = (_Stream(),), 1, 0, 1  # type: ignore[assignment]
        self.images = batch.image_B3HW.float() / 255
        assert batch.targets.mask_BHW is not None
        self.mask = batch.targets.mask_BHW.long()
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._left_at: float | None = None

    def fingerprint(self) -> str:
        """Return what tells these steps from others."""
        return "in memory"

    def __getitem__(self, step: int) -> list[Batch]:
        """Return a step."""
        came = time.perf_counter()
        if self._left_at is not None:
            self.ours.append(came - self._left_at)
        self.bare(self.images, self.mask, self.batch.source_B == HUMAN)
        self._left_at = time.perf_counter()
        self.theirs.append(self._left_at - came)
        return [self.batch]


class _Stream:
    images_per_step = NUM_HUMAN


class Losses(Recorder):
    """Keeps the first loss."""

    first: float | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the step, then do what a recorder does."""
        if self.first is None:
            self.first = float(pl_module.report.loss)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def configure(data: Path) -> RunConfig:
    """Return the configuration, of which the images are read."""
    masks = {"name": "segmentation/index-masks", "images": str(data / "images"), "masks": str(data / "masks")}
    sources = {name: {**masks, "list": str(data / f"splits/{name}.txt")} for name in ("train", "val", "test")}
    return lite0_config(data, sources, "train", data)


def read_batch(config: RunConfig, task: Task[Any, Any]) -> Batch:
    """Return a batch of labelled photos, of which the second half counts as pseudo-labelled."""
    source: DataSource = build_sources(config.data, task.classes)["train"]
    samples = []
    for number, entry in zip(range(NUM_HUMAN + NUM_PSEUDO), source.scan(), strict=False):
        labels = source.read_labels(entry)
        samples.append(
            one_image(
                read_picture(entry.path),
                config.canvas,
                entry.id,
                source=HUMAN if number < NUM_HUMAN else PSEUDO,
                targets=lambda geometry, labels=labels: task.to_targets(labels, None, geometry),  # type: ignore[misc]
            )
        )
    return collate(samples)


def measure(config: RunConfig, name: str, augmentation: str, extras: bool, steps: int, folder: Path) -> list[object]:
    """Return the line of one kind of step."""
    task = build_task(config.task, config.data.class_names())
    torch.manual_seed(0)
    model, backbone = build_model(task, config.backbone)
    backbone.initialise("imagenet")
    for part in model.modules():
        if isinstance(part, (nn.Dropout, nn.Dropout2d)):
            part.p = 0.0  # so that both steps have one loss
    model = prepare_model(model, CpuAccelerator(), DeviceConfig())
    training = TrainingConfig(steps=steps)
    if not extras:
        optimizer = training.optimizer.model_copy(update={"gradient_clip": None})
        training = training.model_copy(update={"ema_decay": None, "optimizer": optimizer})
    other = copy.deepcopy(model)
    dataset = Steps(read_batch(config, task), steps, BareStep(other, build_optimizer(training.optimizer, other)))
    recipe = Recipe("round-1/student", 0, steps, NUM_HUMAN + NUM_PSEUDO, training)
    module = TrainingModule(
        model, task, build_augmentation(AugmentationChoice.of(augmentation)),
        NormalisedObjective(task.terms, alpha=1.0), recipe, folder,
    )  # fmt: skip
    recorder = Losses(
        folder, task.metric_name, lambda _: {task.metric_name: 0.0}, 10**9, {}, Reporter("step", lambda _: None),
        checkpoint_seconds=1e9,
    )  # fmt: skip
    fit(module, dataset, recorder, CpuAccelerator(), workers=0)
    assert module.skipped_steps == 0
    if augmentation == "core/none":
        assert recorder.first is not None and dataset.bare.first_loss is not None
        assert abs(recorder.first - dataset.bare.first_loss) < 1e-4 * dataset.bare.first_loss, "losses differ"
    ours, theirs = statistics.median(dataset.ours[WARM_UP:]), statistics.median(dataset.theirs[WARM_UP:])
    return [name, 1000 * theirs, 1000 * ours, ours / theirs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    silence_lightning()
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    config = configure(given.data.resolve())
    kinds = [
        ("no augmentation", "core/none", True),
        ("no augmentation, no weight average, no clipping", "core/none", False),
        ("Augment-S1", "augment/s1", True),
    ]
    rows = []
    for name, augmentation, extras in kinds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(config, name, augmentation, extras, given.steps, Path(folder)))
    title = f"Step: {NUM_HUMAN} + {NUM_PSEUDO} images, 160×96, lite0 + FPN, AdamW, median of {given.steps - WARM_UP}"
    print_table(title, ["", "bare ms", "ours ms", "ours / bare"], rows)


if __name__ == "__main__":
    main()
