"""Semantic segmentation as selftrain knows it: one class per pixel.

Shape letters: B = images, C = classes, H, W = height, width.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.batch import Batch, Targets
from selftrain_core.correcting import Correcting
from selftrain_core.errors import ConfigError, DataError
from selftrain_core.geometry import Geometry, map_on_canvas
from selftrain_core.interfaces import Backbone, LossTerm, Policy, Task
from selftrain_core.labels import HISTOGRAM_BINS, IGNORE, KEEP, Decisions, MaskLabels, ScoreStatistics
from selftrain_core.legend import palette
from selftrain_core.views import PLAIN_VIEW, View
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.decoder_config import decoder_advice
from selftrain_segmentation.drawing import overlay
from selftrain_segmentation.metric import MeanIoU
from selftrain_segmentation.model import SegmentationModel, resized
from selftrain_segmentation.prediction import SegmentationPrediction, from_planes, planes
from selftrain_segmentation.writing import MaskWriter


class SegmentationTask(Task[MaskLabels, SegmentationPrediction]):
    """Pixel-wise cross-entropy, mean IoU, pseudo labels as class maps with confidence.

    Raises:
        ConfigError: There is one class alone.
    """

    config: SegmentationConfig
    metric_name = "miou"
    unit = "% mIoU"
    quantity = "share of pixels"
    label_type = MaskLabels
    label_files = "masks"
    correcting = Correcting(
        files="one file for each image, under its id, in the pixels of the image",
        left_open="What the policy {policy} did not keep is left open: in a mask such pixels have the value 255.",
        steps="""\
To correct labels: open a file in any tool, change what is wrong, fill in what is left open, and save it in its place,
at its size, as a PNG of class indices (grey or palette, not RGB). Delete what is not to be used.""",
    )
    terms = (LossTerm("cross_entropy"),)

    def __init__(self, config: SegmentationConfig, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        if self.num_classes < 2:
            raise ConfigError(
                f"data.classes names '{self.classes[0]}' alone, so there is nothing to tell apart; add a class for all "
                "that it is not, such as background"
            )
        if self.num_classes > IGNORE:
            raise ConfigError(
                f"data.classes names {self.num_classes} classes; masks hold at most {IGNORE}, since {IGNORE} itself is "
                "ignore"
            )
        self.strides = config.decoder.strides
        self.output_stride = config.decoder.output_stride

    def alternatives(self, offers: Mapping[int | None, tuple[int, ...]]) -> str:
        """Return the decoders that a backbone can feed."""
        return decoder_advice(self.config.decoder, offers)

    def build_model(self, backbone: Backbone) -> nn.Module:
        """Return the decoder over the backbone."""
        return SegmentationModel(backbone, self.config, self.num_classes)

    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return the number of pixels, of those that the loss is of, that are not ignored."""
        assert targets.mask_BHW is not None
        return {"cross_entropy": (self._sampled(targets.mask_BHW) != IGNORE).sum((1, 2)).float()}

    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted cross-entropy summed over each image's pixels.

        A soft label is several classes of one pixel, each with a weight of its own.

        Args:
            outputs: Logits [B,C,H/s,W/s], s being `loss_stride`.
            targets: With `mask_BHW` and `weight_BHW`, and `runners_up_BKHW` with their weights where labels are soft.
        """
        assert targets.mask_BHW is not None and targets.weight_BHW is not None
        class_BHW = self._sampled(targets.mask_BHW).long()
        loss_BHW = functional.cross_entropy(outputs, class_BHW, ignore_index=IGNORE, reduction="none")
        loss_BHW = loss_BHW * self._sampled(targets.weight_BHW)
        if targets.runners_up_BKHW is not None and targets.runner_up_weight_BKHW is not None:
            # The weight is 0 where there is no runner-up; the index only has to be one that exists.
            class_BKHW = self._sampled(targets.runners_up_BKHW).long().clamp(max=self.num_classes - 1)
            loss_BKHW = -functional.log_softmax(outputs, 1).gather(1, class_BKHW)
            loss_BHW = loss_BHW + (loss_BKHW * self._sampled(targets.runner_up_weight_BKHW)).sum(1)
        return {"cross_entropy": loss_BHW.sum((1, 2))}

    def _sampled(self, plane: Tensor) -> Tensor:
        """Return the pixel in the middle of each square of `loss_stride`: classes cannot be averaged."""
        stride = self.config.loss_stride
        return plane[..., stride // 2 :: stride, stride // 2 :: stride]

    def predict(
        self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW
    ) -> list[SegmentationPrediction]:
        """Return class probabilities over each picture's part of the canvas, the mean of those of all views."""
        canvas = (batch.image_B3HW.shape[2], batch.image_B3HW.shape[3])
        total_BCHW: Tensor | None = None
        for view in views:
            images_B3HW = view(batch.image_B3HW)
            logits_BCHW = resized(model(images_B3HW).float(), (images_B3HW.shape[2], images_B3HW.shape[3]))
            seen_BCHW = view.back(logits_BCHW.softmax(1), canvas)
            total_BCHW = seen_BCHW if total_BCHW is None else total_BCHW + seen_BCHW
        assert total_BCHW is not None
        probability_BCHW = total_BCHW if len(views) == 1 else total_BCHW / len(views)
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
        """Return class maps and their scores, each a PNG at canvas resolution with its planes one below the other."""
        return pa.schema([("planes", pa.int8()), ("classes_png", pa.binary()), ("scores_png", pa.binary())])

    def as_labels(self, prediction: SegmentationPrediction, top_k: int = 1) -> MaskLabels:
        """Return the `top_k` most probable classes of each pixel, and their probabilities in 64ths."""
        return prediction.labels(top_k)

    def to_row(self, labels: MaskLabels) -> dict[str, Any]:
        """Return the class maps and their scores in 64ths, each as a PNG."""
        classes_KHW, scores_KHW = planes(labels)
        return {
            "planes": len(classes_KHW),
            "classes_png": _to_png(np.concatenate(classes_KHW)),
            "scores_png": _to_png(np.concatenate((scores_KHW * HISTOGRAM_BINS).astype(np.uint8))),
        }

    def from_row(self, row: Mapping[str, Any]) -> MaskLabels:
        """Return the class maps and their scores."""
        classes, scores = _from_png(row["classes_png"]), _from_png(row["scores_png"]).astype(np.float32)
        scores /= HISTOGRAM_BINS
        shape = (row["planes"], -1, classes.shape[1])
        return from_planes(classes.reshape(shape), scores.reshape(shape))

    def at_original(self, prediction: SegmentationPrediction) -> MaskLabels:
        """Return the most probable classes in the pixels of the image file, with their probabilities."""
        return prediction.labels_at(prediction.original)

    def writer(self, folder: Path) -> MaskWriter:
        """Return what writes class maps into `folder`."""
        return MaskWriter(folder, self.num_classes)

    def written_source(self, images: Path, folder: Path, list_path: Path) -> dict[str, Any]:
        """Return the settings of a source of index masks."""
        paths = {"images": images, "masks": folder, "list": list_path}
        return {"name": "segmentation/index-masks", **{key: str(path) for key, path in paths.items()}}

    def apply(self, labels: MaskLabels, decisions: Decisions) -> MaskLabels:
        """Return the class map with every pixel that is not kept ignored."""
        kept_HW = decisions.actions.reshape(-1, *labels.classes_HW.shape)[0] == KEEP
        return replace(labels, classes_HW=np.where(kept_HW, labels.classes_HW, np.uint8(IGNORE)))

    def to_targets(self, labels: MaskLabels, decisions: Decisions | None, geometry: Geometry) -> Targets:
        """Return the mask and its weights on the canvas; ignored pixels, and all outside the picture, are 255."""
        if labels.scores_HW is None and labels.classes_HW.shape != geometry.original:
            is_turned = labels.classes_HW.shape == geometry.original[::-1]
            remedy = ": turn the mask as the image's EXIF tag says, or save the image upright" if is_turned else ""
            raise DataError(
                f"the mask is {_size(labels.classes_HW.shape)}, its image {_size(geometry.original)}; a mask has its "
                f"image's size (after the image's EXIF rotation){remedy}"
            )
        if labels.runners_up_KHW is not None:
            return _soft_targets(labels, decisions, geometry)
        weights = np.ones(labels.classes_HW.shape, np.float32)
        if decisions is not None:
            labels, weights = self.apply(labels, decisions), decisions.weights
        return Targets(
            mask_BHW=torch.from_numpy(map_on_canvas(labels.classes_HW, geometry, IGNORE)),
            weight_BHW=torch.from_numpy(map_on_canvas(weights, geometry, 0.0)),
        )

    def decide(self, labels: MaskLabels, policy: Policy) -> Decisions:
        """Return the policy's decision on every pixel; with runners-up on each plane of them, [K, H, W]."""
        classes_KHW, scores_KHW = planes(labels)
        if len(classes_KHW) == 1:
            return policy(scores_KHW[0], classes_KHW[0])
        return policy(scores_KHW, classes_KHW)

    def statistics(self, labels: MaskLabels, geometry: Geometry | None = None) -> ScoreStatistics:
        """Return how many pixels of each class the map holds at which score, in pixels of the canvas."""
        found = ScoreStatistics.of(labels.classes_HW, labels.scores_HW, self.num_classes)
        return found if geometry is None else found.scaled(math.prod(geometry.valid) / math.prod(geometry.original))

    def draw(self, image_HW3: NDArray[np.uint8], labels: MaskLabels) -> NDArray[np.uint8]:
        """Return the image under the colours of its classes; ignored pixels are hatched."""
        return overlay(image_HW3, labels.classes_HW)

    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the classes with their colours in palette PNGs; a drawing shows them over grey."""
        colours = [(int(red), int(green), int(blue)) for red, green, blue in palette(self.num_classes)]
        return list(zip(self.classes, colours, strict=True))


def _soft_targets(labels: MaskLabels, decisions: Decisions | None, geometry: Geometry) -> Targets:
    """Return targets in which a pixel has several classes. Where the surest is not kept, none of them is.

    The weights of one pixel sum to 1 at most: two classes that a policy keeps at full weight share the pixel as their
    scores do.
    """
    classes_KHW, scores_KHW = planes(labels)
    weight_KHW = scores_KHW if decisions is None else decisions.weights * (decisions.actions == KEEP)
    is_kept_HW = np.ones(weight_KHW.shape[1:], np.bool_) if decisions is None else decisions.actions[0] == KEEP
    shared_KHW = weight_KHW * scores_KHW
    shared_KHW = shared_KHW / np.maximum(shared_KHW.sum(0), np.finfo(np.float32).tiny)
    weight_KHW = np.where(weight_KHW.sum(0) > 1, shared_KHW, weight_KHW) * is_kept_HW
    classes_KHW = np.where(weight_KHW > 0, classes_KHW, np.uint8(IGNORE))
    classes_KHW[0] = np.where(is_kept_HW, labels.classes_HW, np.uint8(IGNORE))
    masks = [torch.from_numpy(map_on_canvas(plane, geometry, IGNORE)) for plane in classes_KHW]
    weights = [torch.from_numpy(map_on_canvas(plane, geometry, 0.0)) for plane in weight_KHW.astype(np.float32)]
    return Targets(
        mask_BHW=masks[0],
        weight_BHW=weights[0],
        runners_up_BKHW=torch.stack(masks[1:]),
        runner_up_weight_BKHW=torch.stack(weights[1:]),
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]} pixels"


def _to_png(map_HW: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(map_HW).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _from_png(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)
