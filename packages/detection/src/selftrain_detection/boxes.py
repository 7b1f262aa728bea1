"""Arithmetic of boxes: what the model predicts of them, and how much they overlap.

Boxes are xyxy, floating, in pixels, half-open at pixel edges. Deltas are (x, y, w, h); the code released with
Zoph et al. 2020 has y first.

Shape letters: ... = any leading axes, N, M = boxes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
"""Largest log of a predicted side over its anchor's, so that no logit becomes an endless box (paper, released code)."""

_EPSILON = 1e-8
"""Below any side or area that matters; keeps logs and quotients of empty boxes finite (paper, released code)."""


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the deltas from anchors to boxes, [..., 4]: offsets of the centre in anchor sides, logs of side ratios.

    There are no scale factors. A box without width or height has a finite, meaningless delta.

    Args:
        boxes: [..., 4].
        anchors: [..., 4], of positive width and height; broadcast against `boxes`.
    """
    sides, anchor_sides = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    # Twice the offset of the centre, halved: exact where corners are.
    offsets = ((boxes[..., 2:] - anchors[..., 2:]) + (boxes[..., :2] - anchors[..., :2])) / 2
    return torch.cat([offsets / anchor_sides, (sides.clamp(min=_EPSILON) / anchor_sides).log()], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes that `encode` gave these deltas, [..., 4]; sides grow at most 62.5-fold (`MAX_LOG_RATIO`).

    Args:
        deltas: [..., 4].
        anchors: [..., 4], of positive width and height; broadcast against `deltas`.
    """
    anchor_sides = anchors[..., 2:] - anchors[..., :2]
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * anchor_sides
    halves = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * anchor_sides / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


def clip(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Return the boxes cut to a picture at the origin, [..., 4]; what lies outside it becomes a box without area.

    Args:
        boxes: [..., 4].
        height: Of the picture in pixels; a tensor is broadcast against [...].
        width: As `height`.
    """
    height, width = (torch.as_tensor(side, dtype=boxes.dtype, device=boxes.device) for side in (height, width))
    limits = torch.stack(torch.broadcast_tensors(width, height, width, height), dim=-1)
    return torch.minimum(boxes.clamp(min=0), limits)


def areas(boxes: Tensor) -> Tensor:
    """Return the areas in square pixels, [...]; 0 for a box whose corners are the wrong way round.

    Args:
        boxes: [..., 4].
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the area shared by each of the one and each of the other, [..., N, M].

    Args:
        boxes: [..., N, 4].
        others: [..., M, 4]; leading axes are broadcast.
    """
    left, top, right, bottom = boxes[..., :, None, :].unbind(-1)
    other_left, other_top, other_right, other_bottom = others[..., None, :, :].unbind(-1)
    # In place where it can be: for a batch these are the largest tensors outside the model.
    width = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp_(min=0)
    height = torch.minimum(bottom, other_bottom).sub_(torch.maximum(top, other_top)).clamp_(min=0)
    return width.mul_(height)


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return intersection over union of each of the one and each of the other, [..., N, M]; 0 where both are empty.

    Args:
        boxes: [..., N, 4].
        others: [..., M, 4]; leading axes are broadcast.
    """
    return iou_of_intersections(intersections(boxes, others), areas(boxes), areas(others))


def iou_of_intersections(shared: Tensor, area: Tensor, other_area: Tensor) -> Tensor:
    """Return intersection over union, [..., N, M]; 0 where both boxes are empty.

    Args:
        shared: [..., N, M], from `intersections`.
        area: [..., N].
        other_area: [..., M].
    """
    union = (area[..., :, None] + other_area[..., None, :]).sub_(shared).clamp_(min=_EPSILON)
    return shared / union
