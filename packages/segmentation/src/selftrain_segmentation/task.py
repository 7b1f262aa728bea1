"""Semantic segmentation as selftrain knows it: one class per pixel.

Shape letters: B = images, C = classes, H, W = height, width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.batch import Batch, Targets
from selftrain_core.errors import DataError
from selftrain_core.geometry import Geometry, map_on_canvas
from selftrain_core.interfaces import Backbone, LossTerm, Policy, Task
from selftrain_core.labels import HISTOGRAM_BINS, IGNORE, KEEP, Decisions, MaskLabels, ScoreStatistics
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.drawing import overlay
from selftrain_segmentation.metric import MeanIoU
from selftrain_segmentation.model import SegmentationModel
from selftrain_segmentation.prediction import SegmentationPrediction


class SegmentationTask(Task[MaskLabels, SegmentationPrediction]):
    """Pixel-wise cross-entropy, mean IoU, pseudo labels as class maps with confidence."""

    config: SegmentationConfig
    metric_name = "miou"
    unit = "% mIoU"
    strides = (4, 8, 16, 32)
    terms = (LossTerm("cross_entropy"),)

    def build_model(self, backbone: Backbone) -> nn.Module:
        """Return the decoder over the backbone."""
        return SegmentationModel(backbone, self.config, self.num_classes)

    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return the number of pixels that are not ignored."""
        assert targets.mask_BHW is not None
        return {"cross_entropy": (targets.mask_BHW != IGNORE).sum((1, 2)).float()}

    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted cross-entropy summed over each image's pixels.

        Args:
            outputs: Logits [B,C,H,W].
            targets: With `mask_BHW` and `weight_BHW`.
        """
        assert targets.mask_BHW is not None and targets.weight_BHW is not None
        loss_BHW = functional.cross_entropy(outputs, targets.mask_BHW.long(), ignore_index=IGNORE, reduction="none")
        return {"cross_entropy": (loss_BHW * targets.weight_BHW).sum((1, 2))}

    def predict(self, model: nn.Module, batch: Batch) -> list[SegmentationPrediction]:
        """Return class probabilities over each picture's part of the canvas."""
        probability_BCHW = model(batch.image_B3HW).float().softmax(1)
        return [
            SegmentationPrediction(probability_CHW[:, :height, :width], (original[0], original[1]))
            for probability_CHW, (height, width), original in zip(
                probability_BCHW, batch.valid_B2.tolist(), batch.original_B2.tolist(), strict=True
            )
        ]

    def metric(self, device: torch.device) -> MeanIoU:
        """Return a fresh mean IoU."""
        return MeanIoU(self.classes, device)

    def row_schema(self) -> pa.Schema:
        """Return the class map and its confidence, each a PNG at canvas resolution."""
        return pa.schema([("classes_png", pa.binary()), ("scores_png", pa.binary())])

    def to_row(self, prediction: SegmentationPrediction) -> dict[str, Any]:
        """Return the most probable class of each pixel, and its probability in 64ths."""
        labels = prediction.labels()
        assert labels.scores_HW is not None
        scores = (labels.scores_HW * HISTOGRAM_BINS).astype(np.uint8)
        return {"classes_png": _to_png(labels.classes_HW), "scores_png": _to_png(scores)}

    def from_row(self, row: Mapping[str, Any]) -> MaskLabels:
        """Return the class map and its scores."""
        scores = _from_png(row["scores_png"]).astype(np.float32)
        scores /= HISTOGRAM_BINS
        return MaskLabels(_from_png(row["classes_png"]), scores)

    def as_labels(self, prediction: SegmentationPrediction) -> MaskLabels:
        """Return the most probable classes with their scores."""
        return prediction.labels()

    def apply(self, labels: MaskLabels, decisions: Decisions) -> MaskLabels:
        """Return the class map with every pixel that is not kept ignored."""
        return MaskLabels(np.where(decisions.actions == KEEP, labels.classes_HW, np.uint8(IGNORE)), labels.scores_HW)

    def to_targets(self, labels: MaskLabels, decisions: Decisions | None, geometry: Geometry) -> Targets:
        """Return the mask and its weights on the canvas; ignored pixels, and all outside the picture, are 255."""
        if labels.scores_HW is None and labels.classes_HW.shape != geometry.original:
            raise DataError(
                f"the mask is {_size(labels.classes_HW.shape)}, its image {_size(geometry.original)}; a mask has its "
                "image's size (after the image's EXIF rotation)"
            )
        weights = np.ones(labels.classes_HW.shape, np.float32)
        if decisions is not None:
            labels, weights = self.apply(labels, decisions), decisions.weights
        return Targets(
            mask_BHW=torch.from_numpy(map_on_canvas(labels.classes_HW, geometry, IGNORE)),
            weight_BHW=torch.from_numpy(map_on_canvas(weights, geometry, 0.0)),
        )

    def decide(self, labels: MaskLabels, policy: Policy) -> Decisions:
        """Return the policy's decision on every pixel."""
        assert labels.scores_HW is not None
        return policy(labels.scores_HW, labels.classes_HW)

    def statistics(self, labels: MaskLabels) -> ScoreStatistics:
        """Return how many pixels of each class the map holds at which score."""
        return ScoreStatistics.of(labels.classes_HW, labels.scores_HW, self.num_classes)

    def draw(self, image_HW3: NDArray[np.uint8], labels: MaskLabels) -> NDArray[np.uint8]:
        """Return the image under the colours of its classes; ignored pixels are hatched."""
        return overlay(image_HW3, labels.classes_HW)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]} pixels"


def _to_png(map_HW: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(map_HW).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _from_png(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)
