"""Policies as data: AutoAugment for detection (Zoph et al. 2019), and the lists of RandAugment (Cubuk et al. 2019).

Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selftrain_augment.operations import OperationName, Step, SubPolicy

_Row = tuple[tuple[OperationName, float, float], ...]

AutoAugmentName = Literal["v0", "v1", "v2", "v3"]
RandAugmentName = Literal["randaugment", "efficientdet", "tf-vision"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be done to an image.

    Attributes:
        sub_policies: One of them is drawn for each image, all with the same probability.
        draws: None: that one is done. A number: each image draws so many of them independently, which have one step
            each, and does them in the order drawn.
    """

    sub_policies: tuple[SubPolicy, ...] = ()
    draws: int | None = None

    @property
    def num_slots(self) -> int:
        """The most operations that are done to one image."""
        return self.draws or max((len(steps) for steps in self.sub_policies), default=0)

    def operations(self) -> set[OperationName]:
        """Return the operations that the policy can draw."""
        return {step.operation for steps in self.sub_policies for step in steps if step.probability > 0}


def rand_augment(operations: tuple[OperationName, ...], num_operations: int, magnitude: float) -> Policy:
    """Return RandAugment: `num_operations` of the operations, each drawn uniformly, all of one magnitude."""
    return Policy(tuple((Step(name, 1.0, magnitude),) for name in operations), num_operations)


def auto_augment(name: AutoAugmentName) -> Policy:
    """Return one of the policies that AutoAugment found for detection."""
    return Policy(tuple(tuple(Step(*step) for step in row) for row in _AUTO_AUGMENT[name]))


_V0: tuple[_Row, ...] = (
    (("TranslateX_BBox", 0.6, 4), ("Equalize", 0.8, 10)),
    (("TranslateY_Only_BBoxes", 0.2, 2), ("Cutout", 0.8, 8)),
    (("Sharpness", 0, 8), ("ShearX_BBox", 0.4, 0)),
    (("ShearY_BBox", 1, 2), ("TranslateY_Only_BBoxes", 0.6, 6)),
    (("Rotate_BBox", 0.6, 10), ("Color", 1, 6)),
)

_AUTO_AUGMENT: dict[AutoAugmentName, tuple[_Row, ...]] = {
    "v0": _V0,
    "v1": (
        *_V0,
        (("Color", 0, 0), ("ShearX_Only_BBoxes", 0.8, 4)),
        (("ShearY_Only_BBoxes", 0.8, 2), ("Flip_Only_BBoxes", 0, 10)),
        (("Equalize", 0.6, 10), ("TranslateX_BBox", 0.2, 2)),
        (("Color", 1, 10), ("TranslateY_Only_BBoxes", 0.4, 6)),
        (("Rotate_BBox", 0.8, 10), ("Contrast", 0, 10)),
        (("Cutout", 0.2, 2), ("Brightness", 0.8, 10)),
        (("Color", 1, 6), ("Equalize", 1, 2)),
        (("Cutout_Only_BBoxes", 0.4, 6), ("TranslateY_Only_BBoxes", 0.8, 2)),
        (("Color", 0.2, 8), ("Rotate_BBox", 0.8, 10)),
        (("Sharpness", 0.4, 4), ("TranslateY_Only_BBoxes", 0, 4)),
        (("Sharpness", 1, 4), ("SolarizeAdd", 0.4, 4)),
        (("Rotate_BBox", 1, 8), ("Sharpness", 0.2, 8)),
        (("ShearY_BBox", 0.6, 10), ("Equalize_Only_BBoxes", 0.6, 8)),
        (("ShearX_BBox", 0.2, 6), ("TranslateY_Only_BBoxes", 0.2, 10)),
        (("SolarizeAdd", 0.6, 8), ("Brightness", 0.8, 10)),
    ),
    "v2": (
        (("Color", 0, 6), ("Cutout", 0.6, 8), ("Sharpness", 0.4, 8)),
        (("Rotate_BBox", 0.4, 8), ("Sharpness", 0.4, 2), ("Rotate_BBox", 0.8, 10)),
        (("TranslateY_BBox", 1, 8), ("AutoContrast", 0.8, 2)),
        (("AutoContrast", 0.4, 6), ("ShearX_BBox", 0.8, 8), ("Brightness", 0, 10)),
        (("SolarizeAdd", 0.2, 6), ("Contrast", 0, 10), ("AutoContrast", 0.6, 0)),
        (("Cutout", 0.2, 0), ("Solarize", 0.8, 8), ("Color", 1, 4)),
        (("TranslateY_BBox", 0, 4), ("Equalize", 0.6, 8), ("Solarize", 0, 10)),
        (("TranslateY_BBox", 0.2, 2), ("ShearY_BBox", 0.8, 8), ("Rotate_BBox", 0.8, 8)),
        (("Cutout", 0.8, 8), ("Brightness", 0.8, 8), ("Cutout", 0.2, 2)),
        (("Color", 0.8, 4), ("TranslateY_BBox", 1, 6), ("Rotate_BBox", 0.6, 6)),
        (("Rotate_BBox", 0.6, 10), ("BBox_Cutout", 1, 4), ("Cutout", 0.2, 8)),
        (("Rotate_BBox", 0, 0), ("Equalize", 0.6, 6), ("ShearY_BBox", 0.6, 8)),
        (("Brightness", 0.8, 8), ("AutoContrast", 0.4, 2), ("Brightness", 0.2, 2)),
        (("TranslateY_BBox", 0.4, 8), ("Solarize", 0.4, 6), ("SolarizeAdd", 0.2, 10)),
        (("Contrast", 1, 10), ("SolarizeAdd", 0.2, 8), ("Equalize", 0.2, 4)),
    ),
    "v3": (
        (("Posterize", 0.8, 2), ("TranslateX_BBox", 1, 8)),
        (("BBox_Cutout", 0.2, 10), ("Sharpness", 1, 8)),
        (("Rotate_BBox", 0.6, 8), ("Rotate_BBox", 0.8, 10)),
        (("Equalize", 0.8, 10), ("AutoContrast", 0.2, 10)),
        (("SolarizeAdd", 0.2, 2), ("TranslateY_BBox", 0.2, 8)),
        (("Sharpness", 0, 2), ("Color", 0.4, 8)),
        (("Equalize", 1, 8), ("TranslateY_BBox", 1, 8)),
        (("Posterize", 0.6, 2), ("Rotate_BBox", 0, 10)),
        (("AutoContrast", 0.6, 0), ("Rotate_BBox", 1, 6)),
        (("Equalize", 0, 4), ("Cutout", 0.8, 10)),
        (("Brightness", 1, 2), ("TranslateY_BBox", 1, 6)),
        (("Contrast", 0, 2), ("ShearY_BBox", 0.8, 0)),
        (("AutoContrast", 0.8, 10), ("Contrast", 0.2, 10)),
        (("Rotate_BBox", 1, 10), ("Cutout", 1, 10)),
        (("SolarizeAdd", 0.8, 6), ("Equalize", 0.8, 8)),
    ),
}

RAND_AUGMENT: dict[RandAugmentName, tuple[OperationName, ...]] = {
    # RandAugment's own experiment on detection (its §3 and A.3): the list for classification, whose geometric
    # operations move the boxes along.
    "randaugment": (
        "Identity", "AutoContrast", "Equalize", "Rotate_BBox", "Solarize", "Color", "Posterize", "Contrast",
        "Brightness", "Sharpness", "ShearX_BBox", "ShearY_BBox", "TranslateX_BBox", "TranslateY_BBox",
    ),
    # EfficientDet's published code.
    "efficientdet": (
        "Equalize", "Solarize", "Color", "Cutout", "SolarizeAdd", "TranslateX_BBox", "TranslateY_BBox", "ShearX_BBox",
        "ShearY_BBox", "Rotate_BBox",
    ),
    # TensorFlow's official vision models, where they are built for detection.
    "tf-vision": (
        "AutoContrast", "Equalize", "Invert", "Rotate_BBox", "Posterize", "Solarize", "Color", "Contrast",
        "Brightness", "Sharpness", "ShearX_BBox", "ShearY_BBox", "TranslateX_BBox", "TranslateY_BBox", "Cutout",
        "SolarizeAdd",
    ),
}  # fmt: skip
"""The lists from which RandAugment draws; the paper does not say which is its own."""
