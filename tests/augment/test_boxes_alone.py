"""Operations on what boxes show, against NumPy and Pillow: nothing else changes, not by a bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tests.augment.scenes import operation_map, painted, tensors
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.config import CustomConfig
from selftrain_augment.operations import OPERATIONS
from selftrain_core.batch import Batch

GREY = 128
HEIGHT, WIDTH = 64, 32  # powers of two, on which resampling at pixels' centres is exact
VALID = (60, 32)
RECTANGLES = [(1, 3, 12, 20), (14, 5, 31, 25), (2, 30, 30, 58)]
REGION = (3, 26, 9, 29)
Levels = NDArray[np.uint8]
ONLY = [name for name in OPERATIONS if name.endswith("_Only_BBoxes")]


def noise_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    return replace(painted((HEIGHT, WIDTH), VALID, RECTANGLES, REGION), image_B3HW=image)


def augmentation(operation: str, magnitude: float, **options: Any) -> Augment:
    settings = {"flip_probability": 0, "scale_min": 1, "scale_max": 1, "pixel_reference": None}
    steps = [[{"operation": operation, "magnitude": magnitude}]]
    return Augment(CustomConfig.model_validate(settings | {"sub_policies": steps} | options))


def drawn(augment: Augment, batch: Batch, sign: float = 1.0, key: int = 4, **changed: Tensor) -> dict[str, Tensor]:
    """Return parameters under which the operation is done to every box."""
    parameters = augment.parameters(batch, torch.tensor([key]))
    ones = torch.ones_like(parameters["box_x_BKN"])
    return parameters | {"box_applies_BKN": ones.bool(), "box_sign_BKN": sign * ones} | changed


def levels(batch: Batch) -> Levels:
    """Return the picture as whole numbers, [H, W, 3], which it must consist of."""
    image = tensors(batch)["image_B3HW"][0].permute(1, 2, 0).double().numpy()
    found = np.round(image * (1 if batch.image_B3HW.dtype == torch.uint8 else 255))
    if batch.image_B3HW.is_floating_point():
        assert np.abs(found / 255 - image).max() < 1e-4
    whole: Levels = found[: VALID[0], : VALID[1]].astype(np.uint8)
    return whole


def assert_the_rest_stays(batch: Batch, changed: Batch, boxes: list[tuple[int, int, int, int]]) -> None:
    """Pixels outside the boxes are bit-equal, boxes, masks and the matrix too."""
    is_outside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    is_outside[: VALID[0], : VALID[1]] = True
    for left, top, right, bottom in boxes:
        is_outside[top:bottom, left:right] = False
    before, after = batch.image_B3HW.float() / 255, changed.image_B3HW
    assert torch.equal(before[..., is_outside], after[..., is_outside])
    old, new = tensors(batch), tensors(changed)
    for name in ("boxes_BN4", "label_BN", "weight_BN", "canvas_B2"):
        assert torch.equal(old[f"targets.{name}"], new[f"targets.{name}"]), name
    for name in ("mask_BHW", "weight_BHW", "runners_up_BKHW"):
        assert torch.equal(old[f"targets.{name}"][..., : VALID[0], :], new[f"targets.{name}"][..., : VALID[0], :]), name
    assert torch.equal(old["matrix_B23"], new["matrix_B23"])


def pasted(image: Levels, name: str, shift: int) -> Levels:
    """Return the picture with each box's pixels moved `shift` pixels in it, or mirrored."""
    result = image.copy()
    for left, top, right, bottom in RECTANGLES:
        content = image[top:bottom, left:right]
        if name.startswith("Flip"):
            result[top:bottom, left:right] = content[:, ::-1]
            continue
        axis = 1 if name.startswith("TranslateX") else 0
        box, size = np.full_like(content, GREY), content.shape[axis]
        kept = max(0, size - abs(shift))
        to, source = max(0, shift), max(0, -shift)
        if axis:
            box[:, to : to + kept] = content[:, source : source + kept]
        else:
            box[to : to + kept] = content[source : source + kept]
        result[top:bottom, left:right] = box
    return result


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("magnitude", [0.0, 0.1, 0.25, 0.6, 1.5, 10.0])
@pytest.mark.parametrize("name", ["TranslateX_Only_BBoxes", "TranslateY_Only_BBoxes", "Flip_Only_BBoxes"])
def test_whole_pixels_are_cut_and_pasted(name: str, magnitude: float, sign: float) -> None:
    batch, augment = noise_batch(), augmentation(name, magnitude)
    changed = augment.replay(batch, drawn(augment, batch, sign))
    assert_the_rest_stays(batch, changed, RECTANGLES)
    expected = pasted(levels(batch), name, int(sign) * int(12 * magnitude))
    np.testing.assert_array_equal(levels(changed), expected)


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize("magnitude", [0, 3, 5, 8, 10])
def test_solarize_inverts_from_the_threshold_on(magnitude: int, rising: bool) -> None:
    batch = noise_batch()
    augment = augmentation("Solarize_Only_BBoxes", magnitude, solarize="rising" if rising else "falling")
    changed = augment.replay(batch, drawn(augment, batch))
    assert_the_rest_stays(batch, changed, RECTANGLES)
    threshold, image = int(magnitude * 256 / 10), levels(batch)
    inverted = np.where(image < (256 - threshold if rising else threshold), image, 255 - image)
    np.testing.assert_array_equal(levels(changed), replaced(image, inverted))


def replaced(image: Levels, other: Levels) -> Levels:
    result = image.copy()
    for left, top, right, bottom in RECTANGLES:
        result[top:bottom, left:right] = other[top:bottom, left:right]
    return result


@pytest.mark.parametrize("spread", [256, 40, 3, 1])
def test_equalize_is_pillows_on_each_box(spread: int) -> None:
    batch = noise_batch()
    batch = replace(batch, image_B3HW=(batch.image_B3HW.int() * spread // 256 + 60).clamp(max=255).to(torch.uint8))
    augment = augmentation("Equalize_Only_BBoxes", 10)
    changed = augment.replay(batch, drawn(augment, batch))
    assert_the_rest_stays(batch, changed, RECTANGLES)
    expected = levels(batch)
    for left, top, right, bottom in RECTANGLES:
        crop = Image.fromarray(np.ascontiguousarray(expected[top:bottom, left:right]))
        expected[top:bottom, left:right] = np.asarray(ImageOps.equalize(crop))
    np.testing.assert_array_equal(levels(changed), expected)


@pytest.mark.parametrize("magnitude", [0.2, 0.6, 1.0, 10.0])
def test_cutout_stays_in_its_box(magnitude: float) -> None:
    batch, augment = noise_batch(), augmentation("Cutout_Only_BBoxes", magnitude)
    for key in range(5):
        parameters = drawn(augment, batch, key=key)
        changed = augment.replay(batch, parameters)
        assert_the_rest_stays(batch, changed, RECTANGLES)
        expected, clear = levels(batch), np.ones(VALID, np.bool_)
        half = int(5 * magnitude)
        for number, (left, top, right, bottom) in enumerate(RECTANGLES):
            share_x, share_y = (parameters[f"box_{axis}_BKN"][0, 0, number].item() for axis in "xy")
            y, x = np.mgrid[top:bottom, left:right] + 0.5
            far_x = np.abs(x - left - share_x * (right - left))
            far_y = np.abs(y - top - share_y * (bottom - top))
            expected[top:bottom, left:right][(far_x < half) & (far_y < half)] = GREY
            is_tie = (np.abs(far_x - half) < 1e-3) | (np.abs(far_y - half) < 1e-3)
            clear[top:bottom, left:right] = ~is_tie
        np.testing.assert_array_equal(levels(changed)[clear], expected[clear])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("magnitude", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("name", ["ShearX_Only_BBoxes", "ShearY_Only_BBoxes", "Rotate_Only_BBoxes"])
def test_what_turns_or_leans_in_its_box_comes_from_the_box(name: str, magnitude: float, sign: float) -> None:
    """A ramp shows by its value where each pixel comes from: red in x, green in y."""
    batch, augment = noise_batch(), augmentation(name, magnitude)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    image = torch.from_numpy(np.stack([x / 64, y / 64, 0 * x])[None]).float()
    batch = replace(batch, image_B3HW=image)
    changed = augment.replay(batch, drawn(augment, batch, sign))
    found = changed.image_B3HW[0].double().numpy()
    for left, top, right, bottom in RECTANGLES:
        matrix = operation_map(name, (bottom - top, right - left), magnitude, 1.0, sign)
        y, x = np.mgrid[0 : bottom - top, 0 : right - left] + 0.5
        there = np.linalg.inv(matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        x, y = there[0].reshape(x.shape), there[1].reshape(x.shape)
        depth = np.minimum.reduce([x, y, right - left - x, bottom - top - y])
        here = found[:, top:bottom, left:right]
        expected_x = np.clip(x, 0.5, right - left - 0.5) + left
        expected_y = np.clip(y, 0.5, bottom - top - 0.5) + top
        assert np.abs(here[0] * 64 - expected_x)[depth > 1e-3].max() < 2e-3
        assert np.abs(here[1] * 64 - expected_y)[depth > 1e-3].max() < 2e-3
        if (depth < -1e-3).any():
            assert np.abs(here[:, depth < -1e-3] - GREY / 255).max() < 1e-6


@pytest.mark.parametrize("swapped", [False, True])
def test_of_overlapping_boxes_one_has_the_pixel_and_reads_the_picture_as_it_was(swapped: bool) -> None:
    first, second = (2, 2, 20, 20), (10, 10, 30, 40)
    batch = replace(painted((HEIGHT, WIDTH), VALID, [first, second], REGION), image_B3HW=noise_batch().image_B3HW)
    augment = augmentation("Flip_Only_BBoxes", 1)
    order = torch.tensor([[[0.2, 0.8, 0.9, 0.95, 0.99]]])
    order = order[..., [1, 0, 2, 3, 4]] if swapped else order
    changed = augment.replay(batch, drawn(augment, batch, box_order_BKN=order))
    image, expected = levels(batch), levels(batch)
    for left, top, right, bottom in (second, first) if swapped else (first, second):
        expected[top:bottom, left:right] = image[top:bottom, left:right][:, ::-1]
    np.testing.assert_array_equal(levels(changed), expected)
    assert_the_rest_stays(batch, changed, [first, second])


@pytest.mark.parametrize("name", [*ONLY, "BBox_Cutout"])
def test_regions_to_ignore_and_padding_are_never_edited(name: str) -> None:
    """Also where padding has a box."""
    batch, augment = noise_batch(), augmentation(name, 4)
    boxes = tensors(batch)["targets.boxes_BN4"].clone()
    boxes[0, 4] = torch.tensor([4.0, 4.0, 28.0, 40.0])
    label = torch.tensor([[-2, -2, -1, -2, -1]])
    batch = replace(batch, targets=replace(batch.targets, boxes_BN4=boxes, label_BN=label))
    for key in range(5):
        changed = (
            augment.replay(batch, drawn(augment, batch, key=key))
            if name in ONLY
            else augment(batch, torch.tensor([key]))
        )
        assert torch.equal(changed.image_B3HW[..., : VALID[0], :], batch.image_B3HW[..., : VALID[0], :] / 255)


@pytest.mark.parametrize("name", ONLY)
def test_boxes_that_it_is_not_done_to_stay(name: str) -> None:
    batch, augment = noise_batch(), augmentation(name, 4)
    applies = torch.tensor([[[False, True, False, True, True]]])
    changed = augment.replay(batch, drawn(augment, batch, box_applies_BKN=applies))
    assert_the_rest_stays(batch, changed, RECTANGLES[1:2])


@pytest.mark.parametrize("name", [*ONLY, "BBox_Cutout"])
@pytest.mark.parametrize("boxes", ["none", "no place for any", "no labels"])
def test_images_without_boxes_stay(name: str, boxes: str) -> None:
    batch, augment = noise_batch(), augmentation(name, 4)
    targets = batch.targets
    if boxes == "none":
        targets = replace(targets, boxes_BN4=None, label_BN=None, weight_BN=None)
    elif boxes == "no labels":
        targets = replace(targets, label_BN=None, weight_BN=None)
    else:
        of_boxes = ("boxes_BN4", "label_BN", "weight_BN")
        targets = replace(targets, **{field: tensors(batch)[f"targets.{field}"][:, :0] for field in of_boxes})
    batch = replace(batch, targets=targets)
    for key in range(5):
        changed = augment(batch, torch.tensor([key]))
        assert torch.equal(changed.image_B3HW[..., : VALID[0], :], batch.image_B3HW[..., : VALID[0], :] / 255)


def test_bbox_cutout_is_cut_out_in_proportion_to_its_box_and_moves_no_box() -> None:
    """0.075 · magnitude of the box's height and width, about a point in it, and it may reach out of it."""
    batch, augment = noise_batch(), augmentation("BBox_Cutout", 4)
    chosen = set()
    for key in range(12):
        parameters = augment.parameters(batch, torch.tensor([key]))
        changed = augment.replay(batch, parameters)
        share_x, share_y, choice = (parameters[name][0, 0].item() for name in ("x_BK", "y_BK", "choice_BK"))
        left, top, right, bottom = RECTANGLES[int(choice * 3)]
        chosen.add(int(choice * 3))
        y, x = np.mgrid[0 : VALID[0], 0 : VALID[1]] + 0.5
        is_cut = np.abs(x - left - share_x * (right - left)) < 0.15 * (right - left)
        is_cut &= np.abs(y - top - share_y * (bottom - top)) < 0.15 * (bottom - top)
        expected = levels(batch)
        expected[is_cut] = GREY
        np.testing.assert_array_equal(levels(changed), expected)
        assert torch.equal(tensors(changed)["targets.boxes_BN4"], tensors(batch)["targets.boxes_BN4"])
    assert chosen == {0, 1, 2}
