"""Pictures made smaller: pixels are averaged, none is stepped over, and none from outside the picture comes in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.augment.scenes import painted
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.config import CustomConfig, S1Config
from selftrain_core.batch import Batch

SIDE = 96
SMALL = {"scale_min": 0.25, "scale_max": 1.0, "flip_probability": 0}


def scaled(image_B3HW: Tensor, scale: float, valid: tuple[int, int] = (SIDE, SIDE), oversample: int = 1) -> Tensor:
    """Return the picture on the new canvas, without what is around it."""
    augment = Augment(S1Config.model_validate(SMALL | {"oversample": oversample}))
    batch = replace(painted((SIDE, SIDE), valid, [(1, 1, 9, 9)]), image_B3HW=image_B3HW)
    changed = augment.replay(batch, augment.parameters(batch, torch.tensor([0])) | {"scale_B": torch.tensor([scale])})
    height, width = changed.valid_B2[0].tolist()
    return changed.image_B3HW[:, :, :height, :width]


def checkerboard() -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((x + y) % 2).float().expand(1, 3, SIDE, SIDE)


def noise() -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [0.65, 0.5, 0.4, 1 / 3, 0.3, 0.25])
def test_a_fine_checkerboard_becomes_grey(scale: float) -> None:
    """Stepped over, it would stay black and white, or beat in coarse waves."""
    inner = scaled(checkerboard(), scale)[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("oversampled", [False, True])
def test_noise_becomes_its_local_mean(times: int, oversampled: bool) -> None:
    image = noise()
    found = scaled(image, 1.0, oversample=times) if oversampled else scaled(image, 1 / times)
    expected = torch.nn.functional.avg_pool2d(image, times)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("oversampled", [False, True])
def test_noise_at_a_third_is_close_to_its_local_mean(oversampled: bool) -> None:
    """Of nine pixels, not of the four that lie around the middle: by no more than half of what that one errs by."""
    image = noise()
    found = scaled(image, 1.0, oversample=3) if oversampled else scaled(image, 1 / 3)
    mean = torch.nn.functional.avg_pool2d(image, 3)
    stepped_over = image[:, :, 1::3, 1::3]
    assert (found - mean).square().mean().sqrt() < 0.5 * (stepped_over - mean).square().mean().sqrt()
    assert found.std() < 1.2 * mean.std()


@pytest.mark.parametrize("scale", [0.9, 0.7, 0.6, 0.5, 1 / 3, 0.3, 0.25])
def test_slow_waves_stay_where_they_are(scale: float) -> None:
    """Averaging moves nothing, whatever the scale: a fifth of an old pixel would err by 0.005 more than it smooths."""
    x = torch.arange(SIDE) + 0.5
    image = (0.5 + 0.4 * torch.sin(x * (2 * np.pi / SIDE))).expand(1, 3, SIDE, SIDE)
    found = scaled(image, scale)
    width = found.shape[3]
    expected = 0.5 + 0.4 * torch.sin((torch.arange(width) + 0.5) * (2 * np.pi / width))
    torch.testing.assert_close(found[..., 1:-1], expected[1:-1].expand_as(found[..., 1:-1]), rtol=0, atol=5e-3)


@pytest.mark.parametrize("scale", [1.0, 0.9, 0.6, 0.5, 0.4, 1 / 3, 0.25])
@pytest.mark.parametrize("valid", [(SIDE, 61), (61, SIDE), (SIDE, 62), (63, SIDE), (SIDE, SIDE)])
def test_nothing_from_outside_bleeds_in(scale: float, valid: tuple[int, int]) -> None:
    image = torch.ones(1, 3, SIDE, SIDE)
    image[:, :, : valid[0], : valid[1]] = 0.25
    found = scaled(image, scale, valid)
    torch.testing.assert_close(found, torch.full_like(found, 0.25), rtol=0, atol=1e-4)


@pytest.mark.parametrize("operation", ["Rotate_BBox", "ShearX_BBox", "TranslateY_BBox"])
@pytest.mark.parametrize("scale", [1.0, 0.6, 0.3])
def test_nothing_bleeds_in_where_a_turned_picture_ends(operation: str, scale: float) -> None:
    steps = [[{"operation": operation, "magnitude": 7}]]
    augment = Augment(CustomConfig.model_validate(SMALL | {"sub_policies": steps}))
    batch = painted((SIDE, SIDE), (SIDE, 60), [(1, 1, 9, 9)])
    image = torch.ones(1, 3, SIDE, SIDE)
    image[..., :60] = 0.25
    batch = replace(batch, image_B3HW=image)
    changed = augment.replay(batch, augment.parameters(batch, torch.tensor([0])) | {"scale_B": torch.tensor([scale])})
    shown = changed.image_B3HW[:, :, mask_of(changed) != 255]
    assert shown.shape[2] > 0.3 * scale**2 * SIDE * 60
    torch.testing.assert_close(shown, torch.full_like(shown, 0.25), rtol=0, atol=1e-4)


def mask_of(batch: Batch) -> Tensor:
    assert batch.targets.mask_BHW is not None
    return batch.targets.mask_BHW[0]
