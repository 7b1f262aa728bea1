"""Affine geometry of a batch: matrices, resampling and boxes, each image with its own matrix.

Coordinates are (x, y) at pixel edges, so the centre of the top-left pixel is (0.5, 0.5). A matrix is [2, 3], maps
column vectors (x, y, 1) of the old canvas to the new one, and is invertible. All products are written out, and kornia's
`warp_affine` is not used: autocast and TF32 round matrix products, in bfloat16 by two pixels on a canvas of 640.

Shape letters: B = images, H, W = canvas height and width, N = boxes per image, L = H · W.
"""

from __future__ import annotations

import torch
from kornia.geometry.transform import remap
from torch import Tensor


def compose(outer_B23: Tensor, inner_B23: Tensor) -> Tensor:
    """Return the matrices that do `inner_B23` first and `outer_B23` then: floating [B, 2, 3]."""
    result = (outer_B23[:, :, :2, None] * inner_B23[:, None]).sum(2)
    return torch.cat([result[:, :, :2], result[:, :, 2:] + outer_B23[:, :, 2:]], dim=2)


def source_points(matrix_B23: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where the centre of each new pixel lies on the old canvas: x and y, floating [B, H, W] each."""
    dtype, device = matrix_B23.dtype, matrix_B23.device
    (a_B, b_B, x_B), (c_B, d_B, y_B) = (row.unbind(1) for row in matrix_B23.unbind(1))
    # The shift comes off before the division: a difference of whole and half pixels is exact.
    dx_BHW = (torch.arange(width, dtype=dtype, device=device) + 0.5)[None, None, :] - x_B[:, None, None]
    dy_BHW = (torch.arange(height, dtype=dtype, device=device) + 0.5)[None, :, None] - y_B[:, None, None]
    a, b, c, d = (value_B[:, None, None] for value_B in (a_B, b_B, c_B, d_B))
    determinant = a * d - b * c
    return (d * dx_BHW - b * dy_BHW) / determinant, (a * dy_BHW - c * dx_BHW) / determinant


def inside(valid_B2: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels of the canvas hold picture: bool [B, H, W].

    Args:
        valid_B2: int64 height and width of the picture, anchored at the top-left corner.
        height: Height of the canvas.
        width: Width of the canvas.
    """
    rows_H = torch.arange(height, device=valid_B2.device)
    columns_W = torch.arange(width, device=valid_B2.device)
    return (rows_H < valid_B2[:, :1])[:, :, None] & (columns_W < valid_B2[:, 1:])[:, None, :]


def warp_bilinear(image_B3HW: Tensor, x_BHW: Tensor, y_BHW: Tensor, valid_B2: Tensor) -> Tensor:
    """Return the images sampled bilinearly at `x_BHW`, `y_BHW`: floating [B, 3, H, W] in the range of the input.

    A point in the outer half of the picture's border pixels, or beyond, takes the border pixel's colour, so that what
    the canvas shows outside the picture never bleeds in.

    Args:
        image_B3HW: Floating images on the old canvas.
        x_BHW: Where to sample, pixel edges of the old canvas.
        y_BHW: Likewise.
        valid_B2: int64 height and width of the old picture.
    """
    bottom_B11, right_B11 = ((size_B - 0.5)[:, None, None] for size_B in valid_B2.to(x_BHW.dtype).unbind(1))
    # remap counts from the centre of the first pixel, half a pixel inside the edge that everything else counts from.
    columns_BHW = torch.minimum(x_BHW.clamp(min=0.5), right_B11) - 0.5
    rows_BHW = torch.minimum(y_BHW.clamp(min=0.5), bottom_B11) - 0.5
    warped: Tensor = remap(image_B3HW, columns_BHW, rows_BHW, "bilinear", "border", align_corners=True)
    return warped


def nearest_index(x_BHW: Tensor, y_BHW: Tensor, valid_B2: Tensor) -> Tensor:
    """Return the pixel of the old picture in which each point lies, or the closest one: int64 [B, L], row-major.

    Args:
        x_BHW: Points, pixel edges of the old canvas, whose width is that of the new one.
        y_BHW: Likewise.
        valid_B2: int64 height and width of the old picture.
    """
    bottom_B11, right_B11 = ((size_B - 1)[:, None, None] for size_B in valid_B2.unbind(1))
    columns_BHW = torch.minimum(x_BHW.floor().long().clamp(min=0), right_B11)
    rows_BHW = torch.minimum(y_BHW.floor().long().clamp(min=0), bottom_B11)
    return (rows_BHW * x_BHW.shape[2] + columns_BHW).flatten(1)


def take(map_BHW: Tensor, index_BL: Tensor) -> Tensor:
    """Return the pixels of `map_BHW` that `nearest_index` names: same type and shape, values copied, never computed."""
    return map_BHW.flatten(1).gather(1, index_BL).view_as(map_BHW)


def move_boxes(boxes_BN4: Tensor, matrix_B23: Tensor) -> Tensor:
    """Return the axis-aligned hulls of the boxes' moved corners: xyxy, floating [B, N, 4], not clipped."""
    x_BN4, y_BN4 = boxes_BN4[..., [0, 2, 2, 0]], boxes_BN4[..., [1, 1, 3, 3]]
    row_x, row_y = (row_B3[:, None, None, :].unbind(3) for row_B3 in matrix_B23.unbind(1))
    new_x_BN4 = row_x[0] * x_BN4 + row_x[1] * y_BN4 + row_x[2]
    new_y_BN4 = row_y[0] * x_BN4 + row_y[1] * y_BN4 + row_y[2]
    return torch.stack([new_x_BN4.amin(2), new_y_BN4.amin(2), new_x_BN4.amax(2), new_y_BN4.amax(2)], dim=2)


def clip_boxes(boxes_BN4: Tensor, valid_B2: Tensor) -> Tensor:
    """Return the parts of the boxes inside the picture: xyxy, floating [B, N, 4]; empty where nothing is left."""
    limit_B14 = valid_B2.flip(1).repeat(1, 2)[:, None].to(boxes_BN4.dtype)
    return torch.minimum(boxes_BN4.clamp(min=0), limit_B14)


def areas(boxes_BN4: Tensor, shortest_side: float = 0.0) -> Tensor:
    """Return the boxes' areas in square pixels, floating [B, N]; 0 where a side is not longer than `shortest_side`."""
    sides_BN2 = boxes_BN4[..., 2:] - boxes_BN4[..., :2]
    return torch.where((sides_BN2 > shortest_side).all(2), sides_BN2.prod(2), 0)
