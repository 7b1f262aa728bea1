"""What views show: the crop against painted scenes, colours and blur against torchvision, any device's way the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from tests.augment.scenes import Truth, hull_of, painted, shift, tensors
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision_does

from selftrain_augment import augment_with
from selftrain_augment.config import SimClrConfig
from selftrain_augment.distortion import JITTER, blur_radius, distorted
from selftrain_augment.simclr import SimClr
from selftrain_augment.subsets import Subset
from selftrain_core.batch import Batch, Targets, collate
from selftrain_core.keys import fold
from selftrain_core.testing.samples import draws, object_batch

NO_COLOURS = {"jitter_probability": 0, "grey_probability": 0, "blur_probability": 0}
WHOLE = {"area_min": 1, "area_max": 1, "aspect_min": 1, "aspect_max": 1, "flip_probability": 0}
PHOTO = (draws((1, 3, 5, 6), 5).repeat_interleave(8, 2).repeat_interleave(8, 3) + draws((1, 3, 40, 48), 6)) / 2
"""Blocks and noise, in 0..1."""
GREYS = 3e-4
"""Torchvision's weight of red in a grey is 0.2989, here 0.299 as everywhere; factors multiply the difference."""


def still(number: int = 1) -> dict[str, Tensor]:
    """Return parameters that leave images as they are."""
    one_B, no_B = torch.ones(number), torch.zeros(number, dtype=torch.bool)
    ones = ("area_B", "aspect_B", "brightness_B", "contrast_B", "saturation_B", "sigma_B")
    zeros = ("crop_x_B", "crop_y_B", "hue_B")
    return {
        **dict.fromkeys(ones, one_B),
        **dict.fromkeys(zeros, 0 * one_B),
        **dict.fromkeys(("flip_B", "jitter_B", "grey_B", "blur_B"), no_B),
        "order_BK": torch.arange(4).repeat(number, 1),
    }


def batch_of(image_B3HW: Tensor, valid: tuple[int, int] | None = None) -> Batch:
    number_B = torch.arange(len(image_B3HW))
    valid_B2 = torch.tensor(valid or image_B3HW.shape[2:]).repeat(len(number_B), 1)
    matrix_B23 = torch.eye(2, 3).repeat(len(number_B), 1, 1)
    return Batch(image_B3HW, valid_B2, number_B, number_B, valid_B2, matrix_B23, number_B * 0, Targets())


def scenes(number: int, canvas: tuple[int, int]) -> Batch:
    """Return painted images of three shapes."""
    height, width = canvas
    shapes = (canvas, (height, 2 * width // 3), (2 * height // 3, width))
    images = []
    for each in range(number):
        valid = shapes[each % 3]
        rectangles = [(3, 4, valid[1] // 2 - 1, valid[0] // 2), (valid[1] // 2 + 2, 1, valid[1] - 2, valid[0] - 5)]
        images.append(replace(painted(canvas, valid, rectangles), id_B=torch.tensor([each])))
    return collate([image._map(lambda tensor: tensor[0]) for image in images])


def truth_of(batch: Batch, parameters: dict[str, Tensor], image: int, oversample: int) -> Truth:
    """Return, in float64, where an image goes: nothing of the package is called."""
    height, width = batch.valid_B2[image].tolist()
    canvas = tuple(side // oversample for side in batch.image_B3HW.shape[2:])
    share, aspect, x, y = (float(parameters[f"{name}_B"][image]) for name in ("area", "aspect", "crop_x", "crop_y"))
    aspect *= canvas[1] / canvas[0]
    crop_height = min(height, max(1, round((share * height * width / aspect) ** 0.5)))
    crop_width = min(width, max(1, round((share * height * width * aspect) ** 0.5)))
    left, top = int(x * (width - crop_width + 1)), int(y * (height - crop_height + 1))
    scale = (canvas[1] / crop_width, canvas[0] / crop_height)
    matrix = np.diag([*scale, 1]) @ shift(-left, -top)
    if parameters["flip_B"][image]:
        matrix = np.array([[-1, 0, canvas[1]], [0, 1, 0], [0, 0, 1]]) @ matrix
    frame = (canvas[0], canvas[1])
    return Truth(matrix, frame, frame, (height, width), (), max(1.0, 1 / min(scale)))


@pytest.mark.parametrize("oversample", [1, 2])
@pytest.mark.parametrize("visit", range(3))
def test_everything_goes_where_the_crop_goes(visit: int, oversample: int) -> None:
    augmentation = SimClr(SimClrConfig(oversample=oversample, **NO_COLOURS))
    batch = scenes(12, (48, 64))
    parameters = augmentation.parameters(batch, fold(visit, batch.id_B))
    old, found = tensors(batch), augmentation.replay(batch, parameters)
    new = tensors(found)
    for image in range(len(batch)):
        truth = truth_of(batch, parameters, image, oversample)
        assert found.valid_B2[image].tolist() == list(truth.canvas)
        assert new["targets.canvas_B2"][image].tolist() == list(truth.canvas)
        expected = truth.matrix @ np.vstack([batch.matrix_B23[image].numpy(), [0, 0, 1]])
        np.testing.assert_allclose(found.matrix_B23[image].numpy(), expected[:2], rtol=1e-5, atol=1e-3)
        shown, clear = truth.shown()
        assert (shown | ~clear).all(), "the canvas is all picture"
        x, y = (points.astype(int) for points in truth.sources())
        for name in ("mask_BHW", "weight_BHW", "runners_up_BKHW", "runner_up_weight_BKHW"):
            before, after = old[f"targets.{name}"][image].numpy(), new[f"targets.{name}"][image].numpy()
            places = (y.clip(0, before.shape[-2] - 1), x.clip(0, before.shape[-1] - 1))
            assert (after == before[(..., *places)])[..., clear].all(), name
        for number in (0, 1):
            box, label = new["targets.boxes_BN4"][image, number].numpy(), int(new["targets.label_BN"][image, number])
            seen = truth.seen(old["targets.boxes_BN4"][image, number].tolist())
            if label == -1:
                assert not len(seen) or np.ptp(seen, 0).min() < 0.02
                continue
            np.testing.assert_allclose(box, [*seen.min(0), *seen.max(0)], atol=2e-3)
            if label >= 0 and (new["targets.mask_BHW"][image] == label).any():
                assert np.abs(hull_of((new["targets.mask_BHW"][image] == label).numpy()) - box).max() <= 1


def test_little_of_an_object_becomes_a_region_to_ignore() -> None:
    batch = scenes(3, (48, 64))
    parameters = {**still(3), "area_B": torch.full((3,), 0.3)}
    labels = SimClr(SimClrConfig(min_visibility=0.99)).replay(batch, parameters).targets.label_BN
    assert labels is not None and -2 in labels[:, 0] and not (labels[:, :2] > 0).all()


@pytest.mark.parametrize("aspect", [1.0, 4 / 3])
@pytest.mark.parametrize("canvas", [(60, 60), (40, 80)])
def test_area_and_aspect_are_those_drawn_where_they_fit(canvas: tuple[int, int], aspect: float) -> None:
    """In units of the canvas' aspect ratio: objects are stretched by what was drawn, whatever the canvas' shape."""
    batch = batch_of(torch.zeros(1, 3, *canvas))
    found = SimClr(SimClrConfig()).replay(batch, {**still(), "area_B": torch.tensor([0.25]),
                                                  "aspect_B": torch.tensor([aspect])})  # fmt: skip
    scale_x, scale_y = found.matrix_B23[0, 0, 0].item(), found.matrix_B23[0, 1, 1].item()
    assert 1 / (scale_x * scale_y) == pytest.approx(0.25, rel=0.04)
    assert scale_y / scale_x == pytest.approx(aspect, rel=0.04)


def test_what_is_too_high_or_wide_is_cut_to_the_picture() -> None:
    batch = batch_of(torch.zeros(1, 3, 40, 80), (40, 30))
    found = SimClr(SimClrConfig()).replay(batch, still())
    expected_123 = torch.tensor([[[80 / 30, 0, 0], [0, 40 / 24, 0]]])  # all of its width, 24 of its 40 rows
    torch.testing.assert_close(found.matrix_B23, expected_123)


def test_nothing_but_picture_is_shown() -> None:
    image_B3HW = torch.ones(64, 3, 48, 48)
    image_B3HW[..., :31, :45] = 0
    batch = batch_of(image_B3HW, (31, 45))
    for oversample in (1, 2):
        found = SimClr(SimClrConfig(oversample=oversample, **NO_COLOURS))(batch, fold(1, batch.id_B))
        assert found.image_B3HW.max() < 1e-6


def test_crops_reach_every_pixel_alike_often() -> None:
    """A crop of a quarter of a row of pictures lies anywhere: left and right ends as often."""
    batch = batch_of(torch.zeros(4000, 3, 8, 8))
    config = SimClrConfig(area_min=0.25, area_max=0.25, aspect_min=1, aspect_max=1, flip_probability=0, **NO_COLOURS)
    shift_B = -SimClr(config)(batch, fold(5, batch.id_B)).matrix_B23[:, 0, 2] / 2
    counts = torch.bincount(shift_B.round().long(), minlength=5)
    assert len(counts) == 5 and ((counts - 800).abs() < 100).all()


def test_stripes_that_are_too_narrow_become_grey() -> None:
    """Sampled, they would be black or white."""
    stripes_HW = (torch.arange(128) % 2).float().expand(128, 128)
    batch = batch_of(stripes_HW.expand(1, 3, 128, 128))
    found = SimClr(SimClrConfig(oversample=4)).replay(batch, {**still(), "area_B": torch.tensor([0.9])})
    assert (found.image_B3HW - 0.5).abs().max() < 0.06


def test_a_whole_picture_stays_as_it_is() -> None:
    batch = object_batch(6)
    config = SimClrConfig(**WHOLE, **NO_COLOURS)
    found = SimClr(config)(replace(batch, valid_B2=torch.tensor([[64, 96]]).repeat(6, 1)), batch.id_B)
    torch.testing.assert_close(found.image_B3HW, batch.image_B3HW / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.8])
def test_factors_do_what_torchvisions_do(factor: float) -> None:
    for name in JITTER[:3]:
        expected = getattr(torchvision_does, f"adjust_{name}")(PHOTO, factor)
        order_BK = torch.tensor([[JITTER.index(name), *(code for code in range(4) if JITTER[code] != name)]])
        drawn = {**still(), "jitter_B": torch.tensor([True]), "order_BK": order_BK, f"{name}_B": torch.tensor([factor])}
        torch.testing.assert_close(distorted(PHOTO.clone(), drawn, 1), expected, rtol=0, atol=GREYS, msg=name)


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.013, 0.0, 0.1, 0.2])
def test_hues_turn_as_torchvisions(turn: float) -> None:
    drawn = {**still(), "jitter_B": torch.tensor([True]), "hue_B": torch.tensor([turn])}
    expected = torchvision_does.adjust_hue(PHOTO, turn)
    torch.testing.assert_close(distorted(PHOTO.clone(), drawn, 1), expected, rtol=0, atol=1e-5)


def test_grey_is_torchvisions() -> None:
    expected = torchvision_does.rgb_to_grayscale(PHOTO, num_output_channels=3)
    found = distorted(PHOTO.clone(), {**still(), "grey_B": torch.tensor([True])}, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=GREYS)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions(sigma: float) -> None:
    """With the kernel of the published code, a tenth of the side made odd; what is spared of a larger is not seen."""
    large = draws((1, 3, 256, 300), 7)
    for image, radius in ((PHOTO, 2), (large, 10)):
        height, width = image.shape[2:]
        assert blur_radius(height, width, 0.1, 2.0) == radius
        side = int(height * 0.1) // 2 * 2 + 1
        expected = torchvision_does.gaussian_blur(image, [side, side], [sigma, sigma])
        drawn = {**still(), "blur_B": torch.tensor([True]), "sigma_B": torch.tensor([sigma])}
        torch.testing.assert_close(distorted(image.clone(), drawn, radius), expected, rtol=0, atol=1e-5)


def test_each_image_has_its_own_order_and_factors() -> None:
    orders = list(permutations(range(4)))
    factors = {f"{name}_B": 0.4 + 1.4 * draws((24,), place) for place, name in enumerate(JITTER[:3])}
    factors["hue_B"] = 0.4 * draws((24,), 9) - 0.2
    sigma_B = 0.1 + draws((24,), 10)
    even_B = torch.arange(24) % 2 == 0
    drawn = {**still(24), **factors, "jitter_B": even_B | (torch.arange(24) < 20), "order_BK": torch.tensor(orders),
             "grey_B": torch.arange(24) % 3 == 0, "blur_B": even_B, "sigma_B": sigma_B}  # fmt: skip
    found = distorted(PHOTO.repeat(24, 1, 1, 1), drawn, 2)
    for image, order in enumerate(orders):
        expected = PHOTO
        for code in order if drawn["jitter_B"][image] else ():
            change = getattr(torchvision_does, f"adjust_{JITTER[code]}")
            expected = change(expected, drawn[f"{JITTER[code]}_B"][image].item())
        if drawn["grey_B"][image]:
            expected = torchvision_does.rgb_to_grayscale(expected, num_output_channels=3)
        if drawn["blur_B"][image]:
            expected = torchvision_does.gaussian_blur(expected, [5, 5], [sigma_B[image].item()] * 2)
        torch.testing.assert_close(found[image], expected[0], rtol=0, atol=4 * GREYS)


def test_other_devices_ways_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts and threads; all at once; and where shapes must not follow the data, every step done to all."""
    augmentation, batch = SimClr(SimClrConfig(oversample=2)), object_batch(11, (256, 256))
    key_B, threads = fold(3, batch.id_B), torch.get_num_threads()
    expected = tensors(augmentation(batch, key_B))
    torch.set_num_threads(2)
    try:
        found = [augmentation(batch, key_B)]
        with torch.inference_mode():
            found.append(augmentation(batch, key_B))
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", torch.bfloat16):
        found.append(augmentation(batch, key_B))
    monkeypatch.setattr(SimClr, "_views_by_parts", SimClr._views)
    found.append(augmentation(batch, key_B))
    monkeypatch.setattr(Subset, "follows_data", staticmethod(lambda like: False))
    found.append(augmentation(batch, key_B))
    for each in found:
        assert each.image_B3HW.dtype == torch.float32
        for name, value in tensors(each).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_off_by_little(dtype: torch.dtype) -> None:
    augmentation, batch = SimClr(SimClrConfig()), object_batch(12)
    exact = (batch.image_B3HW / 255).to(dtype).float()
    expected, found = (
        augmentation(replace(batch, image_B3HW=image), fold(8, batch.id_B)).image_B3HW
        for image in (exact, exact.to(dtype))
    )
    assert found.dtype == dtype and found.min() >= 0 and found.max() <= 1
    # A pixel that is nearly grey may take any hue: hence few and not none.
    assert ((found.float() - expected).abs() > 4 * torch.finfo(dtype).eps).float().mean() < 2e-3
    assert (found.float() - expected).abs().max() < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 30), (8, 8), (19, 21)])
def test_canvases_may_be_small(size: tuple[int, int]) -> None:
    batch = batch_of((draws((16, 3, *size), 1) * 255).to(torch.uint8))
    for config in (SimClrConfig(), SimClrConfig(blur_side=1)):
        found = SimClr(config)(batch, fold(2, batch.id_B)).image_B3HW
        assert found.shape == (16, 3, *size) and found.isfinite().all()


def test_no_image_is_no_error_and_no_gradient_comes_back() -> None:
    augmentation, batch = SimClr(SimClrConfig()), object_batch(4)
    none = batch.at(torch.tensor([], dtype=torch.int64))
    assert augmentation(none, none.id_B).image_B3HW.shape == (0, 3, 64, 96)
    asking = replace(batch, image_B3HW=(batch.image_B3HW / 255).requires_grad_())
    assert not augmentation(asking, batch.id_B).image_B3HW.requires_grad


def test_plain_tensors_are_augmented_too() -> None:
    batch = object_batch(5)
    masks, config = batch.targets.mask_BHW, SimClrConfig()
    first, again, other = (
        augment_with(config, batch.image_B3HW, masks=masks, sizes=batch.valid_B2, seed=1, visit=visit)
        for visit in (0, 0, 1)
    )
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert first.masks is not None and not (first.masks == 255).any() and first.sizes.tolist() == [[64, 96]] * 5
