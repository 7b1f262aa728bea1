"""What becomes of an image is the same in every batch, part of a batch, and way of working through one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.augment.scenes import painted, tensors
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.config import CustomConfig, S1Config, S2Config, S3Config, S4Config
from selftrain_augment.operations import OPERATIONS
from selftrain_augment.subsets import Subset
from selftrain_core.batch import Batch, collate
from selftrain_core.keys import fold

CONFIGS: dict[str, S1Config] = {
    "S1": S1Config(),
    "S2 v1": S2Config(policy="v1"),
    "S2 v2": S2Config(policy="v2"),
    "S3 v3": S3Config(policy="v3"),
    "S3 from 2": S3Config(policy="v1", oversample=2),
    "S4": S4Config(),
    "S4 tf-vision": S4Config(operations="tf-vision", num_operations=3),
    "all": CustomConfig.model_validate(
        {"sub_policies": [[{"operation": name, "magnitude": 4}] for name in OPERATIONS], "scale_min": 0.3}
    ),
}


def batch_of(count: int, side: int, seed: int = 0) -> Batch:
    """Return images of noise, each of another size and with boxes elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for number in range(count):
        valid = (side, side - 3 * number) if number % 2 else (side - 2 * number, side)
        rectangles = [(2, 3, 20 + number, 30), (22 + number, 1, side // 2, 40)]
        image = torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
        ids = torch.tensor([100 * seed + number])
        batch = painted((side, side), valid, rectangles, (5, 5, 30, 30))
        images.append(replace(batch, image_B3HW=image, id_B=ids))
    return collate([image._map(lambda tensor: tensor[0]) for image in images])


def keys(batch: Batch, visit: int = 0) -> Tensor:
    return fold(5, batch.id_B, batch.visit_B + visit)


def chosen(batch: Batch, places: list[int]) -> Batch:
    return batch._map(lambda tensor: tensor[places])


def assert_same(first: Batch, second: Batch, atol: float = 0.0) -> None:
    expected, found = tensors(first), tensors(second)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.dtype == found[name].dtype
        tolerance = atol if name == "image_B3HW" else 0.0
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=f"{name} differs")


@pytest.mark.parametrize("name", CONFIGS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    """11 images of 256 × 256 are worked through in several parts."""
    augment, batch = Augment(CONFIGS[name]), batch_of(11, 256)
    together = augment(batch, keys(batch))
    for places in ([10, 3, 9, 2, 8, 1, 7, 0, 6, 5, 4], [4, 9, 1], *[[place] for place in (0, 7, 10)]):
        part = chosen(batch, places)
        assert_same(chosen(together, places), augment(part, keys(part)), atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_torchs_threads_change_nothing(name: str) -> None:
    augment, batch = Augment(CONFIGS[name]), batch_of(11, 256, seed=1)
    expected, threads = augment(batch, keys(batch)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(expected, augment(batch, keys(batch)), atol=1e-6)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_next_visit_differs_and_parameters_replay(name: str) -> None:
    augment, batch = Augment(CONFIGS[name]), batch_of(6, 64)
    first, parameters = augment(batch, keys(batch)), augment.parameters(batch, keys(batch))
    assert {len(value) for value in parameters.values()} == {len(batch)}
    assert_same(first, augment.replay(batch, parameters))
    assert_same(first, augment(batch, keys(batch)))
    next_visit = augment(batch, keys(batch, visit=1))
    same = [torch.equal(a, b) for a, b in zip(first.image_B3HW, next_visit.image_B3HW, strict=True)]
    assert not any(same)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_other_devices_ways_give_the_same(name: str, static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once; where shapes must not follow the data, every operation is done to all, and thrown away for most."""
    augment = Augment(CONFIGS[name])
    batches = [batch_of(12, 64, seed) for seed in range(4)]
    expected = [augment(batch, keys(batch)) for batch in batches]
    monkeypatch.setattr(Augment, "_resampled_by_parts", Augment._resampled_at_once)
    if static:
        monkeypatch.setattr(Subset, "follows_data", staticmethod(lambda like: False))
    for batch, by_parts in zip(batches, expected, strict=True):
        assert_same(by_parts, augment(batch, keys(batch)), atol=1e-6)


def test_parameters_of_another_batch_or_policy_are_refused() -> None:
    augment, batch = Augment(S2Config(policy="v1")), batch_of(6, 64)
    drawn = augment.parameters(batch, keys(batch))
    bare = replace(batch, targets=replace(batch.targets, boxes_BN4=None, label_BN=None, weight_BN=None))
    one_box = replace(batch.targets, **{n: getattr(batch.targets, n)[:, :1] for n in ("boxes_BN4", "label_BN")})
    boxes = "drawn for {} boxes an image, and the batch has {}"
    for other, parameters, message in (
        (chosen(batch, [0, 1]), drawn, "drawn for 6 images, and the batch has 2"),
        (bare, drawn, boxes.format(5, 0)),
        (batch, augment.parameters(bare, keys(bare)), boxes.format(0, 5)),
        (replace(batch, targets=replace(one_box, weight_BN=None)), drawn, boxes.format(5, 1)),
        (batch, Augment(S1Config()).parameters(batch, keys(batch)), "lack choice_BK, magnitude_BK, operation_BK"),
        (batch, {}, "lack choice_BK, crop_x_B"),
        (batch, Augment(S4Config()).parameters(batch, keys(batch)), "operations that this policy does not have"),
    ):
        with pytest.raises(ValueError, match=message):
            augment.replay(other, parameters)


def test_what_was_drawn_is_described() -> None:
    augment, batch = Augment(S4Config(num_operations=2)), batch_of(6, 64)
    parameters = augment.parameters(batch, keys(batch))
    parameters["operation_BK"][0] = torch.tensor([OPERATIONS.index("Color"), 0])
    parameters["scale_B"][0], parameters["flip_B"][0] = 1.254, True
    described = augment.described(parameters, has_boxes=True)
    assert len(described) == 6 and described[0] == "× 1.25, mirrored, Color 10"
    assert Augment(S1Config()).described(parameters, has_boxes=True)[0] == "× 1.25, mirrored"


def test_operations_on_boxes_are_described_where_some_box_drew_them() -> None:
    batch = batch_of(6, 64)
    sometimes, never = (
        Augment(CustomConfig.model_validate({"sub_policies": [[{"operation": "Flip_Only_BBoxes", "probability": p}]]}))
        for p in (0.5, 0)
    )
    parameters = sometimes.parameters(batch, keys(batch))
    drew = parameters["box_applies_BKN"].any(2)[:, 0].tolist()
    assert len(set(drew)) == 2
    words = sometimes.described(parameters, has_boxes=True)
    assert ["Flip 10 in boxes" in each for each in words] == drew
    assert not any("Flip" in each for each in sometimes.described(parameters, has_boxes=False))
    assert not any("Flip" in each for each in never.described(never.parameters(batch, keys(batch)), has_boxes=True))


def test_gradients_end_and_inference_mode_is_kept() -> None:
    augment, batch = Augment(S4Config()), batch_of(9, 256)
    expected, threads = augment(batch, keys(batch)).image_B3HW, torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            assert torch.equal(augment(batch, keys(batch)).image_B3HW, expected)
    finally:
        torch.set_num_threads(threads)
    asking = replace(batch, image_B3HW=(batch.image_B3HW / 255).requires_grad_())
    assert not augment(asking, keys(asking)).image_B3HW.requires_grad


def test_many_small_images_are_as_few() -> None:
    augment, batch = Augment(S4Config()), chosen(batch_of(8, 64), [0, 1, 2, 3, 4, 5, 6, 7] * 5)
    batch = replace(batch, id_B=torch.arange(40))
    together = augment(batch, keys(batch))
    for places in ([3], [0, 17, 39]):
        part = chosen(batch, places)
        assert_same(chosen(together, places), augment(part, keys(part)), atol=1e-6)


@pytest.mark.parametrize("layout", ["channels last", "transposed"])
@pytest.mark.parametrize("number", [0, 5])
def test_other_devices_take_any_layout_and_no_image(number: int, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Augment, "_resampled_by_parts", Augment._resampled_at_once)
    batch = chosen(batch_of(5, 64), list(range(number)))
    image = batch.image_B3HW
    other = image.contiguous(memory_format=torch.channels_last) if layout == "channels last" else image.mT.mT
    if layout == "transposed":
        other = image.mT.contiguous().mT
    for config in (CONFIGS["S2 v1"], CONFIGS["S4"], CONFIGS["all"]):
        augment = Augment(config)
        expected = augment(batch, keys(batch))
        assert_same(expected, augment(replace(batch, image_B3HW=other), keys(batch)), atol=1e-6)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_batch_given_stays_as_it_was(name: str, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if at_once:
        monkeypatch.setattr(Augment, "_resampled_by_parts", Augment._resampled_at_once)
    batch = batch_of(6, 64)
    for given in (batch, replace(batch, image_B3HW=batch.image_B3HW.float() / 255)):
        before = {name: value.clone() for name, value in tensors(given).items()}
        Augment(CONFIGS[name])(given, keys(given))
        for field, value in tensors(given).items():
            assert torch.equal(value, before[field]), field
