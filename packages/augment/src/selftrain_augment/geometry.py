"""Affine geometry of a batch: matrices, resampling and boxes, each image with its own matrix.

Coordinates are (x, y) at pixel edges, so the centre of the top-left pixel is (0.5, 0.5). A matrix is [2, 3], maps
column vectors (x, y, 1) of the old canvas to the new one, and is invertible. All products are written out, and kornia's
`warp_affine` is not used: autocast and TF32 round matrix products, in bfloat16 by two pixels on a canvas of 640.

Shape letters: B = images, H, W = canvas height and width, N = boxes per image.
"""

from __future__ import annotations

import torch
from kornia.geometry.transform import remap
from torch import Tensor


def compose(outer_B23: Tensor, inner_B23: Tensor) -> Tensor:
    """Return the matrices that do `inner_B23` first and `outer_B23` then: floating [B, 2, 3]."""
    result = (outer_B23[:, :, :2, None] * inner_B23[:, None]).sum(2)
    return torch.cat([result[:, :, :2], result[:, :, 2:] + outer_B23[:, :, 2:]], dim=2)


def source_axes(matrix_B23: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where the centres of the new columns and rows lie on the old canvas: x [B, W] and y [B, H], floating.

    One axis each suffices, and costs next to nothing, because these matrices neither turn nor shear.

    Args:
        matrix_B23: Old canvas → new canvas, without rotation or shear.
        height: Height of the new canvas.
        width: Width of the new canvas.
    """
    row_x_B3, row_y_B3 = matrix_B23.unbind(1)
    # The shift comes off before the division: a difference of whole and half pixels is exact.
    return (
        (_centres(width, matrix_B23) - row_x_B3[:, 2:]) / row_x_B3[:, :1],
        (_centres(height, matrix_B23) - row_y_B3[:, 2:]) / row_y_B3[:, 1:2],
    )


def _centres(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, dtype=like.dtype, device=like.device) + 0.5


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


def warp_bilinear(image_B3HW: Tensor, x_BW: Tensor, y_BH: Tensor, valid_B2: Tensor) -> Tensor:
    """Return the images sampled bilinearly at columns `x_BW` and rows `y_BH`: floating [B, 3, H, W].

    A point in the outer half of the picture's border pixels, or beyond, takes the border pixel's colour, so that what
    the canvas shows outside the picture never bleeds in.

    Args:
        image_B3HW: Floating images on the old canvas.
        x_BW: Where to sample, pixel edges of the old canvas.
        y_BH: Likewise.
        valid_B2: int64 height and width of the old picture.
    """
    shape = (len(x_BW), y_BH.shape[1], x_BW.shape[1])
    # remap counts from the centre of the first pixel, half a pixel inside the edge that everything else counts from.
    columns_BW = torch.minimum(x_BW.clamp(min=0.5), valid_B2[:, 1:] - 0.5) - 0.5
    rows_BH = torch.minimum(y_BH.clamp(min=0.5), valid_B2[:, :1] - 0.5) - 0.5
    columns_BHW, rows_BHW = columns_BW[:, None, :].expand(shape), rows_BH[:, :, None].expand(shape)
    warped: Tensor = remap(image_B3HW, columns_BHW, rows_BHW, "bilinear", "border", align_corners=True)
    return warped


def take_nearest(map_BHW: Tensor, x_BW: Tensor, y_BH: Tensor, valid_B2: Tensor) -> Tensor:
    """Return the pixels in which columns `x_BW` and rows `y_BH` lie: [B, H, W], values copied, never computed.

    A point outside the picture takes the closest pixel of the picture.

    Args:
        map_BHW: Maps of any type on the old canvas.
        x_BW: Where to look, pixel edges of the old canvas.
        y_BH: Likewise.
        valid_B2: int64 height and width of the old picture.
    """
    columns_BW = torch.minimum(x_BW.floor().long().clamp(min=0), valid_B2[:, 1:] - 1)
    rows_BH = torch.minimum(y_BH.floor().long().clamp(min=0), valid_B2[:, :1] - 1)
    image_B11 = torch.arange(len(map_BHW), device=map_BHW.device)[:, None, None]
    return map_BHW[image_B11, rows_BH[:, :, None], columns_BW[:, None, :]]


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
