"""What becomes of boxes that show the same thing: taken out, given less score, or averaged.

Shape letters: N = boxes, K = averages. Boxes are xyxy and must have an area. Each function returns scores in falling
order; of equal scores the box given first comes first, so that the same input has the same output everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

_FIRST_LOOK = 8
"""Boxes that hard suppression looks at first, for each that is wanted."""


@dataclass(frozen=True, slots=True)
class ScoredBoxes:
    """Boxes of one image with their scores and classes.

    Attributes:
        boxes_N4: float32, xyxy.
        scores_N: float32 in 0..1.
        labels_N: int64 class indices.
    """

    boxes_N4: Tensor
    scores_N: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.scores_N)

    def __getitem__(self, index: Tensor | slice) -> ScoredBoxes:
        """Return the boxes that `index` picks: places, a bool for each box, or a slice."""
        return ScoredBoxes(self.boxes_N4[index], self.scores_N[index], self.labels_N[index])

    def best(self, limit: int) -> ScoredBoxes:
        """Return the `limit` boxes with the highest scores, in falling order."""
        return self[self.scores_N.argsort(descending=True, stable=True)[:limit]]


def together(parts: Sequence[ScoredBoxes]) -> ScoredBoxes:
    """Return the boxes of all `parts`, which are at least one, in their order."""
    return ScoredBoxes(
        torch.cat([part.boxes_N4 for part in parts]),
        torch.cat([part.scores_N for part in parts]),
        torch.cat([part.labels_N for part in parts]),
    )


def nms(found: ScoredBoxes, iou_threshold: float, limit: int) -> ScoredBoxes:
    """Return the boxes that no better box of their class overlaps.

    Args:
        found: In any order.
        iou_threshold: A box is taken out where its IoU with a better one that stays is higher than this.
        limit: At most so many boxes are returned, of all classes together.
    """
    ordered, count = found.best(len(found)), _FIRST_LOOK * limit
    while True:
        # What becomes of a box hangs on better ones alone, so the worse ones wait until they are needed: rarely.
        head = ordered[:count]
        kept = head[batched_nms(head.boxes_N4, head.scores_N, head.labels_N, iou_threshold)]
        if len(kept) >= limit or count >= len(ordered):
            return kept[:limit]
        count *= _FIRST_LOOK


def soft_nms(found: ScoredBoxes, *, sigma: float, floor: float, limit: int) -> ScoredBoxes:
    """Return the boxes after Soft-NMS in its original form (Bodla et al. 2017): scores times exp(−IoU² / σ).

    Args:
        found: In any order.
        sigma: σ; the larger, the less is taken away. Bodla et al. take 0.5.
        floor: Boxes whose score has fallen to this or below are gone.
        limit: At most so many boxes are returned, of all classes together.
    """
    return _soft_nms(found, -1 / sigma, math.inf, floor, limit)


def soft_nms_tensorflow(
    found: ScoredBoxes, *, sigma: float, iou_threshold: float, floor: float, limit: int
) -> ScoredBoxes:
    """Return the boxes after Soft-NMS in TensorFlow's form: scores times exp(−IoU² / (2σ)), and hard NMS beside it.

    The same σ is twice as soft here as in `soft_nms`. The paper's 0.3 (Zoph et al. 2020, §3.2) is of this form.

    Args:
        found: In any order.
        sigma: σ; the larger, the less is taken away.
        iou_threshold: A box is taken out where its IoU with a better one is higher than this; 1 takes none out. With
            that of hard NMS, this would be hard NMS with less score for what stays.
        floor: Boxes whose score has fallen to this or below are gone.
        limit: At most so many boxes are returned, of all classes together.
    """
    return _soft_nms(found, -0.5 / sigma, iou_threshold, floor, limit)


def _soft_nms(found: ScoredBoxes, scale: float, iou_threshold: float, floor: float, limit: int) -> ScoredBoxes:
    """Take the best box and weaken the others of its class, again and again.

    All classes go at once: a score only ever falls, so the best of all that are left is also the best of its class,
    and boxes are taken in falling order. The loop asks the device for nothing, so a GPU never waits in it.
    """
    scores_N = found.scores_N.clone()
    picks, taken = [], []
    for _ in range(min(limit, len(found))):
        pick_1 = scores_N.argmax(0, keepdim=True)
        picks.append(pick_1)
        taken.append(scores_N[pick_1])
        iou_N = box_iou(found.boxes_N4[pick_1], found.boxes_N4)[0]
        weight_N = torch.where(iou_N > iou_threshold, 0.0, torch.exp(scale * iou_N.square()))
        scores_N = torch.where(found.labels_N == found.labels_N[pick_1], scores_N * weight_N, scores_N)
        scores_N[pick_1] = -1.0  # taken: below every score there is
    if not picks:
        return found
    place_N = torch.cat(picks)
    kept = ScoredBoxes(found.boxes_N4[place_N], torch.cat(taken), found.labels_N[place_N])
    return kept[kept.scores_N > floor]


def weighted_boxes_fusion(views: Sequence[ScoredBoxes], *, iou_threshold: float, floor: float) -> ScoredBoxes:
    """Return what several views of one image say together (Solovyev et al. 2019): averages of boxes, not the best ones.

    From the best box to the worst, each joins the average of its class that it overlaps most, or begins a new one. An
    average weighs coordinates by score. Its score is the mean of its boxes' scores, times the share of the views that
    they can have come from: min(boxes, views) / views.

    Args:
        views: At least one; each view's boxes, suppressed already.
        iou_threshold: A box joins an average where their IoU is higher than this.
        floor: Averages with this score or less are gone.
    """
    found = together(views)
    ordered = found.best(len(found))
    # On the CPU: what each box does hangs on what the one before it did, and a GPU would only wait. NumPy, since
    # steps of few numbers cost mostly the calls, and its are cheaper than torch's.
    boxes_N4, scores_N = ordered.boxes_N4.cpu().double().numpy(), ordered.scores_N.cpu().double().numpy()
    cluster_N = np.zeros(len(found), np.int64)
    average_N4, sum_N4, weight_N = np.zeros_like(boxes_N4), np.zeros_like(boxes_N4), np.zeros_like(scores_N)
    class_N = np.full(len(found), -1)
    used = 0
    for place, label in enumerate(ordered.labels_N.tolist()):
        chosen = _overlapped_most(boxes_N4[place], average_N4[:used], class_N[:used] == label, iou_threshold)
        if chosen is None:
            chosen, used = used, used + 1
            class_N[chosen] = label
        cluster_N[place] = chosen
        sum_N4[chosen] += scores_N[place] * boxes_N4[place]
        weight_N[chosen] += scores_N[place]
        average_N4[chosen] = sum_N4[chosen] / weight_N[chosen]
    size_N = np.bincount(cluster_N, minlength=used)[:used]
    score_N = weight_N[:used] / size_N * np.minimum(size_N, len(views)) / len(views)
    fused = ScoredBoxes(
        found.boxes_N4.new_tensor(average_N4[:used]),
        found.scores_N.new_tensor(score_N),
        found.labels_N.new_tensor(class_N[:used]),
    )
    return fused[fused.scores_N > floor].best(used)


def _overlapped_most(
    box_4: NDArray[np.float64], average_K4: NDArray[np.float64], allowed_K: NDArray[np.bool_], iou_threshold: float
) -> int | None:
    """Return the place of the allowed average with the highest IoU above the threshold, if there is one."""
    if len(average_K4) == 0:
        return None
    start_K2, end_K2 = np.maximum(average_K4[:, :2], box_4[:2]), np.minimum(average_K4[:, 2:], box_4[2:])
    shared_K = np.maximum(end_K2 - start_K2, 0).prod(1)
    union_K = (average_K4[:, 2:] - average_K4[:, :2]).prod(1) + (box_4[2:] - box_4[:2]).prod() - shared_K
    iou_K = np.where(allowed_K, shared_K / union_K, 0.0)
    place = int(iou_K.argmax())
    return place if iou_K[place] > iou_threshold else None
