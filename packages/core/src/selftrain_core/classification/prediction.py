"""What a classification model says of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from selftrain_core.labels import ClassLabels


@dataclass(frozen=True)
class ClassPrediction:
    """Class probabilities of an image.

    Attributes:
        probability_C: Floating, sums to 1; on the processor.
        original: (height, width) of the image file's picture.
    """

    probability_C: Tensor
    original: tuple[int, int]

    def labels(self) -> ClassLabels:
        """Return the most probable class and its probability."""
        score, index = self.probability_C.max(0)
        return ClassLabels(np.array([int(index)], np.int64), np.array([min(float(score), 1.0)], np.float32))
