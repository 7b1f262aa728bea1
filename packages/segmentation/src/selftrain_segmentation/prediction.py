"""What a segmentation model says of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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
        return self._resized(size).argmax(0)

    def labels_at(self, size: tuple[int, int]) -> MaskLabels:
        """Return the most probable class of each pixel and its probability at another resolution of the picture."""
        score_HW, class_HW = self._resized(size).max(0)
        return MaskLabels(class_HW.to(torch.uint8).cpu().numpy(), score_HW.float().cpu().numpy())

    def _resized(self, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(
            self.probability_CHW[None], size=size, mode="bilinear", align_corners=False, antialias=False
        )[0]

    def labels(self, top_k: int = 1) -> MaskLabels:
        """Return the `top_k` most probable classes and their probabilities, at the canvas' resolution.

        A probability is rounded down to a multiple of 1/64, as the store keeps it: a threshold that is such a
        multiple, as 0.5 is, decides as on the exact number.
        """
        if top_k == 1:
            score_HW, class_HW = self.probability_CHW.float().max(0)
            scores_KHW, classes_KHW = score_HW[None], class_HW[None]
        else:
            scores_KHW, classes_KHW = self.probability_CHW.float().topk(min(top_k, len(self.probability_CHW)), dim=0)
        coarse_KHW = (torch.floor(scores_KHW * HISTOGRAM_BINS) / HISTOGRAM_BINS).clamp(0, 1)
        return from_planes(
            classes_KHW.to(torch.uint8).cpu().numpy(), coarse_KHW.cpu().numpy().astype(np.float32, copy=False)
        )


def from_planes(classes_KHW: NDArray[np.uint8], scores_KHW: NDArray[np.float32]) -> MaskLabels:
    """Return labels whose classes are `classes_KHW` in falling order of their scores."""
    if len(classes_KHW) == 1:
        return MaskLabels(classes_KHW[0], scores_KHW[0])
    return MaskLabels(classes_KHW[0], scores_KHW[0], classes_KHW[1:], scores_KHW[1:])


def planes(labels: MaskLabels) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the classes and scores of `labels` as planes [K, H, W]: the reverse of `from_planes`."""
    assert labels.scores_HW is not None
    if labels.runners_up_KHW is None or labels.runner_up_scores_KHW is None:
        return labels.classes_HW[None], labels.scores_HW[None]
    return (
        np.concatenate([labels.classes_HW[None], labels.runners_up_KHW]),
        np.concatenate([labels.scores_HW[None], labels.runner_up_scores_KHW]),
    )
