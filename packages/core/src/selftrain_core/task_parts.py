"""What a task is made of beside its model: the terms of its loss, its metric, and what writes its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One term of a task's loss. Only the objective divides.

    The term adds ``weight · Σ total / max(1, count_scale · (Σ count + count_offset))`` over all images of a half.
    RetinaNet's class term is ``LossTerm("class", count_offset=1)``, cross-entropy is ``LossTerm("cross_entropy")``.
    """

    name: str
    weight: float = 1.0
    count_scale: float = 1.0
    count_offset: float = 0.0


_PredictionIn = TypeVar("_PredictionIn", contravariant=True)
_LabelsIn = TypeVar("_LabelsIn", contravariant=True)


class TaskMetric(Protocol[_PredictionIn, _LabelsIn]):
    """Sums over images and, in `compute`, over ranks. Each image is given once, to one rank."""

    def update(self, prediction: _PredictionIn, truth: _LabelsIn) -> None:
        """Add one image: its prediction, and its labels at their own resolution."""

    def compute(self) -> dict[str, float]:
        """Return the scores over all images of all ranks, the headline one under `Task.metric_name`."""


class LabelWriter(Protocol[_LabelsIn]):
    """Writes labels as files that people and other tools can use."""

    def write(self, id_: str, labels: _LabelsIn, original: tuple[int, int], image: Path) -> Path | None:
        """Write what is known of one image, and return the file it went into, if it has one of its own.

        Args:
            id_: The image's id.
            labels: In the pixels of the image, or at another resolution of the same picture where they are a map.
            original: (height, width) of the image.
            image: Its file, after whose ending the image is called by others.

        Raises:
            RunError: The disk is full or the folder is not writable.
        """

    def close(self) -> None:
        """Write what belongs to all images together. Nothing is whole before."""
