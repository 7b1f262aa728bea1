"""On a CUDA device, where there is one: draws, images, losses and predictions as on a processor, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selftrain_augment.augment import Augment
from selftrain_augment.config import S1Config, S2Config, S3Config, S4Config
from selftrain_core.batch import Batch, float_images
from selftrain_core.components import build_model, build_task
from selftrain_core.config import RunConfig, parse_config
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.interfaces import Task
from selftrain_core.keys import fold
from selftrain_core.objective import NormalisedObjective
from selftrain_core.precision import Precision, forward
from selftrain_core.prediction import evaluating
from selftrain_core.rounds import self_train
from selftrain_core.testing import assert_equal
from selftrain_core.testing.samples import object_batch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.timeout(300),
]

POLICIES = [
    S1Config(),
    S2Config(policy="v1"),
    S3Config(policy="v2"),
    S2Config(policy="v3"),
    S4Config(operations="tf-vision", num_operations=2),
]
LITE = {"name": "timm/tf_efficientnet_lite0", "init": "random"}
TASKS: dict[str, dict[str, Any]] = {
    "boxes": {"name": "detection/retinanet", "head": {"channels": 16, "num_convs": 1}},
    "masks": {"name": "segmentation/semantic", "decoder": {"name": "fpn", "pyramid_channels": 32}},
}


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32 itself: NVIDIA's shorter float would be the only difference there is to see."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("config", POLICIES, ids=lambda config: type(config).__name__)
def test_augments_as_a_processor_does(config: S1Config) -> None:
    augment, batch = Augment(config), object_batch(6)
    there = batch.to("cuda")
    for visit in range(4):
        key_B = fold(7, batch.id_B, batch.visit_B + visit)
        expected, drawn = augment(batch, key_B), augment.parameters(batch, key_B)
        found, drawn_there = augment(there, key_B.cuda()), augment.parameters(there, key_B.cuda())
        for name, values in drawn.items():
            torch.testing.assert_close(drawn_there[name].cpu(), values, rtol=1e-6, atol=1e-6, msg=name)
        # Where a pixel lies a hair left or right of another's edge, rounding decides: a few may be anything.
        differs = (found.image_B3HW.cpu() - expected.image_B3HW).abs() > 5e-3
        assert differs.float().mean() < 1e-3
        ours, theirs = found.targets.to("cpu"), expected.targets
        assert_equal(ours.boxes_BN4, theirs.boxes_BN4, "boxes", atol=1e-3)
        assert_equal(ours.label_BN, theirs.label_BN, "labels")
        assert ours.mask_BHW is not None and theirs.mask_BHW is not None
        assert (ours.mask_BHW.int() - theirs.mask_BHW.int()).bool().float().mean() < 1e-3


def float_batch() -> Batch:
    batch = object_batch(4)
    return replace(batch, image_B3HW=float_images(batch.image_B3HW))


def built(kind: str) -> tuple[Task[Any, Any], nn.Module]:
    task = build_task(TaskChoice.model_validate(TASKS[kind]), ["a", "b", "c"])
    torch.manual_seed(0)
    model = build_model(task, BackboneChoice.model_validate(LITE))[0]
    for part in model.modules():
        if isinstance(part, nn.Dropout2d | nn.Dropout):
            part.p = 0.0  # each device draws in its own way
    return task, model


def step_of(task: Task[Any, Any], model: nn.Module, batch: Batch, precision: Precision) -> tuple[float, Tensor]:
    """Return the loss and every gradient of one step, in one row."""
    objective = NormalisedObjective(task.terms, alpha=1.0, device=batch.image_B3HW.device)
    divided = objective.denominators([task.counts(batch.targets)], [batch.source_B])
    losses = task.losses(forward(model, batch.image_B3HW, precision), batch.targets)
    loss = objective.combine(objective.halves(losses, batch.source_B, divided))
    loss.backward()
    rows = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return float(loss.detach()), torch.cat(rows).double().cpu()


@pytest.mark.parametrize("kind", TASKS)
def test_learns_as_a_processor_does(kind: str) -> None:
    # In float64, for batch norm over few pixels makes percents of float32's rounding, on any device.
    batch = float_batch()
    exact = replace(batch, image_B3HW=batch.image_B3HW.double())
    task, model = built(kind)
    expected, wanted = step_of(task, model.double(), exact, "float32")
    task, model = built(kind)
    found, gradients = step_of(task, model.double().cuda(), exact.to("cuda"), "float32")
    assert found == pytest.approx(expected, rel=1e-8)
    assert float((gradients - wanted).norm() / wanted.norm()) < 1e-6
    task, model = built(kind)
    halved, gradients = step_of(task, model.cuda(), batch.to("cuda"), "bf16")
    assert halved == pytest.approx(expected, rel=0.05)
    assert torch.isfinite(gradients).all()


@pytest.mark.parametrize("kind", TASKS)
def test_predicts_as_a_processor_does(kind: str) -> None:
    batch = float_batch()
    task, model = built(kind)
    with evaluating(model):
        expected = [task.as_labels(prediction) for prediction in task.predict(model, batch)]
    model.cuda()
    with evaluating(model):
        found = [task.as_labels(prediction) for prediction in task.predict(model, batch.to("cuda"))]
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("boxes_N4", "scores_N", "scores_HW"):
            if hasattr(theirs, name):
                torch.testing.assert_close(
                    torch.tensor(getattr(ours, name)), torch.tensor(getattr(theirs, name)), rtol=1e-3, atol=2e-2
                )


def settings_of(kind: str, request: pytest.FixtureRequest) -> RunConfig:
    if kind == "masks":
        config: RunConfig = request.getfixturevalue("configure")(request.getfixturevalue("shared_squares"), **SHORT)
        return config
    data = request.getfixturevalue("shared_box_squares")
    return parse_config({**request.getfixturevalue("configure_boxes")(data), **SHORT}, base_dir=data)


SHORT: dict[str, Any] = {"device": {"accelerator": "accel/cuda", "workers": 1, "precision": "bf16"}}


class InterruptedHereError(Exception):
    """Stands for whatever ends a process in the middle."""


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_in_bf16(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    summary = self_train(settings_of(kind, request), tmp_path / "run")
    names = {model["name"] for model in summary["models"]}
    assert {"teacher", "student"} <= names
    lines = [json.loads(line) for line in (tmp_path / "run/round-1/student/metrics.jsonl").read_text().splitlines()]
    assert all(line["train"]["skipped_steps"] == 0 for line in lines if "train" in line)


def test_an_interrupted_run_goes_on(configure: Callable[..., RunConfig], shared_squares: Path, tmp_path: Path) -> None:
    config = configure(shared_squares, device={"accelerator": "accel/cuda", "workers": 0, "checkpoint_seconds": 0})

    def interrupt(event: Any) -> None:
        if event.kind == "progress" and event.stage == "round-1/student" and event.done >= 4:
            raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        self_train(config, tmp_path / "run", interrupt, in_process=True)
    summary = self_train(config, tmp_path / "run", in_process=True)
    seen = {model["name"]: model["images_seen"] for model in summary["models"] if model["checkpoint"] == "last"}
    assert seen == {"teacher": 24, "student": 24, "baseline": 48}
