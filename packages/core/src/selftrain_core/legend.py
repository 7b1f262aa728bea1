"""The colours of classes, and what they mean: squares with names, below a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Legend: TypeAlias = Sequence[tuple[str, tuple[int, int, int]]]
"""Names, each with its colour, red, green and blue in 0..255."""

SMALLEST_FONT, LARGEST_FONT = 11, 40
_WIDTH_PER_FONT = 56
"""A picture this many times as wide as a letter is high has a legend that can be read when the whole is looked at."""
_LEAST_WIDTH = 120
_GOLDEN_ANGLE = 0.381966


def palette(num_classes: int) -> NDArray[np.uint8]:
    """Return distinct colours, uint8 [num_classes, 3]; class 0, usually the background, is black."""
    colours = [(0.0, 0.0, 0.0)]
    for index in range(1, num_classes):
        hue = (index * _GOLDEN_ANGLE) % 1
        colours.append(colorsys.hsv_to_rgb(hue, 0.65 + 0.35 * (index % 2), 1.0 - 0.25 * (index % 3 == 2)))
    return (np.array(colours[:num_classes]) * 255).astype(np.uint8)


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font in which names of most alphabets can be written; Matplotlib brings it along."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def legend_strip(legend: Legend, width: int, *, size: int = SMALLEST_FONT) -> Image.Image:
    """Return a white strip on which the entries of `legend` stand side by side, in as many lines as they need.

    Args:
        legend: What stands on it.
        width: Of the strip in pixels; a longer name is cut off.
        size: Of the letters in pixels.
    """
    letters = font(size)
    gap, line = max(2, size // 3), size + max(4, size // 2)
    places: list[tuple[int, int]] = []
    left, top = gap, gap
    for name, _ in legend:
        length = size + gap + round(letters.getlength(name)) + 2 * gap
        if left > gap and left + length > width:
            left, top = gap, top + line
        places.append((left, top))
        left += length
    strip = Image.new("RGB", (width, top + line if legend else 0), "white")
    pen = ImageDraw.Draw(strip)
    for (name, colour), (left, top) in zip(legend, places, strict=True):
        pen.rectangle((left, top, left + size, top + size), fill=colour, outline="black")
        pen.text((left + size + gap, top + size // 2), name, fill="black", font=letters, anchor="lm")
    return strip


def with_legend(picture_HW3: NDArray[np.uint8], legend: Legend) -> Image.Image:
    """Return a picture with its legend below; one that is too narrow for names stands on white.

    Args:
        picture_HW3: uint8 RGB.
        legend: What its colours mean.
    """
    height, width = picture_HW3.shape[:2]
    size = min(max(width // _WIDTH_PER_FONT, SMALLEST_FONT), LARGEST_FONT)
    strip = legend_strip(legend, max(width, _LEAST_WIDTH), size=size)
    sheet = Image.new("RGB", (strip.width, height + strip.height), "white")
    sheet.paste(Image.fromarray(picture_HW3), (0, 0))
    sheet.paste(strip, (0, height))
    return sheet
