"""Accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from selftrain_core.classification.prediction import ClassPrediction
from selftrain_core.distributed import sum_over_ranks
from selftrain_core.labels import IGNORE_LABEL, ClassLabels


class Accuracy:
    """The share of images whose most probable class is theirs, over all images and ranks, in percent.

    Images whose class is not known are passed over.

    Args:
        classes: Ordered class names.
        device: Where ranks add up.
    """

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = tuple(classes)
        self._device = device
        self._right_and_all_2C = torch.zeros(2, len(self.classes), dtype=torch.int64)

    def update(self, prediction: ClassPrediction, truth: ClassLabels) -> None:
        """Count one image."""
        known = int(truth.class_1[0])
        if known != IGNORE_LABEL:
            self._right_and_all_2C[0, known] += int(prediction.probability_C.argmax()) == known
            self._right_and_all_2C[1, known] += 1

    def compute(self) -> dict[str, float]:
        """Return ``top1``, 0 where there is no image, and ``top1/<class>`` of each class that the truth holds."""
        right_C, all_C = sum_over_ranks(self._right_and_all_2C.to(self._device)).tolist()
        of_class = zip(self.classes, right_C, all_C, strict=True)
        return {
            "top1": 100 * sum(right_C) / max(1, sum(all_C)),
            **{f"top1/{name}": 100 * right / count for name, right, count in of_class if count},
        }
