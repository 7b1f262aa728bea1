"""The copies of a training's log for other tools."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from selftrain_core.event_files import EventFiles, numbers, write_csv

LINES: list[dict[str, Any]] = [
    {"step": 1, "images_seen": 8, "train": {"loss": 2.0, "skipped_steps": 0}},
    {"step": 10, "images_seen": 80, "train": {"loss": 1.0, "skipped_steps": 0}},
    {"step": 10, "images_seen": 80, "validation": {"miou": 30.5, "iou/a": 30.5}},
    {"step": 20, "images_seen": 160, "train": {"loss": 0.5, "skipped_steps": 1}},
]


def test_a_table_has_one_row_per_step(tmp_path: Path) -> None:
    write_csv(tmp_path / "metrics.csv", LINES)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "step",
        "images_seen",
        "train/loss",
        "train/skipped_steps",
        "validation/iou/a",
        "validation/miou",
    ]
    assert [row["step"] for row in rows] == ["1", "10", "20"]
    assert (rows[1]["train/loss"], rows[1]["validation/miou"]) == ("1.0", "30.5")
    assert rows[2]["validation/miou"] == ""


def test_a_table_of_nothing_is_its_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "metrics.csv", [])
    assert (tmp_path / "metrics.csv").read_text() == "step,images_seen\n"


def test_names_are_the_same_for_every_tool() -> None:
    assert numbers(LINES[2]) == {"validation/miou": 30.5, "validation/iou/a": 30.5}


def test_steps_that_come_again_are_there_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "round-0/teacher"
    first = EventFiles(folder, [])
    for line in LINES:
        first.add(line)
    first.close()
    resumed = EventFiles(folder, LINES[:3])
    resumed.add({**LINES[3], "train": {"loss": 0.25}})
    resumed.close()
    written = EventAccumulator(str(folder))
    written.Reload()
    assert [(event.step, event.value) for event in written.Scalars("train/loss")] == [(8, 2.0), (80, 1.0), (160, 0.25)]
    assert [event.step for event in written.Scalars("validation/miou")] == [80]
