"""What a segmentation model says of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from selftrain_core.labels import HISTOGRAM_BINS, MaskLabels


@dataclass(frozen=True)
class SegmentationPrediction:
    """Class probabilities over the picture's part of the canvas.

    Attributes:
        probability_CHW: Floating, sums to 1 over C; H, W = `Batch.valid_B2`. On the device that predicted.
        original: (height, width) of the image file's picture.
    """

    probability_CHW: Tensor
    original: tuple[int, int]

    def classes_at(self, size: tuple[int, int]) -> Tensor:
        """Return the most probable class of each pixel at another resolution of the picture, int64 [height, width].

        Probabilities are interpolated, not classes. This is the place that leads back from the canvas.
        """
        resized = functional.interpolate(
            self.probability_CHW[None], size=size, mode="bilinear", align_corners=False, antialias=False
        )
        return resized[0].argmax(0)

    def labels(self) -> MaskLabels:
        """Return the most probable class and its probability, at the canvas' resolution.

        The probability is rounded down to a multiple of 1/64, as the store keeps it: a threshold that is such a
        multiple, as 0.5 is, decides as on the exact number.
        """
        score_HW, class_HW = self.probability_CHW.float().max(0)
        coarse_HW = torch.floor(score_HW * HISTOGRAM_BINS) / HISTOGRAM_BINS
        return MaskLabels(
            class_HW.to(torch.uint8).cpu().numpy(), coarse_HW.clamp(0, 1).cpu().numpy().astype(np.float32)
        )
