"""From a model's outputs to boxes in the pixels of the image file.

Shape letters: B = images, A = anchors of all levels, C = classes, N = boxes. Everything here is float32, whatever the
model computes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from selftrain_core.batch import Batch
from selftrain_core.labels import BoxLabels
from selftrain_core.views import View
from selftrain_detection.boxes import clip, decode
from selftrain_detection.config import BoxPredictionConfig
from selftrain_detection.model import RetinaNetOutputs
from selftrain_detection.suppression import (
    ScoredBoxes,
    nms,
    soft_nms,
    soft_nms_tensorflow,
    together,
    weighted_boxes_fusion,
)

_LOGIT_SLACK = 1e-3
"""More than what a sigmoid is rounded by."""


@dataclass(frozen=True)
class BoxPrediction:
    """What a detection model says of one image, on the device that predicted.

    Attributes:
        boxes_N4: float32 xyxy, in the pixels of the image file, inside the image; each has an area.
        scores_N: float32 in 0..1, in falling order.
        labels_N: int64 class indices.
        original: (height, width) of the image file's picture.
    """

    boxes_N4: Tensor
    scores_N: Tensor
    labels_N: Tensor
    original: tuple[int, int]

    def labels(self) -> BoxLabels:
        """Return the boxes as scored labels, on the CPU."""
        # One copy: a class index is exact in float32.
        table_N6 = torch.cat([self.boxes_N4, self.scores_N[:, None], self.labels_N[:, None].float()], 1).cpu().numpy()
        return BoxLabels(table_N6[:, :4].copy(), table_N6[:, 5].astype(np.int64), table_N6[:, 4].copy())


@torch.no_grad()
def detect(model: nn.Module, batch: Batch, views: Sequence[View], config: BoxPredictionConfig) -> list[BoxPrediction]:
    """Return the best boxes of each image (Zoph et al. 2020 and the code released with it: per class and then overall).

    A score is a sigmoid, so a place may show several classes. In each view, boxes overlapping better ones of their
    class are suppressed; then the views are merged, and the best of all classes are kept.

    Args:
        model: Returns `RetinaNetOutputs` for images.
        batch: Floating images.
        views: At least one; how the model looks at each image.
        config: What is kept.
    """
    canvas = (batch.image_B3HW.shape[2], batch.image_B3HW.shape[3])
    valid, original = batch.valid_B2.tolist(), batch.original_B2.tolist()
    found_BV: list[list[ScoredBoxes]] = [[] for _ in valid]
    for view in views:
        outputs: RetinaNetOutputs = model(view(batch.image_B3HW))
        for image, picture in enumerate(valid):
            boxes = _above_floor(outputs, image, config)
            on_canvas_N4 = clip(_from_view(boxes.boxes_N4, view, canvas), picture[0], picture[1])
            boxes = _with_area(ScoredBoxes(on_canvas_N4, boxes.scores_N, boxes.labels_N))
            found_BV[image].append(_suppressed(boxes, config))
    predictions = []
    for found_V, matrix_23, (height, width) in zip(found_BV, batch.matrix_B23.tolist(), original, strict=True):
        merged = _merged(found_V, config).best(config.max_detections)
        boxes_N4 = clip(to_original(merged.boxes_N4, matrix_23), height, width)
        kept = _with_area(ScoredBoxes(boxes_N4, merged.scores_N, merged.labels_N))
        predictions.append(BoxPrediction(kept.boxes_N4, kept.scores_N, kept.labels_N, (height, width)))
    return predictions


def to_original(boxes_N4: Tensor, matrix_23: Sequence[Sequence[float]]) -> Tensor:
    """Return boxes on the canvas in original pixels.

    Args:
        boxes_N4: float32 xyxy.
        matrix_23: Of `Batch.matrix_B23`, original pixels → canvas: a scale of each axis, which may mirror it, and a
            shift. Boxes stay boxes under nothing else.

    Raises:
        ValueError: The matrix turns or shears.
    """
    (scale_x, shear_x, shift_x), (shear_y, scale_y, shift_y) = matrix_23
    if shear_x or shear_y:
        raise ValueError(f"a box cannot be led back through a matrix that turns or shears: {matrix_23}")
    shift_4, scale_4 = ([pair[0], pair[1]] * 2 for pair in ((shift_x, shift_y), (scale_x, scale_y)))
    corners_N22 = ((boxes_N4 - boxes_N4.new_tensor(shift_4)) / boxes_N4.new_tensor(scale_4)).unflatten(1, (2, 2))
    return torch.cat([corners_N22.amin(1), corners_N22.amax(1)], 1)


def _above_floor(outputs: RetinaNetOutputs, image: int, config: BoxPredictionConfig) -> ScoredBoxes:
    """Return the decoded boxes of one image with a score above the floor, the best `candidates` of each class."""
    logits_AC = outputs.logits_BAC[image].float()
    # Most are far below: leave them out before anything is computed of them.
    least = math.log(config.floor / (1 - config.floor)) - _LOGIT_SLACK if config.floor > 0 else -math.inf
    anchor_N, label_N = (logits_AC > least).nonzero(as_tuple=True)
    score_N = logits_AC[anchor_N, label_N].sigmoid()
    kept_N = score_N > config.floor
    anchor_N, label_N, score_N = anchor_N[kept_N], label_N[kept_N], score_N[kept_N]
    best_N = _best_of_each_class(score_N, label_N, config.candidates)
    anchor_N = anchor_N[best_N]
    boxes_N4 = decode(outputs.deltas_BA4[image, anchor_N].float(), outputs.anchors_A4[anchor_N].float())
    return ScoredBoxes(boxes_N4, score_N[best_N], label_N[best_N])


def _best_of_each_class(score_N: Tensor, label_N: Tensor, limit: int) -> Tensor:
    """Return the places of the `limit` highest scores of each class; of equal ones, those of the first anchors."""
    by_score_N = score_N.argsort(descending=True, stable=True)
    by_class_N = by_score_N[label_N[by_score_N].argsort(stable=True)]
    sorted_N = label_N[by_class_N]
    rank_N = torch.arange(len(sorted_N), device=sorted_N.device) - torch.searchsorted(sorted_N, sorted_N)
    return by_class_N[rank_N < limit]


def _from_view(boxes_N4: Tensor, view: View, canvas: tuple[int, int]) -> Tensor:
    """Return boxes that were found in what `view` shows on the canvas of (height, width) `canvas`."""
    height, width = view.size(*canvas)
    if view.flip:
        # Padding is mirrored with the picture, so the axis is in the middle of the canvas.
        x0_N, y0_N, x1_N, y1_N = boxes_N4.unbind(1)
        boxes_N4 = torch.stack([width - x1_N, y0_N, width - x0_N, y1_N], 1)
    if (height, width) == canvas:
        return boxes_N4
    # Sides are rounded to multiples of 32, so the scales of the axes differ.
    across, down = canvas[1] / width, canvas[0] / height
    return boxes_N4 * boxes_N4.new_tensor([across, down, across, down])


def _with_area(found: ScoredBoxes) -> ScoredBoxes:
    x0_N, y0_N, x1_N, y1_N = found.boxes_N4.unbind(1)
    return found[(x1_N > x0_N) & (y1_N > y0_N)]  # a coordinate that is no number has none either


def _suppressed(found: ScoredBoxes, config: BoxPredictionConfig) -> ScoredBoxes:
    """Return what is left of one view's boxes, the best `max_detections` of all classes."""
    limit, floor = config.max_detections, config.floor
    if config.suppression == "soft_nms":
        return soft_nms(found, sigma=config.sigma, floor=floor, limit=limit)
    if config.suppression == "soft_nms_tensorflow":
        iou = config.hard_iou
        return soft_nms_tensorflow(found, sigma=config.sigma, iou_threshold=iou, floor=floor, limit=limit)
    return nms(found, config.hard_iou, limit) if config.suppression == "nms" else found.best(limit)


def _merged(found_V: Sequence[ScoredBoxes], config: BoxPredictionConfig) -> ScoredBoxes:
    if len(found_V) == 1:
        return found_V[0]
    if config.merging == "weighted_boxes_fusion":
        return weighted_boxes_fusion(found_V, iou_threshold=config.fusion_iou, floor=config.floor)
    return nms(together(found_V), config.fusion_iou, config.max_detections)
