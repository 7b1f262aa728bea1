"""Class maps as pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftrain_core.labels import IGNORE
from selftrain_core.legend import palette

OPACITY = 0.6
HATCH_PERIOD = 6
IGNORE_RGB = (190, 190, 190)


def overlay(image_HW3: NDArray[np.uint8], classes_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image in grey under the colours of its classes, in its own colours and hatched where they are ignored.

    Args:
        image_HW3: uint8 RGB.
        classes_HW: uint8 of any resolution of the same picture.
    """
    height, width = image_HW3.shape[:2]
    resized = Image.fromarray(classes_HW).resize((width, height), Image.Resampling.NEAREST)
    classes = np.asarray(resized)
    colours = palette(IGNORE)[np.minimum(classes, IGNORE - 1)].astype(np.float32)
    # Over grey, so that a class has one colour whatever the colour of the thing.
    grey = np.asarray(Image.fromarray(image_HW3).convert("L"))[..., None]
    drawn = grey * (1 - OPACITY) + colours * OPACITY
    rows, columns = np.indices(classes.shape)
    line = (rows + columns) % HATCH_PERIOD < HATCH_PERIOD // 3
    ignored = classes == IGNORE
    drawn[ignored] = image_HW3[ignored]
    drawn[ignored & line] = IGNORE_RGB
    result: NDArray[np.uint8] = drawn.round().astype(np.uint8)
    return result
