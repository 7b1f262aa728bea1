"""Affine geometry of a batch: matrices and resampling, each image with its own matrix.

Coordinates are (x, y) at pixel edges, so the centre of the top-left pixel is (0.5, 0.5). A matrix is [2, 3], maps
column vectors (x, y, 1) of the old canvas to the new one, and is invertible. All products are written out, and kornia's
`warp_affine` is not used: autocast and TF32 round matrix products, in bfloat16 by two pixels on a canvas of 640.

Shape letters: B = images, H, W = height and width of the new canvas, h, w = of the old one. Points [B, H, W] may be
given as columns [B, 1, W] and rows [B, H, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def affine(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Return the matrices ((a, b, c), (d, e, f)), floating [B, 2, 3], of entries [B]."""
    return torch.stack([torch.stack([a, b, c], dim=1), torch.stack([d, e, f], dim=1)], dim=1)


def compose(outer_B23: Tensor, inner_B23: Tensor) -> Tensor:
    """Return the matrices that do `inner_B23` first and `outer_B23` then: floating [B, 2, 3]."""
    result = (outer_B23[:, :, :2, None] * inner_B23[:, None]).sum(2)
    return torch.cat([result[:, :, :2], result[:, :, 2:] + outer_B23[:, :, 2:]], dim=2)


def about(linear: tuple[Tensor, Tensor, Tensor, Tensor], centre_B2: Tensor) -> Tensor:
    """Return the matrices that apply ((a, b), (d, e)), entries [B], and leave `centre_B2`, (x, y), where it is."""
    a, b, d, e = linear
    x, y = centre_B2.unbind(1)
    return affine(a, b, x - a * x - b * y, d, e, y - d * x - e * y)


def source_points(matrix_B23: Tensor, height: int, width: int, *, upright: bool = False) -> tuple[Tensor, Tensor]:
    """Return where the centres of the new pixels lie on the old canvas: x and y, floating [B, H, W].

    Args:
        matrix_B23: Old canvas → new canvas.
        height: Height of the new canvas.
        width: Width of the new canvas.
        upright: Whether no matrix turns or shears. Then x is [B, 1, W] and y [B, H, 1], which is all there is to know.
    """
    a, b, c, d, e, f = (entry_B11 for entry_B11 in matrix_B23.flatten(1)[..., None, None].unbind(1))
    # The shift comes off before the division: a difference of whole and half pixels is exact.
    x_B1W, y_BH1 = _centres(width, matrix_B23) - c, _centres(height, matrix_B23)[:, None] - f
    determinant_B11 = a * e - b * d
    along_x_B1W, along_y_BH1 = x_B1W * (e / determinant_B11), y_BH1 * (a / determinant_B11)
    if upright:
        return along_x_B1W, along_y_BH1
    return along_x_B1W - y_BH1 * (b / determinant_B11), along_y_BH1 - x_B1W * (d / determinant_B11)


def _centres(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, dtype=like.dtype, device=like.device) + 0.5


def inside(valid_B2: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels of the canvas hold picture: bool [B, H, W].

    Args:
        valid_B2: int64 height and width of the picture, anchored at the top-left corner.
        height: Height of the canvas.
        width: Width of the canvas.
    """
    columns_B1W, rows_BH1 = inside_each_way(valid_B2, height, width)
    return columns_B1W & rows_BH1


def inside_each_way(valid_B2: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return which columns and which rows of the canvas hold picture: bool [B, 1, W] and [B, H, 1]."""
    rows_H1 = torch.arange(height, device=valid_B2.device)[:, None]
    columns_W = torch.arange(width, device=valid_B2.device)
    height_B11, width_B11 = valid_B2[:, :, None, None].unbind(1)
    return columns_W < width_B11, rows_H1 < height_B11


def within(x_BHW: Tensor, y_BHW: Tensor, valid_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points, or for those outside the picture, or in the outer half of a border pixel, the closest others.

    Sampled there, what the canvas shows outside the picture never bleeds in.

    Args:
        x_BHW: Pixel edges of the old canvas.
        y_BHW: Likewise.
        valid_B2: Height and width of the old picture.
    """
    limit_B2 = (valid_B2 - 0.5).to(x_BHW.dtype)[:, :, None, None]
    half = limit_B2.new_tensor(0.5)
    return torch.clamp(x_BHW, half, limit_B2[:, 1]), torch.clamp(y_BHW, half, limit_B2[:, 0])


def covered(x_BHW: Tensor, y_BHW: Tensor, within_x_BHW: Tensor, within_y_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return which points lie among the old picture's columns and which among its rows: bool, shaped as x and as y.

    A hair outside counts as on it: a thousandth of a pixel, what float32 rounds off of a point on the picture's edge.

    Args:
        x_BHW: The points.
        y_BHW: Likewise.
        within_x_BHW: What `within` makes of them.
        within_y_BHW: Likewise.
    """
    return (x_BHW - within_x_BHW).abs_() < 0.5 + _HAIR, (y_BHW - within_y_BHW).abs_() < 0.5 + _HAIR


_HAIR = 1e-3


def warp_bilinear(image_BChw: Tensor, x_BHW: Tensor, y_BHW: Tensor) -> Tensor:
    """Return the images sampled bilinearly at the points: [B, C, H, W], of the images' type.

    Args:
        image_BChw: Floating images on the old canvas.
        x_BHW: Where to sample, float32, pixel edges of the old canvas, at least half a pixel inside it.
        y_BHW: Likewise.
    """
    height, width = image_BChw.shape[2:]
    grid_BHW2 = x_BHW.new_empty((len(x_BHW), y_BHW.shape[1], x_BHW.shape[2], 2))
    grid_BHW2[..., 0], grid_BHW2[..., 1] = x_BHW * (2 / width) - 1, y_BHW * (2 / height) - 1
    # In float32 whatever the images are: in bfloat16 a point of the grid would be off by pixels. Padding with zeros,
    # which every device can, makes no difference: the points are half a pixel or more from the canvas' edge.
    found = functional.grid_sample(image_BChw.float(), grid_BHW2, "bilinear", "zeros", align_corners=False)
    return found.to(image_BChw.dtype)


def halved(image_BChw: Tensor, valid_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images at half the size, each pixel the mean of four, and the picture's size there.

    Where the picture ends within four pixels, the mean is of those that are picture.

    Args:
        image_BChw: Floating images.
        valid_B2: Height and width of the picture, whole pixels.
    """
    inside_B1hw = inside(valid_B2, *image_BChw.shape[2:])[:, None].to(image_BChw.dtype)
    share_B1hw = functional.avg_pool2d(inside_B1hw, 2, ceil_mode=True)
    mean_BChw = functional.avg_pool2d(image_BChw * inside_B1hw, 2, ceil_mode=True) / share_B1hw.clamp(min=0.25)
    return mean_BChw, (valid_B2 + 1) // 2


def pixel_of(x_BHW: Tensor, y_BHW: Tensor, width: int) -> Tensor:
    """Return which pixels of the old canvas the points lie in, counted row by row: int64 [B, H, W].

    Args:
        x_BHW: Pixel edges of the old canvas, within the picture.
        y_BHW: Likewise.
        width: Of the old canvas.
    """
    return y_BHW.long() * width + x_BHW.long()  # within a picture nothing is negative: the whole part is the floor


def take(map_Bhw: Tensor, pixel_BHW: Tensor) -> Tensor:
    """Return the values of the pixels that `pixel_of` found: [B, H, W], copied, never computed."""
    return map_Bhw.flatten(1).gather(1, pixel_BHW.flatten(1)).view(pixel_BHW.shape)
