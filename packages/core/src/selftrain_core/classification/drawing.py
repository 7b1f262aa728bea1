"""The class of a picture, written on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selftrain_core.labels import IGNORE_LABEL, ClassLabels
from selftrain_core.legend import LARGEST_FONT, SMALLEST_FONT, font, legend_strip, palette

UNKNOWN_RGB = (190, 190, 190)
_SIDE_PER_LETTER, _SIDE_PER_LINE = 34, 100
_MARGINS = 4
"""What a caption needs beside its text, in heights of a letter."""


def colours(num_classes: int) -> list[tuple[int, int, int]]:
    """Return the colour of each class; none is black, for no class is the background."""
    return [(int(red), int(green), int(blue)) for red, green, blue in palette(num_classes + 1)[1:]]


def draw_class(image_HW3: NDArray[np.uint8], labels: ClassLabels, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return a copy of the picture in a frame of its class's colour, with a caption, uint8 [H, W, 3].

    The caption says the name of the class and the score in percent; what is too long for it is cut off.

    Args:
        image_HW3: uint8 RGB.
        labels: Its class; one that is not known is grey.
        classes: Ordered class names.
    """
    drawn_HW3 = image_HW3.copy()
    height, width = image_HW3.shape[:2]
    index = int(labels.class_1[0])
    is_known = index != IGNORE_LABEL
    colour = colours(len(classes))[index] if is_known else UNKNOWN_RGB
    score = f" {100 * labels.score_1[0]:.0f} %" if is_known and labels.score_1 is not None else ""
    text = (classes[index] if is_known else "not known") + score
    size = min(max(min(height, width) // _SIDE_PER_LETTER, SMALLEST_FONT), LARGEST_FONT)
    needed = round(font(size).getlength(text)) + _MARGINS * size
    caption_HW3 = np.asarray(legend_strip([(text, colour)], min(needed, width), size=size))[:height]
    drawn_HW3[: caption_HW3.shape[0], : caption_HW3.shape[1]] = caption_HW3
    line = max(1, min(height, width) // _SIDE_PER_LINE)
    for rows, columns in (
        (slice(0, line), slice(None)),
        (slice(-line, None), slice(None)),
        (slice(None), slice(0, line)),
        (slice(None), slice(-line, None)),
    ):
        drawn_HW3[rows, columns] = colour
    return drawn_HW3
