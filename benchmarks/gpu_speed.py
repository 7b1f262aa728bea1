"""Training steps of the paper's models on a CUDA device, at the paper's sizes: ``gpu_speed.py``.

Forward, loss, backward and optimiser in bfloat16 on drawn images with seven boxes each, or on drawn masks; no files
are read. RetinaNet on ResNet-50 is measured by turns with torchvision's own, whose head has no batch norm. Memory is
the most that tensors took, beside what `selftrain plan` counts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from timing import print_table
from torch import Tensor
from torchvision.models.detection import retinanet_resnet50_fpn

from selftrain.recipes.models import MODELS
from selftrain_core.batch import Batch, collate, float_images
from selftrain_core.components import build_model, build_task
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.geometry import Geometry
from selftrain_core.interfaces import Task
from selftrain_core.labels import Labels
from selftrain_core.objective import NormalisedObjective
from selftrain_core.optim import build_optimizer
from selftrain_core.precision import forward
from selftrain_core.recomputation import checkpoint_activations
from selftrain_core.sizing import model_size, plan_memory
from selftrain_core.testing.samples import box_labels, mask_labels, picture, sample

GIGA = 10**9
COCO, VOC = 80, 21
SGD = TrainingConfig(optimizer=OptimizerConfig(name="sgd", lr=1e-3), ema_decay=None)


@dataclass(frozen=True)
class Case:
    """A model to measure.

    Attributes:
        name: For the table.
        model: One of `MODELS`.
        side: Of the canvas.
        images: In a step.
        classes: How many.
        backbone: Where it is not the model's own.
        checkpointing: Whether activations are checkpointed.
    """

    name: str
    model: str
    side: int
    images: int
    classes: int
    backbone: str | None = None
    checkpointing: bool = False

    @property
    def task(self) -> TaskChoice:
        """The task's choice."""
        return TaskChoice.model_validate(MODELS[self.model].task)

    @property
    def body(self) -> BackboneChoice:
        """The backbone's choice."""
        return BackboneChoice.model_validate(
            {"name": self.backbone} if self.backbone else MODELS[self.model].backbone("random")
        )

    @property
    def names(self) -> list[str]:
        """The class names."""
        return [f"class {number}" for number in range(self.classes)]


R50 = Case("RetinaNet R50-FPN, 640²", "r50-retinanet", 640, 32, COCO)
CASES = [
    R50,
    replace(R50, name=f"{R50.name}, activation checkpointing", checkpointing=True),
    Case("SpineNet-49 RetinaNet, 640²", "spinenet-143", 640, 32, COCO, "spinenet/49"),
    Case("EfficientNet-B7 NAS-FPN, 512²", "b7-nas-fpn", 512, 16, VOC),
    Case("EfficientNet-B7 NAS-FPN, 512², activation checkpointing", "b7-nas-fpn", 512, 16, VOC, checkpointing=True),
]


def drawn_batch(task: Task[Any, Any], case: Case, device: str) -> Batch:
    """Return images and targets."""
    square = (case.side, case.side)
    geometry = Geometry.fit(square, square)
    samples = []
    for number in range(case.images):
        labels: Labels
        if case.classes == COCO:
            labels = box_labels(square, case.classes, number, scored=False, count=7)
        else:
            labels = mask_labels(square, case.classes, number, scored=False)
        targets = task.to_targets(labels, None, geometry)
        samples.append(sample(picture(square, number), square, str(number), targets=targets))
    batch = collate(samples).to(device)
    return replace(batch, image_B3HW=float_images(batch.image_B3HW))


def our_step(case: Case, device: str) -> tuple[Callable[[], Tensor], Batch]:
    """Return an optimiser step of ours."""
    task = build_task(case.task, case.names)
    torch.manual_seed(0)
    model = build_model(task, case.body)[0].to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if case.checkpointing:
        checkpoint_activations(model)
    batch = drawn_batch(task, case, device)
    objective = NormalisedObjective(task.terms, alpha=0.0, device=device)
    optimizer = build_optimizer(SGD.optimizer, model)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        divided = objective.denominators([task.counts(batch.targets)], [batch.source_B])
        losses = task.losses(forward(model, batch.image_B3HW, "bf16"), batch.targets)
        loss = objective.combine(objective.halves(losses, batch.source_B, divided))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, batch


def their_step(batch: Batch, side: int, device: str) -> Callable[[], Tensor]:
    """Return an optimiser step of torchvision's RetinaNet on ResNet-50."""
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=COCO, min_size=side, max_size=side)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    images = list(batch.image_B3HW)
    boxes_BN4, label_BN = batch.targets.boxes_BN4, batch.targets.label_BN
    assert boxes_BN4 is not None and label_BN is not None
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0].long()}
        for boxes, labels in zip(boxes_BN4, label_BN, strict=True)
    ]
    optimizer = build_optimizer(SGD.optimizer, model)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16):
            losses = model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def milliseconds(step: Callable[[], object], device: str) -> float:
    """Return how long a step takes on the device."""
    if device == "cpu":
        step()
        return 0.0
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def measure(steps: dict[str, Callable[[], Tensor]], repeats: int, device: str) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each step, called by turns, and the most memory it took, in GB."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, float] = dict.fromkeys(steps, 0.0)
    for number in range(-3, repeats):
        for name, step in steps.items():
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            taken = milliseconds(step, device)
            if device != "cpu":
                memory[name] = (torch.cuda.max_memory_allocated() - before) / GIGA
            if number >= 0:
                times[name].append(taken)
    return {name: (statistics.median(times[name]), memory[name]) for name in steps}


def planned(case: Case) -> float:
    """Return the gigabytes of a step that `selftrain plan` counts beyond weights and the optimiser's averages."""
    size = model_size(
        case.task, case.names, case.body, (case.side, case.side), "bf16", activation_checkpointing=case.checkpointing
    )
    plan = plan_memory(size, SGD, case.images, 10**15, 1)
    return (plan.used_bytes - plan.state_bytes + 4 * size.parameters) / GIGA


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="Two images of 128²: does it run?")
    given = parser.parse_args()
    rows: list[list[object]] = []
    for case in CASES:
        if given.small:
            case = replace(case, side=128, images=2)
        step, batch = our_step(case, given.device)
        steps = {"ours": step}
        if case.model == R50.model and not case.checkpointing:
            steps["torchvision's"] = their_step(batch, case.side, given.device)
        first = {name: float(each()) for name, each in steps.items()}
        assert all(0 < loss < 1000 for loss in first.values()), f"a loss is out of its usual range: {first}"
        for name, (taken, memory) in measure(steps, given.repeats, given.device).items():
            counted = f"{planned(case):.1f}" if name == "ours" else "–"
            title = case.name if name == "ours" else f"torchvision's {R50.name}"
            speed = 1000 * case.images / taken if taken else 0.0
            rows.append([title, case.images, f"{taken:.1f}", f"{speed:.0f}", f"{memory:.1f}", counted])
            print(rows[-1], flush=True)
        del step, steps, batch
        if given.device != "cpu":
            torch.cuda.empty_cache()
    heads = ["model", "images", "ms a step", "images / s", "GB in a step", "counted"]
    if given.device != "cpu":
        print(torch.cuda.get_device_name())
    print_table(f"Steps in bfloat16 on a GPU, median of {given.repeats}", heads, rows)


if __name__ == "__main__":
    main()
