"""Operations on colours against Pillow's, and where the published ones differ from those, against what was published.

Pillow reckons in whole levels, we do not: results differ by what it rounds off. Tables that map level to level
(Equalize, Invert, Posterize, Solarize, SolarizeAdd) agree to float32. AutoContrast's table cuts the fraction off: less
than 1 level. Blends cut it off likewise, and what they blend with is rounded to a level first, half a level off at
most, which counts |factor − 1| times, at magnitude 15 1.8 times: less than 2 levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.colour import blend_factor, colour_operations, solarize_threshold
from selftrain_augment.config import CustomConfig
from selftrain_augment.operations import OPERATIONS, ColourOptions, Kind, OperationName, kind_of
from selftrain_core.batch import Batch, Targets
from selftrain_core.geometry import FILL_RGB
from selftrain_core.testing.samples import draws

NAMES = [name for name in OPERATIONS if kind_of(name) is Kind.COLOUR]
LEVEL = 1 / 255
EXACT = 1e-3 * LEVEL
SIZE = (60, 80)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Return gradients, texture and noise, uint8 [3, H, W]; pictures differ in brightness and contrast."""
    y_H1, x_W = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])
    texture = 0.1 * torch.sin(40 * x_W + 9 * y_H1) * torch.cos(23 * y_H1)
    planes = [0.2 + 0.6 * x_W + 0 * y_H1, 0.75 - 0.5 * y_H1 + 0 * x_W, 0.3 + 0.4 * x_W * y_H1]
    noisy = torch.stack(planes) + texture + 0.12 * (draws((3, *size), seed, 11) - 0.5)
    low, high = ((0, 255), (40, 200), (120, 190), (5, 110), (150, 250))[seed % 5]
    return (low + (high - low) * noisy).clamp(low, high).to(torch.uint8)


def pillow(image_3HW: Tensor) -> Image.Image:
    return Image.fromarray(image_3HW.permute(1, 2, 0).contiguous().numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def published_factor(magnitude: float) -> float:
    return 0.18 * magnitude + 0.1


def posterized(image: Image.Image, magnitude: float) -> Image.Image:
    return ImageOps.posterize(image, min(8, max(1, int(0.4 * magnitude))))


def solarized_added(image: Image.Image, magnitude: float) -> Image.Image:
    level = np.array(image).astype(int)
    return Image.fromarray(np.where(level < 128, np.minimum(level + int(11 * magnitude), 255), level).astype(np.uint8))


REFERENCES: dict[OperationName, tuple[Callable[[Image.Image, float], Image.Image], float]] = {
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), LEVEL),
    "Equalize": (lambda image, _: ImageOps.equalize(image), EXACT),
    "Invert": (lambda image, _: ImageOps.invert(image), EXACT),
    "Posterize": (posterized, EXACT),
    "Solarize": (lambda image, magnitude: ImageOps.solarize(image, int(25.6 * magnitude)), EXACT),
    "SolarizeAdd": (solarized_added, EXACT),
    "Color": (lambda image, magnitude: ImageEnhance.Color(image).enhance(published_factor(magnitude)), 2 * LEVEL),
    "Contrast": (lambda image, magnitude: ImageEnhance.Contrast(image).enhance(published_factor(magnitude)), 2 * LEVEL),
    "Brightness": (
        lambda image, magnitude: ImageEnhance.Brightness(image).enhance(published_factor(magnitude)),
        LEVEL,  # black needs no rounding
    ),
    "Sharpness": (
        lambda image, magnitude: ImageEnhance.Sharpness(image).enhance(published_factor(magnitude)),
        2 * LEVEL,
    ),
}
MAGNITUDES = (2.0, 5.0, 10.0, 15.0, 0.0)


def excess(name: OperationName, shown_3HW: Tensor, image_3HW: Tensor, magnitude: float) -> float:
    """Return by how much more than its tolerance a result differs from Pillow's; negative where it does not."""
    reference, tolerance = REFERENCES[name]
    return (shown_3HW - tensor(reference(pillow(image_3HW), magnitude))).abs().max().item() - tolerance


def applied(
    name: OperationName, image_B3HW: Tensor, valid: Sequence[Sequence[int]], magnitudes: Sequence[float]
) -> Tensor:
    operation = colour_operations(ColourOptions())[name]
    given = image_B3HW / 255 if image_B3HW.dtype == torch.uint8 else image_B3HW
    return operation(given, torch.tensor(valid), torch.tensor(magnitudes))


def test_every_operation_has_a_reference() -> None:
    assert set(NAMES) == set(REFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_pillow(name: OperationName) -> None:
    """Five pictures of one call, each with a magnitude of its own; then each picture with another."""
    for turn in range(5):
        magnitudes = [MAGNITUDES[(place + turn) % 5] for place in range(5)]
        image_B3HW = torch.stack([picture(seed) for seed in range(5)])
        shown_B3HW = applied(name, image_B3HW, [SIZE] * 5, magnitudes)
        for image_3HW, shown_3HW, magnitude in zip(image_B3HW, shown_B3HW, magnitudes, strict=True):
            assert excess(name, shown_3HW, image_3HW, magnitude) <= 0, magnitude


@pytest.mark.parametrize("name", NAMES)
def test_a_call_of_several_images_is_several_calls(name: OperationName) -> None:
    image_B3HW = torch.stack([picture(seed) for seed in range(5)])
    together = applied(name, image_B3HW, [SIZE] * 5, MAGNITUDES)
    alone = [applied(name, image_B3HW[n : n + 1], [SIZE], MAGNITUDES[n : n + 1]) for n in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fill", [FILL_RGB, (0, 0, 0), (255, 255, 255), (255, 0, 90)])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_canvas_shows_around_a_picture_does_not_count(name: OperationName, fill: tuple[int, int, int]) -> None:
    sizes, magnitudes = [(44, 57), (30, 80), (60, 31), SIZE], [2.0, 7.0, 10.0, 12.0]
    canvas_B3HW = torch.tensor(fill, dtype=torch.uint8)[None, :, None, None].repeat(4, 1, *SIZE)
    for seed, (height, width) in enumerate(sizes):
        canvas_B3HW[seed, :, :height, :width] = picture(seed, (height, width))
    shown_B3HW = applied(name, canvas_B3HW, sizes, magnitudes)
    for place, (height, width) in enumerate(sizes):
        shown_3HW, image_3HW = (images[place, :, :height, :width] for images in (shown_B3HW, canvas_B3HW))
        assert excess(name, shown_3HW, image_3HW, magnitudes[place]) <= 0, place


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 3), (3, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_tiny_pictures_and_canvases(name: OperationName, size: tuple[int, int]) -> None:
    canvas_3HW = torch.full((3, 9, 9), 255, dtype=torch.uint8)
    canvas_3HW[:, : size[0], : size[1]] = picture(1, size)
    for canvas in (canvas_3HW, picture(1, size)):
        shown_3HW = applied(name, canvas[None], [size], [8.0])[0, :, : size[0], : size[1]]
        assert excess(name, shown_3HW, picture(1, size), 8.0) <= 0


def custom(name: OperationName, magnitude: float, **options: object) -> Augment:
    """Return the augmentation that does one operation to every image, and nothing else."""
    still = {"flip_probability": 0, "scale_min": 1, "scale_max": 1}
    step = {"operation": name, "magnitude": magnitude}
    return Augment(CustomConfig.model_validate({"sub_policies": [[step]], **still, **options}))


def batch_of(image_B3HW: Tensor, valid: tuple[int, int], boxes: Sequence[Sequence[float]] = ()) -> Batch:
    number_B = torch.arange(len(image_B3HW))
    valid_B2 = torch.tensor(valid).expand(len(image_B3HW), 2)
    targets = Targets()
    if boxes:
        boxes_BN4 = torch.tensor(boxes).float().expand(len(image_B3HW), len(boxes), 4)
        targets = Targets(boxes_BN4=boxes_BN4, label_BN=torch.zeros(boxes_BN4.shape[:2], dtype=torch.int64))
    matrix_B23 = torch.eye(2, 3).repeat(len(image_B3HW), 1, 1)
    return Batch(image_B3HW, valid_B2, number_B, number_B, valid_B2, matrix_B23, number_B * 0, targets)


@pytest.mark.parametrize("magnitude", [4.0, 9.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_augmentation_does_the_operation_to_the_picture(name: OperationName, magnitude: float) -> None:
    canvas_B3HW = torch.zeros(3, 3, 50, 96, dtype=torch.uint8)
    canvas_B3HW[..., :44, :80] = torch.stack([picture(seed, (44, 80)) for seed in range(3)])
    for given in (canvas_B3HW, canvas_B3HW / 255):
        shown = custom(name, magnitude)(batch_of(given, (44, 80)), torch.arange(3)).image_B3HW
        for image_3HW, shown_3HW in zip(canvas_B3HW, shown, strict=True):
            # Resampled where it lies, a pixel takes a little of its neighbours, by float32's rounding of its place.
            assert excess(name, shown_3HW[:, :44, :80], image_3HW[:, :44, :80], magnitude) <= 1e-2 * LEVEL
        fill_311 = torch.tensor(FILL_RGB)[:, None, None] / 255
        assert (shown[..., 44:, :] == fill_311).all() and (shown[..., 80:] == fill_311).all()


def test_blends_are_the_identity_at_5_and_never_lose_all_of_the_picture() -> None:
    torch.testing.assert_close(
        blend_factor(torch.tensor([0.0, 5.0, 10.0, 15.0])), torch.tensor([0.1, 1.0, 1.9, 2.8]), rtol=0, atol=1e-6
    )
    image_B3HW = picture(1)[None]
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        shown = applied(name, image_B3HW, [SIZE], [5.0])
        torch.testing.assert_close(shown, image_B3HW / 255, rtol=0, atol=1e-6)
    dark = applied("Brightness", image_B3HW, [SIZE], [0.0])
    torch.testing.assert_close(dark, image_B3HW / 2550, rtol=0, atol=1e-6)


@pytest.mark.parametrize("magnitude", [0.0, 2.0, 5.0, 10.0, 15.0])
def test_white_contrast_blends_with_white(magnitude: float) -> None:
    image_3HW, factor = picture(1), published_factor(magnitude)
    reference = tensor(Image.blend(Image.new("RGB", SIZE[::-1], "white"), pillow(image_3HW), factor))
    white, grey = (
        custom("Contrast", magnitude, contrast=kind)(batch_of(image_3HW[None], SIZE), torch.arange(1)).image_B3HW[0]
        for kind in ("white", "grey")
    )
    assert (white - reference).abs().max() <= LEVEL + 1e-5
    # Below 5 the published one is the lighter, above it the darker (but for what is clipped): Pillow's keeps the mean.
    lighter = (white - grey).mean().item()
    assert (lighter > 0.1) == (factor < 0.9) and (lighter < -0.1) == (factor > 1.1)


def test_solarize_falls_with_the_magnitude_and_does_nothing_at_10() -> None:
    image_B3HW = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    shares = []
    for magnitude in (0, 2, 5, 8, 9.9, 10, 15):
        shown = applied("Solarize", image_B3HW, [(1, 256)], [magnitude])[0, 0, 0]
        is_inverted = torch.isclose(shown, 1 - image_B3HW[0, 0, 0] / 255, rtol=0, atol=1e-6)
        assert is_inverted.tolist() == [level >= min(256, int(25.6 * magnitude)) for level in range(256)]
        shares.append(int(is_inverted.sum()))
    assert shares == [256, 205, 128, 52, 3, 0, 0]


def test_rising_solarize_inverts_the_more_the_larger_the_magnitude() -> None:
    assert solarize_threshold(torch.tensor([0.0, 2.0, 5.0, 10.0, 15.0]), rising=True).tolist() == [256, 205, 128, 0, 0]
    image_3HW = picture(0)
    for magnitude in (0, 2, 5, 10):
        batch = batch_of(image_3HW[None], SIZE)
        shown = custom("Solarize", magnitude, solarize="rising")(batch, torch.arange(1)).image_B3HW[0]
        reference = tensor(ImageOps.solarize(pillow(image_3HW), 256 - int(25.6 * magnitude)))
        torch.testing.assert_close(shown, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("magnitude", "bits"), [(0, 1), (2, 1), (2.4, 1), (2.5, 1), (7.4, 2), (10, 4), (20, 8), (30, 8)]
)
def test_posterize_keeps_so_many_bits_and_at_least_one(magnitude: float, bits: int) -> None:
    image_B3HW = picture(2)[None]
    shown = applied("Posterize", image_B3HW, [SIZE], [magnitude])
    expected = (image_B3HW.int() >> (8 - bits) << (8 - bits)) / 255
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-6)
    assert shown.any()


def test_solarize_add_changes_what_is_darker_than_128_alone() -> None:
    image_B3HW = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)
    shown = applied("SolarizeAdd", image_B3HW, [(1, 256)] * 2, [6.5, 15.0])[:, 0, 0] * 255
    levels = torch.arange(256)
    assert shown[0].round().tolist() == torch.where(levels < 128, levels + 71, levels).tolist()
    assert shown[1].round().tolist() == torch.where(levels < 128, (levels + 165).clamp(max=255), levels).tolist()
