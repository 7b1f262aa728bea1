"""Augment SimCLR as a component: it keeps its contract, its settings are checked, its draws are those published."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from selftrain_augment.config import SimClrConfig
from selftrain_augment.distortion import JITTER
from selftrain_augment.simclr import SimClr
from selftrain_core.batch import Batch
from selftrain_core.keys import fold
from selftrain_core.plugins import config_model, load_component, load_registry
from selftrain_core.testing import AugmentationContract
from selftrain_core.testing.samples import object_batch

NUM_KEYS = 20_000
UNIFORM = {"crop_x_B": (0, 1), "crop_y_B": (0, 1), "area_B": (0.08, 1), "sigma_B": (0.1, 2), "hue_B": (-0.2, 0.2)}
FACTORS = {f"{name}_B": (0.2, 1.8) for name in ("brightness", "contrast", "saturation")}
FLAGS = {"flip_B": 0.5, "jitter_B": 0.8, "grey_B": 0.2, "blur_B": 0.5}


class TestSimClr(AugmentationContract):
    spec_name = "augment/simclr"


class TestOversampled(AugmentationContract):
    spec_name = "augment/simclr"
    options = {"oversample": 2}


class TestEverythingAtItsStrongest(AugmentationContract):
    spec_name = "augment/simclr"
    options = {
        "area_min": 0.01,
        "aspect_min": 0.1,
        "aspect_max": 10,
        "jitter_probability": 1,
        "strength": 2.5,
        "grey_probability": 0.5,
        "blur_probability": 1,
        "blur_side": 1,
        "sigma_max": 9,
        "oversample": 3,
    }


class TestCropAlone(AugmentationContract):
    spec_name = "augment/simclr"
    options = {"jitter_probability": 0, "grey_probability": 0, "blur_probability": 0}


class _Typed(AugmentationContract):
    spec_name = "augment/simclr"
    dtype: torch.dtype

    def batch(self) -> Batch:
        batch = super().batch()
        return replace(batch, image_B3HW=(batch.image_B3HW / 255).to(self.dtype))

    def test_the_type_stays(self) -> None:
        assert self.changed(self.batch()).image_B3HW.dtype == self.dtype


class TestFloat16(_Typed):
    dtype = torch.float16
    tolerance = 2**-10


class TestFloat32(_Typed):
    dtype = torch.float32


class TestFloat64(_Typed):
    dtype = torch.float64


def test_the_installed_plugin_offers_it() -> None:
    found = load_registry().find("augmentations", "augment/simclr")
    assert found.plugin.distribution == "selftrain-augment"
    assert config_model(found) is SimClrConfig
    assert load_component(found) is SimClr


def test_the_defaults_are_the_papers() -> None:
    config = SimClrConfig()
    assert (config.area_min, config.area_max, config.aspect_min, config.aspect_max) == (0.08, 1, 3 / 4, 4 / 3)
    assert (config.flip_probability, config.jitter_probability) == (0.5, 0.8)
    assert (config.strength, config.brightness, config.contrast, config.saturation, config.hue) == (
        1,
        0.8,
        0.8,
        0.8,
        0.2,
    )
    assert (config.grey_probability, config.blur_probability) == (0.2, 0.5)
    assert (config.sigma_min, config.sigma_max, config.blur_side, config.oversample) == (0.1, 2, 0.1, 1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"area_min": 0}, "greater than or equal to 0.01"),
    ({"area_max": 1.5}, "less than or equal to 1"),
    ({"area_min": 0.6, "area_max": 0.5}, "area_min 0.6 is larger than area_max 0.5"),
    ({"aspect_min": 1.5}, "aspect_min 1.5 is larger than aspect_max 1.33333"),
    ({"aspect_min": -1}, "greater than or equal to 0.1"),
    ({"sigma_min": 3}, "sigma_min 3 is larger than sigma_max 2"),
    ({"sigma_min": 0}, "greater than or equal to 0.01"),
    ({"sigma_max": float("inf")}, "finite"),
    ({"blur_side": 0}, "greater than 0"),
    ({"flip_probability": 1.5}, "less than or equal to 1"),
    ({"jitter_probability": -0.5}, "greater than or equal to 0"),
    ({"grey_probability": 2}, "less than or equal to 1"),
    ({"blur_probability": 2}, "less than or equal to 1"),
    ({"strength": -1}, "greater than or equal to 0"),
    ({"hue": 0.6}, "less than or equal to 0.5"),
    (
        {"strength": 4},
        "strength 4 times hue 0.2 is more than half a turn, 0.5, beyond which hues come again; wanted is",
    ),
    ({"strength": 4}, "wanted is hue 0.125 or less"),
    ({"oversample": 5}, "less than or equal to 4"),
    ({"gray_probability": 0.2}, "did you mean 'grey_probability'"),
    ({"scale_min": 0.5}, "has no key 'scale_min'"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)) as error:
        SimClrConfig.model_validate(settings)
    assert error.value.error_count() == 1, error.value


def drawn(**options: Any) -> dict[str, Tensor]:
    """Return what is drawn for many keys."""
    return SimClr(SimClrConfig(**options)).parameters(object_batch(1), fold(3, torch.arange(NUM_KEYS)))


def assert_uniform(values_B: Tensor, low: float, high: float) -> None:
    """Assert that values are uniform in a range, by Kolmogorov and Smirnov's test at 0.1 %."""
    assert values_B.min() >= low - 1e-6 and values_B.max() <= high + 1e-6
    share_B = ((values_B.double() - low) / (high - low)).sort().values
    expected_B = (torch.arange(len(values_B)) + 0.5) / len(values_B)
    assert (share_B - expected_B).abs().max() < 1.95 / len(values_B) ** 0.5


def test_draws_are_uniform() -> None:
    found = drawn()
    for name, (low, high) in (UNIFORM | FACTORS).items():
        assert found[name].dtype == torch.float32
        assert_uniform(found[name], low, high)
    assert_uniform(found["aspect_B"].log(), torch.tensor(3 / 4).log().item(), torch.tensor(4 / 3).log().item())


def test_shares_are_the_probabilities() -> None:
    found = drawn()
    for name, probability in FLAGS.items():
        assert found[name].dtype == torch.bool
        slack = 3.3 * (probability * (1 - probability) / NUM_KEYS) ** 0.5
        assert abs(found[name].float().mean() - probability) < slack, name


def test_every_order_is_as_likely() -> None:
    order_BK = drawn()["order_BK"]
    counts = [int((order_BK == torch.tensor(order)).all(1).sum()) for order in permutations(range(len(JITTER)))]
    assert sum(counts) == NUM_KEYS
    expected = NUM_KEYS / len(counts)
    assert sum((count - expected) ** 2 / expected for count in counts) < 49.7  # χ² of 23 degrees, 0.1 %


def test_draws_do_not_follow_each_other() -> None:
    found = drawn()
    columns = [found[name].double() for name in (*UNIFORM, *FACTORS, *FLAGS, "aspect_B")]
    columns += [*found["order_BK"].double().unbind(1)[:3]]
    names = [*UNIFORM, *FACTORS, *FLAGS, "aspect_B", "order 0", "order 1", "order 2"]
    matrix = torch.corrcoef(torch.stack(columns))
    for (i, one), (j, other) in combinations(enumerate(names), 2):
        if not (one.startswith("order") and other.startswith("order")):  # places of one order exclude each other
            assert abs(matrix[i, j]) < 4 / NUM_KEYS**0.5, f"{one} and {other}"


def test_settings_are_obeyed() -> None:
    found = drawn(strength=0.5, area_min=0.3, area_max=0.4, aspect_min=1, aspect_max=1, sigma_min=1, sigma_max=1)
    assert_uniform(found["brightness_B"], 0.6, 1.4)
    assert_uniform(found["hue_B"], -0.1, 0.1)
    assert_uniform(found["area_B"], 0.3, 0.4)
    assert (found["aspect_B"] == 1).all() and (found["sigma_B"] == 1).all()
    wide = drawn(strength=2)
    assert_uniform(wide["contrast_B"], 0, 2.6)
    assert_uniform(wide["hue_B"], -0.4, 0.4)
    for probability in (0, 1):
        names = {f"{name.removesuffix('_B')}_probability": probability for name in FLAGS}
        certain = drawn(**names)
        assert all((certain[name] == bool(probability)).all() for name in FLAGS)


def test_a_key_draws_what_it_draws_alone() -> None:
    augmentation, key_B = SimClr(SimClrConfig()), fold(9, torch.arange(7))
    together, alone = (augmentation.parameters(object_batch(1), keys) for keys in (key_B, key_B[4:5]))
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name][4:5], value) for name, value in alone.items())


def test_two_keys_are_two_views() -> None:
    augmentation, batch = SimClr(SimClrConfig()), object_batch(8)
    first, second = (augmentation(batch, fold(view, batch.id_B)) for view in (0, 1))
    for one, other, is_seen_B in zip(first.image_B3HW, second.image_B3HW, first.valid_B2 > 0, strict=True):
        assert is_seen_B.all()
        assert (one - other).abs().mean() > 0.02


def test_what_was_drawn_is_described() -> None:
    augmentation, batch = SimClr(SimClrConfig()), object_batch(2)
    found = augmentation.parameters(batch, fold(0, batch.id_B))
    found |= {name: torch.tensor([True, False]) for name in FLAGS}
    found |= {
        "area_B": torch.tensor([0.337, 1.0]),
        "order_BK": torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]]),
        "hue_B": torch.tensor([-0.1, 0.0]),
        "contrast_B": torch.tensor([0.71, 1.0]),
        "brightness_B": torch.tensor([1.5, 1.0]),
        "saturation_B": torch.tensor([0.2, 1.0]),
        "sigma_B": torch.tensor([1.26, 1.0]),
    }
    words = "34 %, mirrored, grey, blur 1.3, hue -36°, contrast × 0.71, brightness × 1.50, saturation × 0.20"
    assert augmentation.described(found, has_boxes=True) == [words, "100 %"]


def test_parameters_of_another_batch_or_augmentation_are_refused() -> None:
    augmentation, batch = SimClr(SimClrConfig()), object_batch(3)
    found = augmentation.parameters(batch, fold(0, batch.id_B))
    with pytest.raises(ValueError, match="drawn for 3 images, and the batch has 2; draw again"):
        augmentation.replay(batch.at(torch.tensor([0, 1])), found)
    del found["sigma_B"], found["area_B"]
    with pytest.raises(ValueError, match="parameters lack area_B, sigma_B: they were drawn by another augmentation"):
        augmentation.replay(batch, found)


def test_a_canvas_that_does_not_divide_is_refused() -> None:
    batch = object_batch(2, (33, 64))
    with pytest.raises(ValueError, match="a canvas of 33 × 64 does not divide by oversample 2"):
        SimClr(SimClrConfig(oversample=2))(batch, batch.id_B)
