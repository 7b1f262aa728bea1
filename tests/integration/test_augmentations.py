"""Runs of both tasks with each augmentation: they train, and with another one it is another training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftrain_core.config import RunConfig, parse_config
from selftrain_core.goals import Goal
from selftrain_core.rounds import self_train

STRONG: dict[str, Any] = {"name": "augment/s4", "num_operations": 2, "oversample": 2}
CUSTOM: dict[str, Any] = {
    "name": "augment/custom",
    "sub_policies": [
        [{"operation": "Rotate_BBox"}, {"operation": "Equalize_Only_BBoxes"}],
        [{"operation": "BBox_Cutout"}],
    ],
}


def losses(run: Path) -> list[float]:
    lines = (run / "round-0/teacher/metrics.jsonl").read_text().splitlines()
    return [line["train"]["loss"] for line in map(json.loads, lines) if "train" in line]


@pytest.mark.parametrize("augmentation", ["augment/s1", "augment/s2", "augment/s3", STRONG, CUSTOM], ids=str)
def test_masks(
    shared_squares: Path, configure: Callable[..., RunConfig], tmp_path: Path, augmentation: str | dict[str, Any]
) -> None:
    config = configure(shared_squares, augmentation=augmentation, teacher={"steps": 3})
    self_train(config, tmp_path / "run", goal=Goal("teach"), in_process=True)
    assert losses(tmp_path / "run")
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(tmp_path / "run"))


@pytest.mark.parametrize("augmentation", ["augment/s1", "augment/s2", "augment/s3", STRONG, CUSTOM], ids=str)
def test_boxes(
    shared_box_squares: Path,
    configure_boxes: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    augmentation: str | dict[str, Any],
) -> None:
    settings = {**configure_boxes(shared_box_squares), "augmentation": augmentation}
    settings["teacher"] = {**settings["teacher"], "steps": 3}
    run = tmp_path / "run"
    self_train(parse_config(settings, base_dir=shared_box_squares), run, goal=Goal("teach"), in_process=True)
    assert losses(run)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(run))


def test_another_augmentation_is_another_training(
    shared_squares: Path, configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    found = set()
    for number, augmentation in enumerate(({"name": "augment/s3"}, {"name": "augment/s3", "policy": "v2"}, STRONG)):
        config = configure(shared_squares, augmentation=augmentation, teacher={"steps": 3})
        self_train(config, tmp_path / str(number), goal=Goal("teach"), in_process=True)
        found.add(losses(tmp_path / str(number))[-1])
    assert len(found) == 3
