"""The augmentations on plain tensors."""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
import pytest
import torch

import selftrain_augment
from selftrain_augment import augment_s1, augment_s2, augment_s3, augment_s4, augment_with
from selftrain_augment.config import CustomConfig

IMAGES = torch.randint(0, 256, (5, 3, 64, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MASKS = torch.randint(0, 4, (5, 64, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
BOXES = torch.tensor([[[4.0, 6.0, 30.0, 40.0], [0.0, 0.0, 0.0, 0.0]]]).repeat(5, 1, 1)
LABELS = torch.tensor([[2, -1]]).repeat(5, 1)


@pytest.mark.parametrize("augment", [augment_s1, augment_s2, augment_s3, augment_s4])
def test_all_that_was_given_comes_back(augment: Any) -> None:
    found = augment(IMAGES, masks=MASKS, boxes=BOXES, labels=LABELS, seed=3)
    assert found.images.shape == IMAGES.shape and found.images.dtype == torch.float32
    assert found.masks.shape == MASKS.shape and found.masks.dtype == torch.uint8
    assert found.boxes.shape == BOXES.shape and found.labels[:, 1].tolist() == [-1] * 5
    assert found.sizes.shape == (5, 2) and found.matrices.shape == (5, 2, 3)
    bare = augment(IMAGES, seed=3)
    assert (bare.masks, bare.boxes, bare.labels) == (None, None, None)
    assert torch.equal(bare.matrices, found.matrices)


def test_seed_and_visit_draw_and_ids_say_who_it_is() -> None:
    first = augment_s4(IMAGES, seed=1, visit=0)
    assert torch.equal(augment_s4(IMAGES, seed=1, visit=0).images, first.images)
    assert not torch.equal(augment_s4(IMAGES, seed=2, visit=0).images, first.images)
    assert not torch.equal(augment_s4(IMAGES, seed=1, visit=1).images, first.images)
    order = torch.tensor([3, 0, 4])
    for dtype in (torch.int64, torch.int32, torch.uint8):
        some = augment_s4(IMAGES[order], ids=order.to(dtype), seed=1)
        torch.testing.assert_close(some.images, first.images[order], rtol=0, atol=1e-5)


def test_without_a_seed_each_call_draws_anew() -> None:
    torch.manual_seed(4)
    first, second = augment_s4(IMAGES), augment_s4(IMAGES)
    assert not torch.equal(first.matrices, second.matrices)
    torch.manual_seed(4)
    assert torch.equal(augment_s4(IMAGES).matrices, first.matrices)


def test_a_loop_over_a_shuffled_set_draws_what_any_other_does() -> None:
    epochs = []
    for batch_size in (2, 3):
        generator = torch.Generator().manual_seed(batch_size)
        seen: dict[tuple[int, int], torch.Tensor] = {}
        for epoch in range(3):
            for indices in torch.randperm(5, generator=generator).split(batch_size):
                found = augment_s4(IMAGES[indices], ids=indices, visit=epoch, seed=1)
                seen |= {(epoch, i): matrix for i, matrix in zip(indices.tolist(), found.matrices, strict=True)}
        epochs.append(seen)
    assert len({tuple(matrix.flatten().tolist()) for matrix in epochs[0].values()}) == 15
    for place, matrix in epochs[0].items():
        assert torch.equal(matrix, epochs[1][place])


def test_settings_and_policies_of_ones_own() -> None:
    assert augment_s1(IMAGES, settings={"oversample": 2}).images.shape == (5, 3, 32, 24)
    config = CustomConfig.model_validate(
        {"flip_probability": 0, "scale_min": 1, "scale_max": 1, "sub_policies": [[{"operation": "Invert"}]]}
    )
    found = augment_with(config, IMAGES)
    torch.testing.assert_close(found.images, 1 - IMAGES.float() / 255, rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_few_images(number: int) -> None:
    found = augment_s4(IMAGES[:number], masks=MASKS[:number], boxes=BOXES[:number], labels=LABELS[:number])
    assert found.images.shape == (number, 3, 64, 48)
    assert found.boxes is not None and found.boxes.shape == (number, 2, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": IMAGES[0]}, "images have shape (3, 64, 48); wanted is [B, 3, H, W]"),
        ({"images": IMAGES[..., :0]}, "images have shape (5, 3, 64, 0)"),
        ({"images": IMAGES.int()}, "images are torch.int32; wanted is uint8, or floating point of 16 to 64 bits"),
        ({"settings": {"oversample": 3}}, "images of 64 × 48 do not divide by oversample 3"),
        ({"masks": MASKS.long()}, "masks are torch.int64 (5, 64, 48); wanted is torch.uint8 (5, 64, 48)"),
        ({"masks": MASKS[:2]}, "masks are torch.uint8 (2, 64, 48)"),
        ({"boxes": BOXES.double()}, "boxes are torch.float64 (5, 2, 4); wanted is torch.float32 (5, N, 4)"),
        ({"boxes": BOXES[:, 0]}, "boxes are torch.float32 (5, 4)"),
        ({"boxes": BOXES, "labels": LABELS.float()}, "labels are torch.float32 (5, 2); wanted is torch.int64"),
        ({"boxes": BOXES, "labels": LABELS[:, :1]}, "wanted is torch.int64 (5, 2), one for each box"),
        ({"labels": LABELS}, "labels are given without boxes"),
        ({"boxes": BOXES[..., [0, 1, 0, 1]] * torch.tensor([1, 1, 0.5, 2])}, "a box is [4.0, 6.0, 2.0, 12.0]; wanted"),
        ({"boxes": BOXES * torch.nan}, "a box is [nan, nan, nan, nan]"),
        ({"images": IMAGES.float()}, "to 255; wanted is 0 to 1: divide"),
        ({"images": IMAGES / 255 - 0.5}, "images are from -0.5 to 0.5"),
        ({"images": IMAGES * torch.nan}, "images are from nan to nan"),
        ({"images": IMAGES.numpy()}, "images are a ndarray; wanted is a torch.Tensor"),
        ({"masks": MASKS.to("meta")}, "masks are on meta, images on cpu"),
        ({"visit": 0.9}, "visit is 0.9; wanted is a whole number"),
        ({"seed": 2**70}, "seed is 1180591620717411303424"),
        ({"settings": {"magnitude": 3}}, "magnitude"),
        ({"sizes": torch.tensor([64, 48])}, "sizes are torch.int64 (2,); wanted is torch.int64 (5, 2)"),
        ({"sizes": torch.full((5, 2), 50)}, "sizes are not all between 1 and the images' 64 × 48"),
        ({"sizes": torch.full((5, 2), 0)}, "sizes are not all between 1 and the images' 64 × 48"),
        ({"ids": torch.arange(4)}, "ids are torch.int64 (4,); wanted is one whole number for each of 5 images"),
        ({"ids": torch.rand(5)}, "ids are torch.float32 (5,)"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        augment_s1(given.pop("images", IMAGES), **given)


def test_what_is_no_settings_is_refused() -> None:
    with pytest.raises(ValueError, match="config is a dict; wanted is one of selftrain_augment"):
        augment_with({"name": "augment/s4"}, IMAGES)  # type: ignore[arg-type]  # that is the point


def test_rounding_a_little_beyond_is_borne() -> None:
    images = IMAGES / 255
    images[0, 0, :4] = 1 + 2e-3
    images[1, 1, :4] = -2e-3
    found = augment_s1(images, settings={"flip_probability": 0, "scale_min": 1, "scale_max": 1}, seed=0)
    torch.testing.assert_close(found.images, images.clamp(0, 1), rtol=0, atol=1e-5)


def test_boxes_without_width_are_boxes() -> None:
    boxes = torch.tensor([[[4.0, 6.0, 4.0, 9.0]]]).repeat(5, 1, 1)
    assert augment_s1(IMAGES, boxes=boxes, seed=0).labels is not None
    with pytest.raises(ValueError, match="is it"):
        augment_s1(IMAGES, boxes=boxes[..., [0, 3, 2, 1]], seed=0)


def test_numpys_whole_numbers_are_numbers() -> None:
    expected = augment_s4(IMAGES, seed=1, visit=2)
    assert torch.equal(augment_s4(IMAGES, seed=np.int64(1), visit=np.int32(2)).images, expected.images)


def test_padding_need_be_no_box() -> None:
    boxes = torch.full_like(BOXES, torch.nan)
    found = augment_s1(IMAGES, boxes=boxes, labels=torch.full_like(LABELS, -1), seed=0)
    assert found.boxes is not None and not found.boxes.any()


def test_an_unknown_name_is_none() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'augment_s5'"):
        selftrain_augment.augment_s5  # noqa: B018


def test_threads_of_ones_own_leave_torch_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        images = torch.zeros(9, 3, 256, 256, dtype=torch.uint8)
        callers = [threading.Thread(target=augment_s4, args=(images,)) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        seen: list[int] = []
        newcomer = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        newcomer.start()
        newcomer.join()
        assert seen == [4] and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
