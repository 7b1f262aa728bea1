"""The boxes that predictions start from: the same few at every place of every level.

Shape letters: A = anchors of all levels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from selftrain_detection.config import AnchorConfig

STRIDES = (8, 16, 32, 64, 128)
"""Strides of the levels P3 to P7."""

_KEPT = 8
"""Canvases remembered: a training has one, several views of an image a few."""


class Anchors:
    """Makes the anchors of a canvas, and remembers them.

    They are in the order of the levels, P3 first; within a level row by row; at each place the scales, within each
    scale the ratios (Zoph et al. 2020, released code). The centre of place i is (i + ½) · stride; the sides of scale s
    of n and ratio r are ``size · stride · 2^(s/n)``, times √r wide and 1/√r high.

    Anchors belong to no model's state: they follow from the settings, are in no checkpoint, and are not pickled.

    Args:
        config: Sizes and ratios.
    """

    def __init__(self, config: AnchorConfig) -> None:
        self.config = config
        self._made: dict[tuple[int, int, str], Tensor] = {}

    @property
    def per_location(self) -> int:
        """Anchors at each place of a level."""
        return self.config.per_location

    def __call__(self, canvas: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """Return the anchors, float32 xyxy [A, 4] in pixels of the canvas; not to be changed in place.

        They are float32 in every precision: in fewer bits their corners would move by pixels.

        Args:
            canvas: Its height and width.
            device: Where they are wanted.
        """
        if torch.compiler.is_compiling():
            return self._make(canvas, device)
        key = (*canvas, str(device))
        anchors_A4 = self._made.get(key)
        if anchors_A4 is None:
            # Made while a model predicts, they must still do when it trains.
            with torch.inference_mode(False):
                anchors_A4 = self._make(canvas, device)
            if len(self._made) >= _KEPT:  # of several threads, another may have been here just before
                self._made.pop(next(iter(self._made)), None)
            self._made[key] = anchors_A4
        return anchors_A4

    def _make(self, canvas: tuple[int, int], device: torch.device | str) -> Tensor:
        return torch.cat([self._level(*shape, stride) for stride, shape in level_shapes(canvas)]).to(device)

    def _level(self, rows: int, columns: int, stride: int) -> Tensor:
        half_K2 = torch.tensor(self._half_sides(stride), dtype=torch.float64)
        y_H = (torch.arange(rows, dtype=torch.float64) + 0.5) * stride
        x_W = (torch.arange(columns, dtype=torch.float64) + 0.5) * stride
        centre_HW2 = torch.stack([x_W.expand(rows, columns), y_H[:, None].expand(rows, columns)], dim=-1)
        centre_HW12 = centre_HW2[:, :, None]
        return torch.cat([centre_HW12 - half_K2, centre_HW12 + half_K2], dim=-1).reshape(-1, 4).float()

    def _half_sides(self, stride: int) -> list[tuple[float, float]]:
        config = self.config
        sides = [config.size * stride * 2 ** (scale / config.num_scales) for scale in range(config.num_scales)]
        return [(side * math.sqrt(ratio) / 2, side / math.sqrt(ratio) / 2) for side in sides for ratio in config.ratios]

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_made": {}}


def level_shapes(canvas: tuple[int, int]) -> list[tuple[int, tuple[int, int]]]:
    """Return each level's stride with the rows and columns of its map: ⌈height / stride⌉, ⌈width / stride⌉.

    Args:
        canvas: Its height and width.
    """
    height, width = canvas
    return [(stride, (-(-height // stride), -(-width // stride))) for stride in STRIDES]
