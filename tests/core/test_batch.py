"""The batch: frozen, moved as one, by Lightning too."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from pytorch_lightning.utilities import move_data_to_device

from selftrain_core.batch import Batch, Targets, collate, float_images
from selftrain_core.testing import assert_equal
from selftrain_core.testing.samples import object_batch, picture, sample

META = torch.device("meta")


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [value for value in (vars(batch) | vars(batch.targets)).values() if isinstance(value, torch.Tensor)]


def test_to_moves_everything() -> None:
    batch = object_batch(3)
    moved = batch.to("meta")
    assert len(tensors(moved)) == len(tensors(batch)) == 15
    assert {tensor.device for tensor in tensors(moved)} == {META}
    assert {tensor.device.type for tensor in tensors(batch)} == {"cpu"}


def test_lightning_moves_a_list_of_batches() -> None:
    moved = move_data_to_device([object_batch(2), object_batch(1)], META)
    assert [len(batch) for batch in moved] == [2, 1]
    assert {tensor.device for batch in moved for tensor in tensors(batch)} == {META}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning memory needs CUDA")
def test_pinned_memory() -> None:
    assert all(tensor.is_pinned() for tensor in tensors(object_batch(2).pin_memory()))


def test_frozen() -> None:
    batch = object_batch(1)
    with pytest.raises(FrozenInstanceError):
        batch.visit_B = batch.id_B  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        batch.targets.mask_BHW = None  # type: ignore[misc]


def test_collate_stacks_every_field() -> None:
    samples = [sample(picture((20, 30), n), (32, 32), f"{n}", visit=n) for n in range(3)]
    batch = collate(samples)
    assert len(batch) == 3
    assert batch.image_B3HW.shape == (3, 3, 32, 32)
    assert batch.visit_B.tolist() == [0, 1, 2]
    assert batch.targets == Targets()
    for field in fields(Batch):
        if field.name != "targets":
            for number, one in enumerate(samples):
                assert_equal(getattr(batch, field.name)[number], getattr(one, field.name), field.name)


def test_collate_stacks_targets() -> None:
    one = Targets(mask_BHW=torch.zeros(4, 5, dtype=torch.uint8), weight_BHW=torch.ones(4, 5))
    batch = collate([sample(picture((4, 5), n), (32, 32), str(n), targets=one) for n in range(2)])
    assert batch.targets.mask_BHW is not None
    assert batch.targets.mask_BHW.shape == (2, 4, 5)
    assert batch.targets.boxes_BN4 is None


def test_float_images() -> None:
    bytes_ = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert float_images(bytes_).tolist() == pytest.approx([0, 0.2, 1])
    assert float_images(bytes_, torch.float64).dtype == torch.float64
    halves = torch.tensor([0.5])
    assert float_images(halves) is halves or float_images(halves).equal(halves)
    assert float_images(halves, torch.float16).dtype == torch.float16
