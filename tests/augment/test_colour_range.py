"""No operation leaves 0..1 or makes a NaN, in float32 or bfloat16, whatever the picture and the magnitude; the sizes
of what is cut out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.colour import colour_operations
from selftrain_augment.config import CustomConfig
from selftrain_augment.operations import OPERATIONS, ColourOptions, Kind, OperationName, kind_of
from selftrain_augment.regions import GREY, bbox_cutout_box
from selftrain_core.batch import Batch, Targets
from selftrain_core.keys import fold
from selftrain_core.testing.samples import draws

COLOURS = [name for name in OPERATIONS if kind_of(name) is Kind.COLOUR]
STILL = {"flip_probability": 0, "scale_min": 1, "scale_max": 1}
BOXES = ((2.0, 3.0, 20.0, 15.0), (10.0, 8.0, 30.0, 22.0), (0.0, 0.0, 36.0, 24.0))
SIZE = (24, 36)
BFLOAT16_ERROR = 6 / 255
"""bfloat16 has steps of 1/256 near 1: half a level off. A blend with factor 2.8 counts 1.8 times what the
grey or the smoothed picture is off, sums that were rounded several times: up to 4 levels."""


def custom(name: OperationName, magnitude: float, **options: object) -> Augment:
    step = {"operation": name, "magnitude": magnitude}
    return Augment(CustomConfig.model_validate({"sub_policies": [[step]], **STILL, **options}))


def batch_of(image_B3HW: Tensor, valid: Sequence[int], boxes: Sequence[Sequence[float]] = BOXES) -> Batch:
    """Return images that all have the same boxes, all of them objects."""
    num_images = len(image_B3HW)
    number_B, valid_B2 = torch.arange(num_images), torch.tensor(valid).expand(num_images, 2)
    boxes_BN4 = torch.tensor(boxes).expand(num_images, len(boxes), 4)
    targets = Targets(boxes_BN4=boxes_BN4, label_BN=torch.zeros(boxes_BN4.shape[:2], dtype=torch.int64))
    matrix_B23 = torch.eye(2, 3).repeat(num_images, 1, 1)
    return Batch(image_B3HW, valid_B2, number_B, number_B, valid_B2, matrix_B23, number_B * 0, targets)


def pictures() -> Tensor:
    """Return black, white, grey and coloured ones, one in each channel constant, one of noise: uint8 [B, 3, H, W]."""
    constants = torch.tensor([[0, 0, 0], [255] * 3, [128] * 3, [127] * 3, [0, 255, 90], [1, 254, 2]])
    flat_B3HW = constants[:, :, None, None].expand(-1, 3, *SIZE).to(torch.uint8)
    noise_13HW = (draws((1, 3, *SIZE), 3) * 256).to(torch.uint8)
    two_values_13HW = noise_13HW // 128 * 255
    narrow_13HW = 200 + noise_13HW // 64
    return torch.cat([flat_B3HW, noise_13HW, two_values_13HW, narrow_13HW])


@pytest.mark.parametrize("magnitude", [0.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_stays_in_0_to_1(name: OperationName, magnitude: float) -> None:
    image_B3HW = pictures()
    for options in ({}, {"contrast": "white", "solarize": "rising"}):
        augment = custom(name, magnitude, pixel_reference=36, **options)
        for dtype in (torch.float32, torch.bfloat16):
            given = batch_of((image_B3HW / 255).to(dtype), (20, 34))
            for keys in range(3):
                shown = augment(given, fold(keys, given.id_B)).image_B3HW
                assert shown.dtype == dtype
                assert shown.isfinite().all()
                assert shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_bfloat16_is_close_to_float32(name: OperationName) -> None:
    """Given the same pictures, rounded to bfloat16 alike."""
    rounded = (pictures() / 255).bfloat16()
    for magnitude in (2.0, 8.0, 15.0):
        augment, key_B = custom(name, magnitude, pixel_reference=36), fold(7, torch.arange(len(rounded)))
        short = augment(batch_of(rounded, (20, 34)), key_B).image_B3HW
        long = augment(batch_of(rounded.float(), (20, 34)), key_B).image_B3HW
        torch.testing.assert_close(short.float(), long, rtol=0, atol=BFLOAT16_ERROR)


@pytest.mark.parametrize("options", [ColourOptions(), ColourOptions(white_contrast=True, rising_solarize=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", COLOURS)
def test_colours_stay_in_0_to_1_at_every_magnitude(
    name: OperationName, dtype: torch.dtype, options: ColourOptions
) -> None:
    magnitude_B = torch.arange(0, 30.01, 0.25)
    any_value_B3HW = draws((len(magnitude_B), 3, 9, 11), 1).to(dtype)  # between the 256 levels, too
    sizes_B2 = torch.tensor([[9, 11], [5, 7], [1, 1], [9, 2]]).repeat(31, 1)[: len(magnitude_B)]
    for image_B3HW in (any_value_B3HW, any_value_B3HW.round(), any_value_B3HW * 0, any_value_B3HW * 0 + 1):
        shown = colour_operations(options)[name](image_B3HW, sizes_B2, magnitude_B)
        assert shown.dtype == dtype
        assert shown.shape == image_B3HW.shape
        assert shown.isfinite().all()
        assert shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Color"])
def test_a_picture_of_one_grey_stays(name: OperationName) -> None:
    image_B3HW = pictures()[:4]
    shown = custom(name, 9)(batch_of(image_B3HW, SIZE), torch.arange(4)).image_B3HW
    torch.testing.assert_close(shown, image_B3HW / 255, rtol=0, atol=1e-5)


def cut_rows_and_columns(shown_3HW: Tensor) -> tuple[list[int], list[int]]:
    """Return first and last row, and first and last column, of what is grey; asserts that all of it is."""
    is_grey_HW = torch.isclose(shown_3HW, torch.tensor(GREY), rtol=0, atol=1e-5).all(0)
    rows_R, columns_C = is_grey_HW.any(1).nonzero()[:, 0], is_grey_HW.any(0).nonzero()[:, 0]
    assert is_grey_HW.sum() == len(rows_R) * len(columns_C), "it is no rectangle"
    return [int(rows_R[0]), int(rows_R[-1])], [int(columns_C[0]), int(columns_C[-1])]


@pytest.mark.parametrize(
    ("magnitude", "reference", "centre", "rows", "columns"),
    [
        (1.0, None, (0.5, 0.5), [20, 39], [30, 49]),  # a square of 20, twice int(10 · 1)
        (0.79, None, (0.5, 0.5), [23, 36], [33, 46]),  # int(7.9) is 7
        (2.0, None, (0.5, 0.5), [10, 49], [20, 59]),
        (2.0, 160, (0.5, 0.5), [20, 39], [30, 49]),  # half of the pixels on a picture half as large
        (1.0, None, (0.0, 0.0), [0, 9], [0, 9]),  # the centre lies anywhere: a quarter of it is left in a corner
        (1.0, None, (0.9875, 0.25), [5, 24], [69, 79]),
        (10.0, None, (0.5, 0.5), [0, 59], [0, 79]),
    ],
)
def test_cutout_is_a_square_about_any_point_of_the_picture(
    magnitude: float, reference: float | None, centre: tuple[float, float], rows: list[int], columns: list[int]
) -> None:
    augment = custom("Cutout", magnitude, pixel_reference=reference)
    batch = batch_of(torch.zeros(1, 3, 60, 80), (60, 80))
    drawn = augment.parameters(batch, torch.arange(1))
    drawn |= {"x_BK": torch.tensor([[centre[0]]]), "y_BK": torch.tensor([[centre[1]]])}
    assert cut_rows_and_columns(augment.replay(batch, drawn).image_B3HW[0]) == (rows, columns)


def test_cutout_stays_off_what_is_no_picture() -> None:
    augment = custom("Cutout", 30)
    shown = augment(batch_of(torch.zeros(1, 3, 60, 80), (40, 50)), torch.arange(1)).image_B3HW
    is_grey_HW = torch.isclose(shown, torch.tensor(GREY), rtol=0, atol=1e-5).all(1)[0]
    assert not is_grey_HW[40:].any() and not is_grey_HW[:, 50:].any()


@pytest.mark.parametrize(
    ("magnitude", "centre", "rows", "columns"),
    [
        (10.0, (0.5, 0.5), [15, 29], [15, 44]),  # 0.75 of a box of 20 × 40
        (4.0, (0.5, 0.5), [19, 24], [24, 35]),  # 0.3 of it
        (4.0, (0.0, 0.0), [9, 14], [4, 15]),  # its centre lies in the box, and all of it in the picture
        (10.0, (0.99, 0.5), [15, 29], [35, 64]),
    ],
)
def test_bbox_cutout_is_a_share_of_the_box(
    magnitude: float, centre: tuple[float, float], rows: list[int], columns: list[int]
) -> None:
    augment = custom("BBox_Cutout", magnitude)
    batch = batch_of(torch.zeros(1, 3, 60, 80), (60, 80), [(10.0, 12.25, 50.0, 32.25)])
    drawn = augment.parameters(batch, torch.arange(1))
    drawn |= {"x_BK": torch.tensor([[centre[0]]]), "y_BK": torch.tensor([[centre[1]]])}
    assert cut_rows_and_columns(augment.replay(batch, drawn).image_B3HW[0]) == (rows, columns)


def test_bbox_cutout_takes_each_object_alike_and_nothing_else() -> None:
    boxes_N4 = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4], [30, 0, 34, 4], [40, 0, 44, 4]])
    is_object_BN = torch.tensor([[False, True, False, True, True], [False] * 5])
    choice_C = (torch.arange(300) + 0.5) / 300
    for image, expected in ((0, {11: 100, 31: 100, 41: 100}), (1, {0: 300})):
        cut_C4 = bbox_cutout_box(
            boxes_N4.expand(300, 5, 4), is_object_BN[image].expand(300, 5), choice_C, torch.full((300,), 10 / 1.5),
            torch.full((300,), 0.5), torch.full((300,), 0.5),
        )  # fmt: skip
        found = cut_C4[:, 0].round().int().unique(return_counts=True)
        assert dict(zip(*(values.tolist() for values in found), strict=True)) == expected
        assert bool((cut_C4[:, 2] > cut_C4[:, 0]).all()) == bool(is_object_BN[image].any())
