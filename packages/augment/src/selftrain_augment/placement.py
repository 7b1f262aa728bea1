"""Flip, scale jitter and crop: where a picture goes on its new canvas.

Shape letters: B = images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from selftrain_augment.geometry import affine


@dataclass(frozen=True)
class Placement:
    """Where the pictures go.

    Attributes:
        matrix_B23: float32, old canvas → new canvas.
        valid_B2: int64 height and width of the pictures' frames on the new canvas.
    """

    matrix_B23: Tensor
    valid_B2: Tensor


def place(
    valid_B2: Tensor, height: int, width: int, parameters: Mapping[str, Tensor], oversample: int = 1
) -> Placement:
    """Return where pictures of `valid_B2` go on a canvas of `height` × `width` under `parameters`.

    Each axis is scaled to a whole number of pixels, as where an image is first laid onto its canvas: the two scales
    differ from the one drawn by less than half a pixel over the picture, and its edges stay pixel edges.

    Args:
        valid_B2: int64 height and width of the pictures on the old canvas.
        height: Of the new canvas.
        width: Of the new canvas.
        parameters: ``flip_B``, ``scale_B``, ``crop_x_B``, ``crop_y_B``.
        oversample: How many times larger than the new canvas the old one is.
    """
    old_height_B, old_width_B = valid_B2.to(torch.float32).unbind(1)
    scale_B = parameters["scale_B"] / oversample
    new_width_B, left_B = _scale_and_crop(old_width_B, width, scale_B, parameters["crop_x_B"])
    new_height_B, top_B = _scale_and_crop(old_height_B, height, scale_B, parameters["crop_y_B"])
    flip_B, zero_B = parameters["flip_B"], torch.zeros_like(left_B)
    scale_x_B = new_width_B / old_width_B
    # Mirrored inside the picture, x becomes width − x: its right edge, not the canvas', comes to the left.
    shift_x_B = torch.where(flip_B, new_width_B, zero_B) - left_B
    scale_x_B = torch.where(flip_B, -scale_x_B, scale_x_B)
    valid = torch.stack([new_height_B.clamp(max=height), new_width_B.clamp(max=width)], dim=1)
    matrix_B23 = affine(scale_x_B, zero_B, shift_x_B, zero_B, new_height_B / old_height_B, -top_B)
    return Placement(matrix_B23, valid.to(torch.int64))


def _scale_and_crop(size_B: Tensor, canvas: int, scale_B: Tensor, crop_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scaled size along one axis and how much of it is cut off at the near end, whole pixels in float32."""
    scaled_B = (size_B * scale_B).round().clamp(min=1)
    excess_B = (scaled_B - canvas).clamp(min=0)
    return scaled_B, offset(excess_B, crop_B)


def offset(excess_B: Tensor, crop_B: Tensor) -> Tensor:
    """Return a whole-pixel offset from 0 to `excess_B`: that which `crop_B`, uniform in [0, 1), draws."""
    return torch.minimum((crop_B * (excess_B + 1)).floor(), excess_B)


def canvas_after(image_B3HW: Tensor, oversample: int) -> tuple[int, int]:
    """Return height and width of the canvas that is `oversample` times smaller than the images'.

    Raises:
        ValueError: It does not divide.
    """
    height, width = image_B3HW.shape[2:]
    if height % oversample or width % oversample:
        raise ValueError(f"a canvas of {height} × {width} does not divide by oversample {oversample}")
    return height // oversample, width // oversample
