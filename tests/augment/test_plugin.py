"""The plugin keeps its contracts, its settings are checked, and its README runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from selftrain_augment.config import S1Config
from selftrain_augment.s1 import AugmentS1
from selftrain_core.config_model import AugmentationChoice
from selftrain_core.plugins import config_model, load_component, load_registry
from selftrain_core.testing import AugmentationContract, check_plugin

README = Path(__file__).parents[2] / "packages/augment/README.md"


class TestAugmentS1(AugmentationContract):
    spec_name = "augment/s1"


class TestLargerJitter(AugmentationContract):
    spec_name = "augment/s1"
    options = {"scale_min": 0.5, "scale_max": 2.0, "min_visibility": 0.5}


def test_the_plugin_keeps_the_rules() -> None:
    check_plugin("selftrain_augment.plugin")


def test_the_installed_plugin_offers_augment_s1() -> None:
    found = load_registry().find("augmentations", "augment/s1")
    assert found.plugin.distribution == "selftrain-augment"
    assert config_model(found) is S1Config
    assert load_component(found) is AugmentS1


def test_the_defaults_are_the_papers() -> None:
    settings = S1Config()
    assert (settings.flip_probability, settings.scale_min, settings.scale_max) == (0.5, 0.8, 1.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_probability": 1.5}, "less than or equal to 1"),
        ({"scale_min": 0.4}, "greater than or equal to 0.5"),
        ({"scale_max": float("inf")}, "finite"),
        ({"scale_min": 1.3}, "scale_min 1.3 is larger than scale_max 1.2"),
        ({"min_visibility": -0.1}, "greater than or equal to 0"),
        ({"min_visability": 0.1}, "did you mean 'min_visibility'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        S1Config.model_validate(settings)


def test_every_setting_is_part_of_a_results_identity() -> None:
    identity = AugmentationChoice.of("augment/s1", scale_max=1.5).identity()
    assert identity == {"name": "augment/s1", "numerics": 1, **S1Config(scale_max=1.5).model_dump()}


def test_the_readme_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "torch.Size([2, 3, 64, 96])"
