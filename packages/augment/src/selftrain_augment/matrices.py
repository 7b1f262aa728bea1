"""The maps of the geometric operations, for whole pictures and for what a box shows.

Shape letters: B = pictures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selftrain_augment.geometry import about, affine

_HAIR = 1e-4
"""25 · 4.2 is less than 105 in float32."""


def linear_map(
    name: str, size_B2: Tensor, magnitude_B: Tensor, pixel_B: Tensor, sign_B: Tensor, *, of_box: bool = False
) -> Tensor:
    """Return the maps of an operation on pictures of `size_B2` whose top-left corner is (0, 0): float32 [B, 2, 3].

    Args:
        name: TranslateX, TranslateY, ShearX, ShearY, Rotate or Flip.
        size_B2: Height and width.
        magnitude_B: Translation is by int(25 · magnitude) pixels, or int(12 · magnitude) within a box; shear by 0.03 ·
            magnitude, about the top-left corner; rotation by 3 · magnitude degrees about the centre.
        pixel_B: How many pixels of the canvas a pixel of the published magnitudes is.
        sign_B: 1 or −1. 1 shifts to the right or down, shears what is further down to the left, or what is further
            right up, and turns counter-clockwise; −1 the other way.
        of_box: Whether it is within a box.
    """
    one_B, zero_B = torch.ones_like(magnitude_B), torch.zeros_like(magnitude_B)
    if name in ("TranslateX", "TranslateY"):
        pixels_B = (12 if of_box else 25) * magnitude_B
        shift_B = sign_B * (pixels_B + _HAIR).floor() * pixel_B
        along_x, along_y = (shift_B, zero_B) if name == "TranslateX" else (zero_B, shift_B)
        return affine(one_B, zero_B, along_x, zero_B, one_B, along_y)
    if name in ("ShearX", "ShearY"):
        shear_B = -0.03 * magnitude_B * sign_B
        along_x, along_y = (shear_B, zero_B) if name == "ShearX" else (zero_B, shear_B)
        return affine(one_B, along_x, zero_B, along_y, one_B, zero_B)
    if name == "Flip":
        return affine(-one_B, zero_B, size_B2[:, 1].to(one_B.dtype), zero_B, one_B, zero_B)
    assert name == "Rotate", name
    angle_B = sign_B * magnitude_B * (3 * math.pi / 180)
    cosine_B, sine_B = angle_B.cos(), angle_B.sin()
    # y points down: counter-clockwise, as one sees it, x goes over into −y.
    return about((cosine_B, sine_B, -sine_B, cosine_B), size_B2.flip(1).to(one_B.dtype) / 2)
