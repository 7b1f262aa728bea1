"""What is known of one image, by a person or by a teacher, and what a policy decided of it. NumPy only.

Shape letters: H, W = height, width of the frame the labels are given in; N = boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""The class index of a pixel that counts neither in a loss nor in a metric."""

PADDING_LABEL, IGNORE_LABEL = -1, -2
"""Labels of a box that fills up the fixed shape, and of a box that marks a region to ignore or an image whose class is
not known."""

KEEP, IGNORED, DROP = 1, 0, -1
"""What a policy may decide of one prediction: train on it, take it out of the loss, or act as if it were not there."""

HISTOGRAM_BINS = 64
"""Bins of a score histogram over 0..1; also the steps in which pixel confidences are stored."""


@dataclass(frozen=True, slots=True)
class MaskLabels:
    """A class map.

    Attributes:
        classes_HW: uint8, class indices, `IGNORE` where nothing is known.
        scores_HW: float32 in 0..1, or None for a person's labels.
        runners_up_KHW: uint8, the next most probable classes in falling order, or None where one is all that is known.
        runner_up_scores_KHW: float32 in 0..1, their scores.
    """

    KIND: ClassVar[str] = "class maps"
    classes_HW: NDArray[np.uint8]
    scores_HW: NDArray[np.float32] | None = None
    runners_up_KHW: NDArray[np.uint8] | None = None
    runner_up_scores_KHW: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class BoxLabels:
    """Boxes, xyxy in absolute pixels, half-open at pixel edges.

    Attributes:
        boxes_N4: float32.
        labels_N: int64 class indices; `IGNORE_LABEL` marks a region to ignore, whatever it holds.
        scores_N: float32 in 0..1, or None for a person's labels.
        crowds_N: bool, where a box stands for many things of its class that nobody told apart: nothing in it is trained
            on, and an evaluation neither rewards nor punishes what is found there. None: nowhere.
        areas_N: float32, square pixels of the things themselves, which an evaluation tells small from large by. None:
            those of the boxes.
    """

    KIND: ClassVar[str] = "boxes"
    boxes_N4: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    scores_N: NDArray[np.float32] | None = None
    crowds_N: NDArray[np.bool_] | None = None
    areas_N: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.boxes_N4)


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """The class of an image.

    Attributes:
        class_1: int64 [1], its index; `IGNORE_LABEL` where it is not known.
        score_1: float32 [1] in 0..1, or None for a person's label.
    """

    KIND: ClassVar[str] = "classes of whole images"
    class_1: NDArray[np.int64]
    score_1: NDArray[np.float32] | None = None


Labels: TypeAlias = MaskLabels | BoxLabels | ClassLabels


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a policy decided, elementwise, in the shape of the scores it was given.

    Attributes:
        actions: int8, each `KEEP`, `IGNORED` or `DROP`.
        weights: float32 ≥ 0, 1 = counts as much as a person's label.
    """

    actions: NDArray[np.int8]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScoreStatistics:
    """How often each class was predicted (or labelled) at which score.

    Attributes:
        num_images: Images counted.
        images_C: int64, images that hold the class at any score.
        histogram_CS: int64 over (class, score bin), in the task's unit: pixels, boxes or images. A person's label has
            score 1.
        exposure: What the histogram is measured against, so that two sets can be compared: for pixels all that were
            looked at, for boxes the images, for classes the images whose class is known.
    """

    num_images: int
    images_C: NDArray[np.int64]
    histogram_CS: NDArray[np.int64]
    exposure: int

    @property
    def density_CS(self) -> NDArray[np.float64]:
        """The histogram per unit of exposure: shares of all pixels, or boxes per image; 0 where nothing was seen."""
        return self.histogram_CS / max(1, self.exposure)

    def __add__(self, other: ScoreStatistics) -> ScoreStatistics:
        """Return the statistics of both sets of images together."""
        return ScoreStatistics(
            self.num_images + other.num_images,
            self.images_C + other.images_C,
            self.histogram_CS + other.histogram_CS,
            self.exposure + other.exposure,
        )

    @classmethod
    def empty(cls, num_classes: int) -> ScoreStatistics:
        """Return the statistics of no image."""
        return cls(0, np.zeros(num_classes, np.int64), np.zeros((num_classes, HISTOGRAM_BINS), np.int64), 0)

    @classmethod
    def of(
        cls, labels: NDArray[Any], scores: NDArray[Any] | None, num_classes: int, *, exposure: int | None = None
    ) -> ScoreStatistics:
        """Return the statistics of one image.

        Args:
            labels: Class indices of any shape; values outside 0..num_classes-1 are left out.
            scores: Scores in 0..1 of the same shape; None counts as 1.
            num_classes: Number of classes.
            exposure: What the counts are measured against; None is the number of known labels, right for pixels
                and for classes of images.
        """
        known = (labels >= 0) & (labels < num_classes)
        classes = labels[known].astype(np.int64)
        if scores is None:
            bins = np.full(classes.shape, HISTOGRAM_BINS - 1, np.int64)
        else:
            bins = np.minimum((scores[known] * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
        flat = np.bincount(classes * HISTOGRAM_BINS + bins, minlength=num_classes * HISTOGRAM_BINS)
        histogram = flat.reshape(num_classes, HISTOGRAM_BINS).astype(np.int64)
        seen = len(classes) if exposure is None else exposure
        return cls(1, (histogram.sum(1) > 0).astype(np.int64), histogram, seen)

    def scaled(self, factor: float) -> ScoreStatistics:
        """Return what a map would hold at another resolution; a class that is there stays there.

        Args:
            factor: Pixels of the other resolution for each of this one; > 0.
        """
        histogram = np.where(self.histogram_CS > 0, np.maximum(1, np.round(self.histogram_CS * factor)), 0)
        return ScoreStatistics(self.num_images, self.images_C, histogram.astype(np.int64), int(histogram.sum()))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return {
            "num_images": self.num_images,
            "images": self.images_C.tolist(),
            "histogram": self.histogram_CS.tolist(),
            "exposure": self.exposure,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ScoreStatistics:
        """Return what `to_json` wrote."""
        return cls(
            int(values["num_images"]),
            np.array(values["images"], np.int64),
            np.array(values["histogram"], np.int64).reshape(-1, HISTOGRAM_BINS),
            int(values["exposure"]),
        )
