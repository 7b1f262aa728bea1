"""The ways a model looks at an image when it predicts: scales and mirror images, whose predictions a task merges.

Shape letters: B = images, C = channels, H, W = canvas height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

CANVAS_MULTIPLE = 32
"""Sides of every canvas are multiples of it, so that feature maps of stride 32 can be doubled up to stride 4."""


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at an image.

    Attributes:
        scale: Of the canvas, picture and empty part alike; > 0.
        flip: Whether it is mirrored, left to right.
    """

    scale: float = 1.0
    flip: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the canvas' height and width in this view: the nearest multiples of 32, at least 32."""
        return _nearest(height * self.scale), _nearest(width * self.scale)

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        """Return the images as this view shows them, area-averaged where they shrink.

        Args:
            image_BCHW: Floating images on their canvas.
        """
        height, width = image_BCHW.shape[-2:]
        size = self.size(height, width)
        seen_BCHW = image_BCHW if size == (height, width) else _resized(image_BCHW, size)
        return seen_BCHW.flip(-1) if self.flip else seen_BCHW

    def back(self, map_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Return maps that were made of what this view shows, on the canvas of `size` again.

        Args:
            map_BCHW: Floating maps at this view's size.
            size: Height and width of the canvas.
        """
        upright_BCHW = map_BCHW.flip(-1) if self.flip else map_BCHW
        return upright_BCHW if tuple(map_BCHW.shape[-2:]) == size else _resized(upright_BCHW, size)


PLAIN_VIEW = (View(),)


def _nearest(side: float) -> int:
    return max(1, round(side / CANVAS_MULTIPLE)) * CANVAS_MULTIPLE


def _resized(map_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(map_BCHW, size=size, mode="bilinear", align_corners=False, antialias=True)
