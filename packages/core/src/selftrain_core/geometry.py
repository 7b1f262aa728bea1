"""How an image of any size is laid onto the fixed canvas, and back. NumPy only.

Coordinates are (x, y) at pixel edges: the top-left corner of the top-left pixel is (0, 0). A matrix is [2, 3] and maps
column vectors (x, y, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_Value = TypeVar("_Value", bound=np.generic)

FILL_RGB = (124, 116, 104)
"""The colour of the canvas where there is no picture: the mean of ImageNet, near zero after any usual normalisation."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """An image scaled to fit a canvas with its aspect kept, anchored at the top-left corner.

    Attributes:
        original: (height, width) of the image, after EXIF rotation.
        canvas: (height, width) of the canvas.
        valid: (height, width) of the picture on the canvas, whole pixels.
    """

    original: tuple[int, int]
    canvas: tuple[int, int]
    valid: tuple[int, int]

    @classmethod
    def fit(cls, original: tuple[int, int], canvas: tuple[int, int]) -> Self:
        """Return the geometry that makes `original` as large as `canvas` allows."""
        (height, width), (canvas_height, canvas_width) = original, canvas
        scale = min(canvas_height / height, canvas_width / width)
        valid = (
            min(canvas_height, max(1, round(height * scale))),
            min(canvas_width, max(1, round(width * scale))),
        )
        return cls(original, canvas, valid)

    @property
    def matrix_23(self) -> NDArray[np.float64]:
        """Original pixels → canvas pixels. The two axes differ by less than a pixel's rounding."""
        return np.array(
            [[self.valid[1] / self.original[1], 0, 0], [0, self.valid[0] / self.original[0], 0]], np.float64
        )


def image_on_canvas(image: Image.Image, geometry: Geometry) -> NDArray[np.uint8]:
    """Return an RGB image on its canvas, uint8 [H, W, 3]; area-averaged when it shrinks, `FILL_RGB` outside."""
    height, width = geometry.valid
    canvas_HW3 = np.empty((*geometry.canvas, 3), np.uint8)
    canvas_HW3[height:], canvas_HW3[:height, width:] = FILL_RGB, FILL_RGB
    canvas_HW3[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return canvas_HW3


def map_on_canvas(map_HW: NDArray[_Value], geometry: Geometry, fill: float) -> NDArray[_Value]:
    """Return a map of any resolution of the same picture on the canvas, [H, W]; nearest pixel, `fill` outside."""
    height, width = geometry.valid
    canvas = np.full(geometry.canvas, fill, map_HW.dtype)
    rows, columns = _nearest(map_HW.shape[0], height), _nearest(map_HW.shape[1], width)
    canvas[:height, :width] = map_HW[rows[:, None], columns]
    return canvas


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    """Return for each of `target` pixels the one of `source` pixels that its centre lies in."""
    return ((np.arange(target) + 0.5) * (source / target)).astype(np.int64)
