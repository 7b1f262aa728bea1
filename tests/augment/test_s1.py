"""Augment-S1 against painted pixels: what a mask, a box and an image show must be the same thing in the same place."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from selftrain_augment.augment import Augment
from selftrain_augment.config import S1Config
from selftrain_augment.placement import place
from selftrain_core.batch import Batch, Targets
from selftrain_core.geometry import FILL_RGB
from selftrain_core.keys import fold

BACKGROUND_RGB, OBJECT_RGB = (10, 200, 90), (250, 20, 30)
FILL = torch.tensor(FILL_RGB)[:, None, None] / 255
AUGMENT = Augment(S1Config())
KEYS = st.integers(-(2**63), 2**63 - 1)


def painted(canvas: tuple[int, int], valid: tuple[int, int], box: tuple[int, int, int, int]) -> Batch:
    """Return one image with a painted object; white and class 7 stand where there is no picture, to be noticed."""
    left, top, right, bottom = box
    image, mask = torch.full((3, *canvas), 255, dtype=torch.uint8), torch.full(canvas, 7, dtype=torch.uint8)
    image[:, : valid[0], : valid[1]] = torch.tensor(BACKGROUND_RGB)[:, None, None]
    image[:, top:bottom, left:right] = torch.tensor(OBJECT_RGB)[:, None, None]
    mask[: valid[0], : valid[1]] = 0
    mask[top:bottom, left:right] = 3
    targets = Targets(
        mask_BHW=mask[None],
        weight_BHW=0.5 + mask[None] / 4,
        runners_up_BKHW=mask[None, None] + 1,
        runner_up_weight_BKHW=mask[None, None] / 16,
        boxes_BN4=torch.tensor([[list(box), [0, 0, 0, 0], [0, 0, valid[1], valid[0]]]], dtype=torch.float32),
        label_BN=torch.tensor([[3, -1, -2]]),
        weight_BN=torch.tensor([[0.75, 0.0, 1.0]]),
        class_B=torch.tensor([3]),
        class_weight_B=torch.tensor([0.75]),
        canvas_B2=torch.tensor([canvas]),
    )
    return Batch(
        image_B3HW=image[None],
        valid_B2=torch.tensor([valid]),
        id_B=torch.tensor([1]),
        visit_B=torch.tensor([0]),
        original_B2=torch.tensor([[2 * valid[0], 4 * valid[1]]]),
        matrix_B23=torch.tensor([[[0.25, 0.0, 0.0], [0.0, 0.5, 0.0]]]),
        source_B=torch.tensor([0]),
        targets=targets,
    )


@st.composite
def painted_batches(draw: st.DrawFn) -> Batch:
    canvas = draw(st.tuples(st.integers(12, 48), st.integers(12, 48)))
    valid = (draw(st.integers(6, canvas[0])), draw(st.integers(6, canvas[1])))
    left, top = draw(st.integers(0, valid[1] - 3)), draw(st.integers(0, valid[0] - 3))
    right, bottom = draw(st.integers(left + 3, valid[1])), draw(st.integers(top + 3, valid[0]))
    return painted(canvas, valid, (left, top, right, bottom))


def key(value: int) -> Tensor:
    return torch.tensor([value])


def drawn(flip: bool = False, scale: float = 1.0, crop_x: float = 0.0, crop_y: float = 0.0) -> dict[str, Tensor]:
    return {
        "flip_B": torch.tensor([flip]),
        "scale_B": torch.tensor([scale]),
        "crop_x_B": torch.tensor([crop_x]),
        "crop_y_B": torch.tensor([crop_y]),
    }


def concatenated(batches: list[Any]) -> Any:
    first, changed = batches[0], {}
    for field in fields(first):
        values = [getattr(batch, field.name) for batch in batches]
        changed[field.name] = torch.cat(values) if isinstance(values[0], Tensor) else concatenated(values)
    return replace(first, **changed)


def tensors(group: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for field in fields(group):
        value = getattr(group, field.name)
        found |= {field.name: value} if isinstance(value, Tensor) else tensors(value) if value is not None else {}
    return found


def assert_same(first: Batch, second: Batch) -> None:
    expected, given_ = tensors(first), tensors(second)
    assert expected.keys() == given_.keys()
    for name, value in expected.items():
        assert value.dtype == given_[name].dtype
        assert torch.equal(value, given_[name]), name


def mask_of(batch: Batch) -> Tensor:
    return tensors(batch)["mask_BHW"][0]


def boxes_of(batch: Batch) -> tuple[Tensor, list[int]]:
    found = tensors(batch)
    return found["boxes_BN4"][0], found["label_BN"][0].tolist()


def analytic_axis(
    size: int, canvas: int, scale: float, crop: float, flip: bool
) -> tuple[int, NDArray[np.float64], NDArray[np.bool_]]:
    """Return, for one axis and in float64, the new extent, each new pixel's source point, and whether it is no tie."""
    scaled = max(1, round(size * scale))
    extent = min(canvas, scaled)
    offset = int(crop * (max(0, scaled - canvas) + 1))
    points = (np.arange(extent) + 0.5 + offset) * size / scaled
    points = size - points if flip else points
    return extent, points, np.abs(points - points.round()) > 1e-3


@settings(deadline=None)
@given(painted_batches(), KEYS)
def test_image_mask_and_weights_are_the_painted_truth_mapped_analytically(batch: Batch, seed: int) -> None:
    assert batch.targets.mask_BHW is not None
    noise = torch.randint(0, 255, batch.targets.mask_BHW.shape, generator=torch.Generator().manual_seed(seed >> 1 & 99))
    batch = replace(batch, targets=replace(batch.targets, mask_BHW=noise.to(torch.uint8)))
    parameters = AUGMENT.parameters(batch, key(seed))
    changed = AUGMENT.replay(batch, parameters)

    flip, scale, crop_x, crop_y = (parameters[name].item() for name in ("flip_B", "scale_B", "crop_x_B", "crop_y_B"))
    (height, width), (canvas_height, canvas_width) = batch.valid_B2[0].tolist(), noise.shape[1:]
    new_height, y, no_tie_y = analytic_axis(height, canvas_height, scale, crop_y, flip=False)
    new_width, x, no_tie_x = analytic_axis(width, canvas_width, scale, crop_x, flip=bool(flip))
    assert changed.valid_B2.tolist() == [[new_height, new_width]]

    certain = no_tie_y[:, None] & no_tie_x[None, :]
    source = np.ix_(y.astype(int), x.astype(int))
    for old, new in ((noise[0], mask_of(changed)), (batch.targets.weight_BHW, changed.targets.weight_BHW)):
        assert old is not None and new is not None
        expected, shown = old.view(noise.shape[1:]).numpy()[source], new.view(noise.shape[1:]).numpy()
        assert (expected == shown[:new_height, :new_width])[certain].all()

    left, top, right, bottom = boxes_of(batch)[0][0].tolist()
    columns_in, rows_in = np.arange(width), np.arange(height)
    # Bilinear interpolation of a rectangle is a product; np.interp repeats the border, as at the picture's edge.
    share_x = np.interp(x - 0.5, columns_in, (columns_in >= left) & (columns_in < right))
    share_y = np.interp(y - 0.5, rows_in, (rows_in >= top) & (rows_in < bottom))
    share_HW1 = (share_y[:, None] * share_x[None, :])[..., None]
    expected = share_HW1 * OBJECT_RGB + (1 - share_HW1) * BACKGROUND_RGB
    shown = changed.image_B3HW[0, :, :new_height, :new_width].permute(1, 2, 0).numpy() * 255
    assert np.abs(expected - shown).max() < 0.05


@settings(deadline=None)
@given(painted_batches(), KEYS)
def test_image_mask_and_box_show_the_same_object(batch: Batch, seed: int) -> None:
    changed = AUGMENT(batch, key(seed))
    mask, (boxes, labels) = mask_of(changed), boxes_of(changed)
    height, width = changed.valid_B2[0].tolist()

    for class_index, colour in ((0, BACKGROUND_RGB), (3, OBJECT_RGB)):
        # Away from edges: those of the crop too, behind which the object may go on or end.
        pure = avg_pool2d((mask == class_index).float()[None], 5, stride=1, padding=2)[0] > 0.99
        shown = changed.image_B3HW[0, :, pure]
        torch.testing.assert_close(shown, torch.tensor(colour)[:, None].expand_as(shown) / 255, rtol=0, atol=1e-4)

    rows, columns = (mask == 3).nonzero(as_tuple=True)
    if labels[0] == -1:
        assert len(rows) == 0
        assert boxes[0].tolist() == [0, 0, 0, 0]
    elif len(rows):
        edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (boxes[0] - edges).abs().max() <= 0.5 + 1e-3
    else:
        assert (boxes[0, 2:] - boxes[0, :2]).min() < 1, "no pixel centre lies in the box"
    assert labels[1:] == [-1, -2]
    assert boxes[1].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(boxes[2], torch.tensor([0.0, 0.0, width, height]), rtol=0, atol=1e-4)


@settings(deadline=None)
@given(painted_batches(), KEYS)
def test_outside_the_picture_there_is_fill_class_255_and_weight_0(batch: Batch, seed: int) -> None:
    changed = AUGMENT(batch, key(seed))
    height, width = changed.valid_B2[0].tolist()
    outside = torch.ones(batch.image_B3HW.shape[2:], dtype=torch.bool)
    outside[:height, :width] = False
    assert changed.targets.weight_BHW is not None
    assert (changed.image_B3HW[0] == FILL)[:, outside].all()
    assert (mask_of(changed)[outside] == 255).all()
    assert (changed.targets.weight_BHW[0][outside] == 0).all()
    assert (mask_of(changed)[~outside] <= 3).all()
    assert (changed.targets.weight_BHW[0][~outside] > 0).all()
    assert (tensors(changed)["runner_up_weight_BKHW"][0, 0][outside] == 0).all()
    assert torch.equal(tensors(changed)["runners_up_BKHW"][0, 0], mask_of(changed) + (~outside).to(torch.uint8))


@settings(deadline=None)
@given(painted_batches(), KEYS)
def test_matrix_takes_the_original_corners_to_the_moved_pictures_corners(batch: Batch, seed: int) -> None:
    parameters = AUGMENT.parameters(batch, key(seed))
    changed = AUGMENT.replay(batch, parameters)
    height, width = batch.original_B2[0].tolist()
    corners = changed.matrix_B23[0].double() @ torch.tensor([[0, 0, 1], [width, height, 1]], dtype=torch.float64).T

    canvas_height, canvas_width = batch.image_B3HW.shape[2:]
    scaled = [max(1, round(size * parameters["scale_B"].item())) for size in batch.valid_B2[0].tolist()]
    left = int(parameters["crop_x_B"].item() * (max(0, scaled[1] - canvas_width) + 1))
    top = int(parameters["crop_y_B"].item() * (max(0, scaled[0] - canvas_height) + 1))
    x = [-left, scaled[1] - left]
    expected = torch.tensor([x[::-1] if parameters["flip_B"].item() else x, [-top, scaled[0] - top]]).double()
    torch.testing.assert_close(corners, expected, rtol=0, atol=1e-4)


def test_a_flip_mirrors_inside_the_picture_not_the_canvas() -> None:
    batch = painted((4, 8), (3, 5), (0, 1, 2, 3))
    changed = AUGMENT.replay(batch, drawn(flip=True))
    assert mask_of(changed)[:3, :5].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 3, 3], [0, 0, 0, 3, 3]]
    assert boxes_of(changed)[0][0].tolist() == [3, 1, 5, 3]
    torch.testing.assert_close(changed.image_B3HW[0, :, :3, :5], batch.image_B3HW[0, :, :3, :5].flip(2) / 255)


def test_scale_one_without_a_flip_changes_nothing_inside_the_picture() -> None:
    batch = painted((9, 13), (9, 13), (2, 3, 8, 7))
    changed = AUGMENT.replay(batch, drawn(crop_x=0.99, crop_y=0.99))
    torch.testing.assert_close(changed.image_B3HW, batch.image_B3HW / 255, rtol=0, atol=1e-5)
    assert_same(replace(batch, image_B3HW=changed.image_B3HW), changed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_images_are_floating_in_0_to_1(dtype: torch.dtype) -> None:
    batch = painted((20, 24), (20, 24), (4, 4, 12, 9))
    as_bytes = AUGMENT(batch, key(5)).image_B3HW
    image = batch.image_B3HW if dtype == torch.uint8 else batch.image_B3HW.to(dtype) / 255
    changed = AUGMENT(replace(batch, image_B3HW=image), key(5)).image_B3HW
    assert changed.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert changed.min() >= 0
    assert changed.max() <= 1
    torch.testing.assert_close(changed.float(), as_bytes)


def test_a_white_picture_does_not_exceed_1() -> None:
    white = torch.ones(64, 3, 40, 40)
    batch = concatenated([painted((40, 40), (40, 40), (4, 4, 12, 9))] * 64)
    assert AUGMENT(replace(batch, image_B3HW=white), fold(0, torch.arange(64))).image_B3HW.max() <= 1


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    samples = [painted((30, 40), (10 + 2 * n, 40 - 3 * n), (1, 2, 9 + n, 8)) for n in range(7)]
    key_B = fold(3, torch.arange(7))
    together, backwards = AUGMENT(concatenated(samples), key_B), AUGMENT(concatenated(samples[::-1]), key_B.flip(0))
    for position, sample in enumerate(samples):
        alone = AUGMENT(sample, key_B[position : position + 1])
        for batch, place_ in ((together, position), (backwards, 6 - position)):
            for name, value in tensors(batch).items():
                assert torch.equal(value[place_ : place_ + 1], tensors(alone)[name]), name


def test_the_same_key_gives_the_same_and_the_next_visit_draws_anew() -> None:
    batch = painted((30, 40), (30, 40), (1, 2, 9, 8))
    first = AUGMENT(batch, fold(1, batch.id_B, batch.visit_B))
    assert_same(first, AUGMENT(batch, fold(1, batch.id_B, batch.visit_B)))
    scales = [AUGMENT.parameters(batch, fold(1, batch.id_B, batch.visit_B + more))["scale_B"] for more in (0, 1)]
    assert scales[0] != scales[1]


def test_parameters_replay_exactly_and_the_input_stays_as_it_was() -> None:
    batch = concatenated([painted((30, 40), (30, 40), (1, 2, 9, 8))] * 3)
    before = concatenated([batch])
    parameters = AUGMENT.parameters(batch, torch.tensor([7, 8, 9]))
    assert {name: len(value) for name, value in parameters.items()} == dict.fromkeys(
        ("flip_B", "scale_B", "crop_x_B", "crop_y_B"), 3
    )
    assert_same(AUGMENT.replay(batch, parameters), AUGMENT(batch, torch.tensor([7, 8, 9])))
    assert_same(before, batch)


def test_draws_are_spread_as_stated() -> None:
    """Over 4,000 keys: flips within 5 standard deviations of a half, the rest uniform and independent of each other."""
    number = 4000
    parameters = AUGMENT.parameters(painted((8, 8), (8, 8), (0, 0, 4, 4)), fold(11, torch.arange(number)))
    flips = int(parameters["flip_B"].sum())
    assert abs(flips - number / 2) < 5 * (number / 4) ** 0.5
    shares = {"scale_B": (parameters["scale_B"] - 0.8) / 0.4}
    shares |= {name: parameters[name] for name in ("crop_x_B", "crop_y_B")}
    for name, share in shares.items():
        largest_gap = (share.sort().values - torch.arange(number) / number).abs().max()
        assert largest_gap < 1.95 / number**0.5, name  # Kolmogorov and Smirnov: p < 0.001
    correlations = torch.corrcoef(torch.stack([parameters["flip_B"].float(), *shares.values()])) - torch.eye(4)
    assert correlations.abs().max() < 5 / number**0.5


def test_flip_probability_0_and_1_are_kept() -> None:
    key_B = fold(11, torch.arange(1000))
    batch = painted((8, 8), (8, 8), (0, 0, 4, 4))
    assert not Augment(S1Config(flip_probability=0)).parameters(batch, key_B)["flip_B"].any()
    assert Augment(S1Config(flip_probability=1)).parameters(batch, key_B)["flip_B"].all()


def test_crops_reach_both_ends_and_every_offset_alike() -> None:
    """A picture of 10 × 20 at scale 1.2 on a canvas of its size leaves 3 offsets in y and 5 in x."""
    number = 6000
    crop = (torch.arange(number) / number).float()
    parameters = {
        "flip_B": torch.zeros(number, dtype=torch.bool),
        "scale_B": torch.full((number,), 1.2),
        "crop_x_B": crop,
        "crop_y_B": crop,
    }
    placement = place(torch.tensor([[10, 20]]).expand(number, 2), 10, 20, parameters)
    x, y = -placement.matrix_B23[:, 0, 2], -placement.matrix_B23[:, 1, 2]
    assert x.unique(return_counts=True)[1].tolist() == [number // 5] * 5
    assert y.unique(return_counts=True)[1].tolist() == [number // 3] * 3
    assert torch.stack([x.min(), x.max(), y.min(), y.max()]).tolist() == [0, 4, 0, 2]
    assert placement.valid_B2.unique(dim=0).tolist() == [[10, 20]]


def test_a_picture_never_vanishes() -> None:
    placement = place(torch.tensor([[1, 30]]), 32, 32, drawn(scale=0.5))
    assert placement.valid_B2.tolist() == [[1, 15]]


def test_autocast_leaves_every_bit_alone() -> None:
    """A matrix product would be rounded to bfloat16 here."""
    batch = painted((64, 640), (64, 640), (300, 2, 500, 60))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = AUGMENT(batch, key(2))
    assert_same(AUGMENT(batch, key(2)), under)


@pytest.mark.parametrize("name", [field.name for field in fields(Targets)])
def test_any_target_may_be_missing(name: str) -> None:
    batch = painted((20, 24), (20, 24), (4, 4, 12, 9))
    without = replace(batch, targets=replace(batch.targets, **{name: None}))
    expected, changed = AUGMENT(batch, key(12)).targets, AUGMENT(without, key(12)).targets
    assert getattr(changed, name) is None
    if name == "boxes_BN4":
        expected = replace(expected, label_BN=batch.targets.label_BN)
    if name in ("boxes_BN4", "label_BN"):
        expected = replace(expected, weight_BN=batch.targets.weight_BN)
    for other in {field.name for field in fields(Targets)} - {name}:
        assert torch.equal(getattr(changed, other), getattr(expected, other)), other


def test_images_without_targets_are_augmented() -> None:
    batch = replace(painted((20, 24), (20, 24), (4, 4, 12, 9)), targets=Targets())
    assert AUGMENT(batch, key(12)).targets == Targets()


def cut_at_the_left(boxes: list[list[float]], labels: list[int], **options: Any) -> Targets:
    """Return the targets of a 20 × 20 picture made 40 × 40 of which the left and top half are cut away."""
    batch = painted((20, 20), (20, 20), (0, 0, 3, 3))
    targets = Targets(
        boxes_BN4=torch.tensor([boxes]), label_BN=torch.tensor([labels]), weight_BN=torch.full((1, len(labels)), 0.75)
    )
    parameters = drawn(scale=2.0, crop_x=0.999, crop_y=0.999)
    return Augment(S1Config(**options)).replay(replace(batch, targets=targets), parameters).targets


BOXES = [
    [12.0, 12.0, 15.0, 16.0],  # all of it is seen
    [5.0, 10.0, 15.0, 20.0],  # half of it
    [0.0, 10.0, 10.5, 20.0],  # a twentieth
    [2.0, 2.0, 9.0, 9.0],  # nothing
    [3.0, 10.0, 10.004, 20.0],  # less than rounding may leave of a box that ends where the crop begins
]
SEEN = [[4.0, 4.0, 10.0, 12.0], [0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 1.0, 20.0], [0.0] * 4, [0.0] * 4]


def test_an_object_cut_to_a_sliver_becomes_a_region_to_ignore() -> None:
    changed = cut_at_the_left(BOXES, [0, 1, 2, 3, 4])
    assert changed.label_BN is not None and changed.label_BN.tolist() == [[0, 1, -2, -1, -1]]
    assert changed.boxes_BN4 is not None and changed.boxes_BN4.tolist() == [SEEN]
    assert changed.weight_BN is not None and changed.weight_BN.tolist() == [[0.75, 0.75, 0.75, 0, 0]]


def test_a_region_to_ignore_moves_along_until_nothing_is_seen() -> None:
    changed = cut_at_the_left(BOXES, [-2] * 5, min_visibility=1)
    assert changed.label_BN is not None and changed.label_BN.tolist() == [[-2, -2, -2, -1, -1]]
    assert changed.boxes_BN4 is not None and changed.boxes_BN4.tolist() == [SEEN]


@pytest.mark.parametrize(("share", "labels"), [(0, [0, 1, 2, -1, -1]), (0.6, [0, -2, -2, -1, -1])])
def test_min_visibility_decides_what_a_sliver_is(share: float, labels: list[int]) -> None:
    changed = cut_at_the_left(BOXES, [0, 1, 2, 3, 4], min_visibility=share)
    assert changed.label_BN is not None and changed.label_BN.tolist() == [labels]


def test_padding_stays_padding_wherever_its_box_lies() -> None:
    changed = cut_at_the_left(BOXES, [-1] * 5)
    assert changed.label_BN is not None and changed.label_BN.tolist() == [[-1] * 5]
    assert changed.boxes_BN4 is not None and not changed.boxes_BN4.any()
