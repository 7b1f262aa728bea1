"""Boxes under an affine map: the hull of what is still seen of them.

Shape letters: B = images, N = boxes per image, C = candidates for a corner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selftrain_core.batch import Targets
from selftrain_core.labels import IGNORE_LABEL, PADDING_LABEL

_TOLERANCE = 1e-3
"""Pixels by which a corner may lie outside the frame and still count as inside: float32 rounds by less."""

_SHORTEST_SIDE = 0.01
"""Pixels of a box's side below which nothing of it is seen; float32 is off by less on any canvas that fits memory."""


def moved_targets(targets: Targets, matrix_B23: Tensor, frame_B2: Tensor, min_visibility: float) -> dict[str, Tensor]:
    """Return the fields of `targets` that change with its boxes.

    Args:
        targets: Those on the old canvas.
        matrix_B23: float32, old canvas → new canvas.
        frame_B2: int64 height and width of what pictures fill of the new canvas.
        min_visibility: The share of a box's area below which an object that is seen becomes a region to ignore.
    """
    if targets.boxes_BN4 is None:
        return {}
    corners_BN42 = moved(corners(targets.boxes_BN4), matrix_B23)
    seen_BN4 = seen_hull(corners_BN42, frame_B2)
    if targets.label_BN is None:
        return {"boxes_BN4": seen_BN4}
    seen_BN = areas(seen_BN4, _SHORTEST_SIDE)
    least_BN = min_visibility * areas(hull(corners_BN42))
    label_BN = torch.where((targets.label_BN >= 0) & (seen_BN < least_BN), IGNORE_LABEL, targets.label_BN)
    label_BN = torch.where(seen_BN == 0, PADDING_LABEL, label_BN)
    is_padding_BN = label_BN == PADDING_LABEL
    changed = {"boxes_BN4": torch.where(is_padding_BN[..., None], 0, seen_BN4), "label_BN": label_BN}
    if targets.weight_BN is not None:
        changed["weight_BN"] = torch.where(is_padding_BN, 0, targets.weight_BN)
    return changed


def corners(boxes_BN4: Tensor) -> Tensor:
    """Return the four corners of boxes in order around them: (x, y), floating [B, N, 4, 2]."""
    return torch.stack([boxes_BN4[..., [0, 2, 2, 0]], boxes_BN4[..., [1, 1, 3, 3]]], dim=3)


def moved(points_BNK2: Tensor, matrix_B23: Tensor) -> Tensor:
    """Return points after the map: (x, y), floating [B, N, K, 2]."""
    x, y = points_BNK2.unbind(3)
    row_x, row_y = (row_B3[:, None, None, :].unbind(3) for row_B3 in matrix_B23.unbind(1))
    return torch.stack([row_x[0] * x + row_x[1] * y + row_x[2], row_y[0] * x + row_y[1] * y + row_y[2]], dim=3)


def hull(points_BNK2: Tensor) -> Tensor:
    """Return the smallest axis-aligned boxes around the points: xyxy, floating [B, N, 4]."""
    return torch.cat([points_BNK2.amin(2), points_BNK2.amax(2)], dim=2)


def seen_hull(corners_BN42: Tensor, frame_B2: Tensor) -> Tensor:
    """Return the smallest boxes around the parts of convex quadrangles inside the frame: xyxy, floating [B, N, 4].

    What is left of a turned box when the frame cuts it is a polygon; its hull is smaller than what the frame leaves of
    the whole box's hull. Its corners are corners of the box inside the frame, corners of the frame inside the box, and
    points where their sides cross. 0 where nothing is left.

    Args:
        corners_BN42: (x, y) in order around each quadrangle, either way round.
        frame_B2: int64 height and width of the frame, whose top-left corner is (0, 0).
    """
    limit_B112 = frame_B2.flip(1)[:, None, None].to(corners_BN42.dtype)
    crossings_BNC2 = _crossings(corners_BN42, limit_B112)
    frame_BN42 = (limit_B112 * corners_BN42.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]])).expand_as(corners_BN42)
    points_BNC2 = torch.cat([corners_BN42, crossings_BNC2, frame_BN42], dim=2)
    is_in_frame = ((points_BNC2 >= -_TOLERANCE) & (points_BNC2 <= limit_B112 + _TOLERANCE)).all(3)
    counts_BNC = torch.cat([is_in_frame[:, :, :-4], _is_within(frame_BN42, corners_BN42)], dim=2)
    low_BN2 = points_BNC2.masked_fill(~counts_BNC[..., None], torch.inf).amin(2)
    high_BN2 = points_BNC2.masked_fill(~counts_BNC[..., None], -torch.inf).amax(2)
    hull_BN4 = torch.cat([low_BN2, high_BN2], dim=2)
    limit_B14 = limit_B112[:, 0].repeat(1, 1, 2)
    hull_BN4 = torch.minimum(hull_BN4.clamp(min=0), limit_B14)
    return torch.where(counts_BNC.any(2, keepdim=True), hull_BN4, 0)


def _crossings(corners_BN42: Tensor, limit_B112: Tensor) -> Tensor:
    """Return where each side, drawn on, meets each of the four lines of the frame, if it does within the side."""
    start, side = corners_BN42, corners_BN42.roll(-1, 2) - corners_BN42
    found = []
    for axis in (0, 1):
        for line in (torch.zeros_like(limit_B112[..., axis]), limit_B112[..., axis]):
            # A side along the line meets it nowhere: its ends are corners already.
            along_BN4 = (line - start[..., axis]) / side[..., axis]
            is_on_side = (along_BN4 >= 0) & (along_BN4 <= 1)
            other_BN4 = start[..., 1 - axis] + along_BN4 * side[..., 1 - axis]
            here = [line.expand_as(other_BN4), other_BN4]
            point_BN42 = torch.stack(here if axis == 0 else here[::-1], dim=3)
            found.append(point_BN42.masked_fill(~is_on_side[..., None], torch.inf))  # infinite: outside every frame
    return torch.cat(found, dim=2)


def _is_within(points_BNP2: Tensor, corners_BN42: Tensor) -> Tensor:
    """Return which points lie in their quadrangle: bool [B, N, P]; one without area holds none."""
    start_BN142, side_BN142 = corners_BN42[:, :, None], (corners_BN42.roll(-1, 2) - corners_BN42)[:, :, None]
    to_point_BNP42 = points_BNP2[:, :, :, None] - start_BN142
    turn_BNP4 = side_BN142[..., 0] * to_point_BNP42[..., 1] - side_BN142[..., 1] * to_point_BNP42[..., 0]
    x, y = corners_BN42.unbind(3)
    area_BN = (x * y.roll(-1, 2) - x.roll(-1, 2) * y).sum(2)
    slack = _TOLERANCE * side_BN142.abs().amax(4)
    is_left, is_right = (turn_BNP4 >= -slack).all(3), (turn_BNP4 <= slack).all(3)
    return (is_left | is_right) & (area_BN != 0)[..., None]


def areas(boxes_BN4: Tensor, shortest_side: float = 0.0) -> Tensor:
    """Return the boxes' areas in square pixels, floating [B, N]; 0 where a side is not longer than `shortest_side`."""
    sides_BN2 = boxes_BN4[..., 2:] - boxes_BN4[..., :2]
    return torch.where((sides_BN2 > shortest_side).all(2), sides_BN2.prod(2), 0)
