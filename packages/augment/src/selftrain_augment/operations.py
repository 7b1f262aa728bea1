"""The operations of AutoAugment and RandAugment for detection, under the names of their published tables.

Each acts on the picture as it lies on its canvas; a magnitude is a number from 0 to 10, and beyond it goes on linearly.
Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

OperationName = Literal[
    "Identity",
    "AutoContrast",
    "Equalize",
    "Invert",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "Cutout",
    "BBox_Cutout",
    "Flip_Only_BBoxes",
    "Equalize_Only_BBoxes",
    "Solarize_Only_BBoxes",
    "Cutout_Only_BBoxes",
    "TranslateX_Only_BBoxes",
    "TranslateY_Only_BBoxes",
    "ShearX_Only_BBoxes",
    "ShearY_Only_BBoxes",
    "Rotate_Only_BBoxes",
    "TranslateX_BBox",
    "TranslateY_BBox",
    "ShearX_BBox",
    "ShearY_BBox",
    "Rotate_BBox",
]
"""``_BBox``: moves the whole picture, and the boxes with it. ``_Only_BBoxes``: changes what boxes show."""

OPERATIONS: tuple[OperationName, ...] = get_args(OperationName)
CODES: dict[OperationName, int] = {name: code for code, name in enumerate(OPERATIONS)}
"""Operations are drawn as their place in `OPERATIONS`: `CODES` leads back."""


class Kind(Enum):
    """What an operation touches."""

    NOTHING = "nothing"
    COLOUR = "colours of the whole picture"
    CUTOUT = "a rectangle of the picture"
    BOXES = "what boxes show"
    WARP = "where everything lies"


def kind_of(name: OperationName) -> Kind:
    """Return what the operation touches."""
    if name == "Identity":
        return Kind.NOTHING
    if name in ("Cutout", "BBox_Cutout"):
        return Kind.CUTOUT
    if name.endswith("_Only_BBoxes"):
        return Kind.BOXES
    return Kind.WARP if name.endswith("_BBox") else Kind.COLOUR


def needs_boxes(name: OperationName) -> bool:
    """Return whether the operation does nothing to an image without boxes."""
    return name == "BBox_Cutout" or kind_of(name) is Kind.BOXES


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a sub-policy.

    Attributes:
        operation: Its name.
        probability: Of being done at all. Those on boxes alone are done to each box with a third of it.
        magnitude: 0 to 10, and beyond it linearly.
    """

    operation: OperationName
    probability: float = 1.0
    magnitude: float = 10.0


SubPolicy = tuple[Step, ...]
"""Steps that are done one after the other."""


@dataclass(frozen=True, slots=True)
class ColourOptions:
    """Where the published code differs from what others mean by an operation.

    Attributes:
        white_contrast: Contrast blends with white.
        rising_solarize: Solarize inverts the more pixels the larger the magnitude.
    """

    white_contrast: bool = False
    rising_solarize: bool = False
