"""What all contract suites share, and the check of plugin modules: each fails for what breaks it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from selftrain_core import testing
from selftrain_core.augmentation import NoAugmentation
from selftrain_core.config_model import StrictModel
from selftrain_core.interfaces import PseudoLabelPolicy
from selftrain_core.testing import AugmentationContract, PolicyContract, assert_equal, check_plugin, is_equal, raises
from selftrain_core.testing.component import ComponentContract, checks, run_check
from selftrain_core.testing.samples import draws


class NoFit(PseudoLabelPolicy): ...


class Loose(BaseModel):
    pass


class Forgetful(StrictModel):
    ratio: float = 1.0

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"ratio": 2.0}


SHARED = [
    (PolicyContract, "test_class_fulfils_the_interface", NoAugmentation, StrictModel, "is no subclass of"),
    (PolicyContract, "test_class_fulfils_the_interface", NoFit, StrictModel, r"does not implement \['fit'\]"),
    (AugmentationContract, "test_settings_round_trip", NoAugmentation, Forgetful, "settings change .* through YAML"),
    (AugmentationContract, "test_settings_refuse_unknown_keys", NoAugmentation, Loose, "no_such_key"),
    (AugmentationContract, "test_settings_are_frozen", NoAugmentation, Loose, "not frozen"),
]


@pytest.mark.parametrize(("suite", "check", "component", "settings", "match"), SHARED)
def test_shared_check_fails_for_a_broken_component(
    suite: type[ComponentContract], check: str, component: type, settings: type[BaseModel], match: str
) -> None:
    with pytest.raises(AssertionError, match=match):
        run_check(suite, check, component, settings)


def test_every_shared_check_has_a_broken_component() -> None:
    assert set(checks(ComponentContract)) == {check for _, check, *_ in SHARED}


def test_everything_promised_is_there() -> None:
    assert all(hasattr(testing, name) for name in testing.__all__)


@pytest.mark.parametrize(
    ("actual", "expected", "match"),
    [
        ({"a": 1}, {"b": 1}, "keys"),
        ([1, 2], [1], "2 items, expected 1"),
        (draws((2,), 1), draws((3,), 1), r"shape \(2,\), expected \(3,\)"),
        (draws((2,), 1), draws((2,), 1).double(), "float32, expected float64"),
        (draws((2,), 1), draws((2,), 2), "2 of 2 values differ"),
        ("x", "y", "'x', expected 'y'"),
    ],
)
def test_assert_equal_says_where(actual: Any, expected: Any, match: str) -> None:
    assert is_equal(expected, expected)
    with pytest.raises(AssertionError, match=f"it.*{match}"):
        assert_equal({"it": actual}, {"it": expected}, "")


def test_raises_fails_where_nothing_is_raised() -> None:
    with pytest.raises(AssertionError, match="nothing was raised"):
        with raises(ValueError, "a block that does nothing"):
            pass


SOUND = """
from selftrain_core.hookspecs import PolicySpec, DataSourceSpec, hookimpl

@hookimpl
def selftrain_policies():
    return [PolicySpec(name="x/fixed", summary="", config="selftrain_core.policy_config:FixedPolicyConfig",
                       load="selftrain_core.policies:FixedPolicy")]

@hookimpl
def selftrain_data_sources():
    return [DataSourceSpec(name="x/images", summary="", config="selftrain_core.sources:ImageFolderConfig",
                           load="selftrain_core.sources:ImageFolder")]
"""
HEAVY = "import numpy\nimport selftrain_core.labels\n" + SOUND.replace(
    "selftrain_core.policy_config:FixedPolicyConfig", "heavy_config:PolicyConfig"
)
WRONG = """
from selftrain_core.hookspecs import PolicySpec, hookimpl

@hookimpl
def selftrain_policies():
    config, load = "selftrain_core.policy_config:FixedPolicyConfig", "selftrain_core.policies:FixedPolicy"
    return [
        PolicySpec(name="x/a", summary="", config="selftrain_core.policy_config:NoConfig", load=load),
        PolicySpec(name="x/b", summary="", config="selftrain_core.policies:FixedPolicy", load=load),
        PolicySpec(name="x/c", summary="", config=config, load="selftrain_core.augmentation:NoAugmentation"),
        PolicySpec(name="x/d", summary="", config=config, load="selftrain_core.policies:Absent"),
    ]
"""


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("import torch\n" + SOUND, ["the plugin module imports torch"]),
        (
            HEAVY,
            [
                "the plugin module imports numpy",
                "the plugin module imports selftrain_core.labels",
                "the config of 'x/fixed', heavy_config:PolicyConfig, imports torch",
            ],
        ),
        (
            SOUND.replace('selftrain_core.sources:ImageFolder"', 'heavy_source:Source"'),
            ["the data source 'x/images', "],
        ),
        (
            WRONG,
            [
                "the config of 'x/a', selftrain_core.policy_config:NoConfig, cannot be imported",
                "the config of 'x/b', selftrain_core.policies:FixedPolicy, is no pydantic model",
                "'x/c', selftrain_core.augmentation:NoAugmentation, is no PseudoLabelPolicy",
                "'x/d', selftrain_core.policies:Absent, cannot be imported",
            ],
        ),
    ],
    ids=["torch", "heavy", "source", "wrong"],
)
def test_check_plugin(text: str, faults: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plugin.py").write_text(text)
    for name, line in (
        ("heavy_config", "from selftrain_core.policy_config import FixedPolicyConfig as PolicyConfig"),
        ("heavy_source", "from selftrain_core.sources import ImageFolder as Source"),
    ):
        (tmp_path / f"{name}.py").write_text(f"import torch\n{line}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(AssertionError) as error:
        check_plugin("my_plugin")
    assert all(fault in str(error.value) for fault in faults), error.value


def test_check_plugin_says_why_a_module_cannot_be_imported() -> None:
    with pytest.raises(AssertionError, match="No module named 'no_such_plugin'"):
        check_plugin("no_such_plugin")


def test_draws_are_the_same_in_any_shape() -> None:
    assert draws((3,), 1, 2).tolist() == draws((2, 3), 1, 2)[0].tolist()
