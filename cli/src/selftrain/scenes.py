"""The scenes of the demo: handwritten digits on photographs, with exact masks and boxes. Made here, not downloaded.

Glyphs are the 1,797 digits of 8×8 pixels in scikit-learn's `load_digits`, backgrounds are crops of its two sample
photographs. Each split has digits and parts of the photographs of its own. A scene is a pure function of (settings,
split, number).

Shape letters: H, W = height, width; N = digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftrain_core.errors import SelftrainError

Split = Literal["labelled", "unlabelled", "validation", "test"]
SPLITS: tuple[Split, ...] = ("labelled", "unlabelled", "validation", "test")

CLASSES = ("background", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHOTOGRAPHS = ("china.jpg", "flower.jpg")

_COLUMNS: dict[Split, tuple[float, float]] = {
    "labelled": (0.0, 0.5),
    "unlabelled": (0.0, 0.5),
    "validation": (0.5, 0.75),
    "test": (0.75, 1.0),
}
"""The vertical band of both photographs that a split draws from, as fractions of their width."""

_MIN_CONTRAST = 90.0
"""Least distance in RGB (0..255 each) of a digit's colour from the mean of what it covers."""
_MAX_COVERED = 0.1
"""Largest share of a digit's pixels that later digits may cover."""


@dataclass(frozen=True)
class SceneSettings:
    """Everything the scenes depend on.

    Attributes:
        seed: Of every draw.
        height: Of a scene in pixels; a multiple of 32, as canvas sides are.
        width: As height.
        labelled: Number of labelled scenes; likewise the other three splits.
        labelled_glyphs: Distinct glyphs of each digit in the labelled scenes: few, as labels are dear.
        validation_glyphs: As labelled_glyphs; likewise test. The unlabelled scenes have all others.
        min_digits: Least digits in a scene.
        max_digits: Most digits in a scene.
        min_size: Least height and width of a glyph's square in pixels, before it is turned.
        max_size: Greatest.
        max_angle: Greatest rotation either way, in degrees.
    """

    seed: int = 0
    height: int = 64
    width: int = 96
    labelled: int = 80
    unlabelled: int = 1000
    validation: int = 60
    test: int = 100
    labelled_glyphs: int = 12
    validation_glyphs: int = 30
    test_glyphs: int = 50
    min_digits: int = 2
    max_digits: int = 3
    min_size: int = 36
    max_size: int = 48
    max_angle: float = 20.0

    def count(self, split: Split) -> int:
        """Return the number of scenes in a split."""
        return int(getattr(self, split))


@dataclass(frozen=True, slots=True)
class Paste:
    """One digit in a scene.

    Attributes:
        glyph: Its number in `load_digits`.
        label: Its class index, 1..10.
        size: Height and width of the glyph's square in pixels, before it is turned.
        angle: Anticlockwise, in degrees.
        colour: RGB at its top and at its bottom, 0..255; between them it fades.
        top: Row of the top edge of its turned square.
        left: Column of the left edge of its turned square.
    """

    glyph: int
    label: int
    size: int
    angle: float
    colour: tuple[tuple[int, int, int], tuple[int, int, int]]
    top: int
    left: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything in a scene comes from.

    Attributes:
        height: In pixels.
        width: In pixels.
        photograph: Number in `PHOTOGRAPHS`.
        crop: Left, top, right, bottom in the photograph, in pixels, half-open.
        mirrored: Whether the crop is mirrored.
        pastes: The digits, in the order in which they are pasted.
    """

    height: int
    width: int
    photograph: int
    crop: tuple[int, int, int, int]
    mirrored: bool
    pastes: tuple[Paste, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and its truth.

    Attributes:
        image_HW3: uint8 RGB.
        classes_HW: uint8, 0 = background, 1..10 = the digits zero to nine.
        boxes_N4: float32, xyxy in pixels, half-open, tight around what is seen of each digit.
        labels_N: int64, 1..10.
        plan: Where it comes from.
    """

    image_HW3: NDArray[np.uint8]
    classes_HW: NDArray[np.uint8]
    boxes_N4: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    plan: Plan


def make_scene(settings: SceneSettings, split: Split, number: int) -> Scene:
    """Return a scene.

    Args:
        settings: Of all scenes.
        split: Which digits and which parts of the photographs it may show.
        number: From 0 on.

    Raises:
        SelftrainError: scikit-learn is not installed.
    """
    return render(plan_scene(settings, split, number))


def plan_scene(settings: SceneSettings, split: Split, number: int) -> Plan:
    """Return what a scene is made of.

    Raises:
        SelftrainError: scikit-learn is not installed.
    """
    random = np.random.default_rng([settings.seed, SPLITS.index(split), number])
    photograph = int(random.integers(len(PHOTOGRAPHS)))
    crop = _draw_crop(random, settings, split, photograph)
    plan = Plan(settings.height, settings.width, photograph, crop, bool(random.integers(2)), ())
    background_HW3 = _background(plan)
    glyphs = split_glyphs(settings)[split]
    wanted = int(random.integers(settings.min_digits, settings.max_digits + 1))
    owner_HW = np.full((settings.height, settings.width), -1)
    areas: list[int] = []
    pastes: list[Paste] = []
    # A crowded scene may have no room for another digit; at least the fewest find room in any.
    for attempt in range(1000):
        if len(pastes) == wanted or (attempt >= 50 and len(pastes) >= settings.min_digits):
            break
        paste = _draw_paste(random, settings, glyphs, background_HW3)
        place, mask_HW = _placed(paste)
        after_HW = owner_HW.copy()
        after_HW[place][mask_HW] = len(pastes)
        seen = np.bincount(after_HW[after_HW >= 0], minlength=len(pastes) + 1)
        if all(seen[number] >= (1 - _MAX_COVERED) * area for number, area in enumerate(areas)):
            owner_HW = after_HW
            areas.append(int(mask_HW.sum()))
            pastes.append(paste)
    return Plan(plan.height, plan.width, photograph, crop, plan.mirrored, tuple(pastes))


def render(plan: Plan) -> Scene:
    """Return the scene that a plan describes.

    Raises:
        SelftrainError: scikit-learn is not installed.
    """
    image_HW3 = _background(plan)
    owner_HW = np.full((plan.height, plan.width), -1)
    for number, paste in enumerate(plan.pastes):
        place, mask_HW = _placed(paste)
        top_3, bottom_3 = (np.array(colour, np.float64) for colour in paste.colour)
        fade_H1 = np.linspace(0, 1, mask_HW.shape[0])[:, None]
        ink_H3 = np.rint(top_3 + (bottom_3 - top_3) * fade_H1).astype(np.uint8)
        image_HW3[place][mask_HW] = np.broadcast_to(ink_H3[:, None], (*mask_HW.shape, 3))[mask_HW]
        owner_HW[place][mask_HW] = number
    labels_N = np.array([paste.label for paste in plan.pastes], np.int64)
    class_of_owner = np.array([*labels_N, 0], np.uint8)  # owner -1 is the background
    boxes_N4 = np.array([_tight_box(owner_HW == number) for number in range(len(labels_N))], np.float32)
    return Scene(image_HW3, class_of_owner[owner_HW], boxes_N4.reshape(-1, 4), labels_N, plan)


@cache
def split_glyphs(settings: SceneSettings) -> dict[Split, tuple[tuple[int, ...], ...]]:
    """Return the numbers in `load_digits` that each split may show: one tuple per digit zero to nine.

    Raises:
        SelftrainError: scikit-learn is not installed.
    """
    digits = _digits()[1]
    random = np.random.default_rng([settings.seed, len(SPLITS)])
    ends = np.cumsum([settings.labelled_glyphs, settings.validation_glyphs, settings.test_glyphs])
    parts: dict[Split, list[tuple[int, ...]]] = {split: [] for split in SPLITS}
    for digit in range(10):
        shuffled = random.permutation(np.flatnonzero(digits == digit))
        labelled, validation, test, unlabelled = np.split(shuffled, ends)
        for split, part in zip(SPLITS, (labelled, unlabelled, validation, test), strict=True):
            parts[split].append(tuple(part.tolist()))
    return {split: tuple(part) for split, part in parts.items()}


def glyph_mask(glyph: int, size: int, angle: float) -> NDArray[np.bool_]:
    """Return the pixels of a scaled and turned glyph, cut to its ink: bool [H, W], nothing of it lost.

    Args:
        glyph: Its number in `load_digits`.
        size: Height and width of its square in pixels.
        angle: Anticlockwise, in degrees.
    """
    # The glyphs touch the edges of their 8×8 squares: a border of one pixel keeps their strokes whole.
    small = Image.fromarray(np.pad(_digits()[0][glyph], 1).astype(np.float32) / 16)
    side = round(size * 10 / 8)
    large = small.resize((side, side), Image.Resampling.BICUBIC)
    turned = np.asarray(large.rotate(angle, Image.Resampling.BICUBIC, expand=True))
    mask_HW = turned > 0.45
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    return mask_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_crop(
    random: np.random.Generator, settings: SceneSettings, split: Split, photograph: int
) -> tuple[int, int, int, int]:
    height, width = _photographs()[photograph].shape[:2]
    first, last = (round(fraction * width) for fraction in _COLUMNS[split])
    largest = min(1.5, (last - first) / settings.width, height / settings.height)
    scale = random.uniform(1.0, largest)
    crop_height, crop_width = round(settings.height * scale), round(settings.width * scale)
    left = int(random.integers(first, last - crop_width + 1))
    top = int(random.integers(0, height - crop_height + 1))
    return left, top, left + crop_width, top + crop_height


def _draw_paste(
    random: np.random.Generator,
    settings: SceneSettings,
    glyphs: tuple[tuple[int, ...], ...],
    background_HW3: NDArray[np.uint8],
) -> Paste:
    digit = int(random.integers(10))
    glyph = int(random.choice(glyphs[digit]))
    size = int(random.integers(settings.min_size, settings.max_size + 1))
    angle = float(random.uniform(-settings.max_angle, settings.max_angle))
    height, width = glyph_mask(glyph, size, angle).shape
    top = int(random.integers(0, settings.height - height + 1))
    left = int(random.integers(0, settings.width - width + 1))
    covered_3 = background_HW3[top : top + height, left : left + width].mean((0, 1))
    colour_3 = random.integers(0, 256, 3)
    while np.linalg.norm(colour_3 - covered_3) < _MIN_CONTRAST:
        colour_3 = random.integers(0, 256, 3)
    other_3 = np.clip(colour_3 + random.integers(-30, 31, 3), 0, 255)
    first, second = ((int(r), int(g), int(b)) for r, g, b in (colour_3, other_3))
    return Paste(glyph, digit + 1, size, angle, (first, second), top, left)


def _placed(paste: Paste) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    mask_HW = glyph_mask(paste.glyph, paste.size, paste.angle)
    height, width = mask_HW.shape
    return (slice(paste.top, paste.top + height), slice(paste.left, paste.left + width)), mask_HW


def _background(plan: Plan) -> NDArray[np.uint8]:
    left, top, right, bottom = plan.crop
    # Cut before scaling, so that no pixel beyond the crop has a say in the scene.
    crop = Image.fromarray(_photographs()[plan.photograph][top:bottom, left:right])
    image_HW3 = np.array(crop.resize((plan.width, plan.height), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(image_HW3[:, ::-1]) if plan.mirrored else image_HW3


def _tight_box(mask_HW: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@cache
def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the glyphs, [1797, 8, 8] in 0..16, and which digit each is."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing() from error
    loaded = load_digits()
    return loaded.images, loaded.target


@cache
def _photographs() -> tuple[NDArray[np.uint8], ...]:
    """Return the photographs, uint8 RGB [427, 640, 3]."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise _missing() from error
    return tuple(np.asarray(load_sample_image(name)) for name in PHOTOGRAPHS)


def _missing() -> SelftrainError:
    return SelftrainError(
        "the demo makes its scenes from scikit-learn's digits and photographs, and scikit-learn is not installed\n"
        "  pip install 'selftrain[demo]'"
    )
