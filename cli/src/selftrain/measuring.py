"""Measuring how fast this machine trains, labels and evaluates: a run in miniature, on the user's own images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selftrain.budget import HUMAN, PSEUDO, Canvas, Speed
from selftrain.data_parts import PARTS, Parts, sources_of
from selftrain.found_data import DataFolder, spread
from selftrain_core.config import RunConfig, parse_config
from selftrain_core.files import write_text
from selftrain_core.goals import Goal
from selftrain_core.progress import Event
from selftrain_core.rounds import self_train

STEPS = 6
_BATCH = 8
_IMAGES = {"labelled": 16, "unlabelled": 3 * _BATCH, "validation": 2 * _BATCH, "test": 2}


class Stopwatch:
    """Notes when a run tells what."""

    def __init__(self) -> None:
        self.told: list[tuple[float, Event]] = []

    def __call__(self, event: Event) -> None:
        """Note an event."""
        self.told.append((time.monotonic(), event))

    def per_image(self, stage: str) -> float:
        """Return the seconds per image between the first and the last progress of a stage, or since it began."""
        points = self._points(stage, "progress")
        if len(points) == 1:  # fewer images than a batch
            points = [*self._points(stage, "started"), *points]
        (first, before), (last, done) = points[0], points[-1]
        return (last - first) / max(1, done - before)

    def starting(self, stage: str) -> float:
        """Return the seconds until a stage's first progress."""
        return self._points(stage, "progress")[0][0] - self._points(stage, "started")[0][0]

    def _points(self, stage: str, kind: str) -> list[tuple[float, int]]:
        return [(when, event.done) for when, event in self.told if event.stage == stage and event.kind == kind]

    def validating(self, stage: str) -> float:
        """Return the seconds of a training's last validation."""
        mine = [(when, event) for when, event in self.told if event.stage == stage]
        end = next(when for when, event in reversed(mine) if event.kind == "score")
        return end - max(when for when, event in mine if event.kind == "progress" and when <= end)


def import_seconds() -> float:
    """Return how long this process took to import what a stage needs; 0 where it had been imported before."""
    started = time.monotonic()
    import selftrain_core.stages  # noqa: F401

    return time.monotonic() - started


def measure(found: DataFolder, parts: Parts, canvas: Canvas, settings: Mapping[str, Any], start: float) -> Speed:
    """Return the speed on one canvas.

    Args:
        found: The data.
        parts: Its parts.
        canvas: Height and width.
        settings: What the run's configuration holds beside data, canvas and lengths.
        start: Seconds that a process takes to import what it needs.

    Raises:
        SelftrainError: The run in miniature ends in an error, as the whole run would.
    """
    with TemporaryDirectory(prefix="selftrain-init-") as name:
        config = _miniature(found, parts, canvas, settings, Path(name))
        watch = Stopwatch()
        self_train(config, Path(name) / "run", watch, goal=Goal("learn"), in_process=True)
    teacher, student, labels = "round-0/teacher", "round-1/student", "round-1/pseudo-labels"
    return Speed(
        supervised=watch.per_image(teacher),
        joint=watch.per_image(student),
        labelling=watch.per_image(labels),
        evaluating=watch.validating(teacher) / len(spread(parts.ids["validation"], _IMAGES["validation"])),
        start=start + watch.starting(labels),  # a model is built and loaded, the first batch read
        reading=found.read_seconds,
    )


def _miniature(found: DataFolder, parts: Parts, canvas: Canvas, settings: Mapping[str, Any], folder: Path) -> RunConfig:
    sources: dict[str, Any] = {}
    expressions = {}
    for part in PARTS:
        # Most that were read show something; a handful that shows nothing would be refused.
        telling = (
            [id_ for id_ in parts.ids[part] if id_ in found.shown and found.shown[id_].any()]
            if part != "unlabelled"
            else []
        )
        chosen: Sequence[str] = spread(telling or parts.ids[part], _IMAGES[part])
        names = []
        for number, (source, ids) in enumerate(sources_of(found, part, chosen)):
            names.append(f"{part}-{number}")
            path = folder / f"{names[-1]}.txt"
            write_text(path, "".join(f"{id_}\n" for id_ in ids))
            sources[names[-1]] = {**source, "list": str(path)}
        expressions[part] = " + ".join(names)
    raw = {
        **settings,
        "canvas": list(canvas),
        "data": {
            "sources": sources,
            **expressions,
            "classes": list(found.classes),
            "allow_missing_classes": True,
        },
        "teacher": {"steps": STEPS, "human": HUMAN},
        "student": {"steps": STEPS // 2, "human": HUMAN, "pseudo": PSEUDO},
        "validate_every_images": 10**9,
        # Without a process that reads ahead, a few steps take what many take on average.
        "device": {"workers": 0, "predict_batch": _BATCH},
    }
    return parse_config(raw, folder)
