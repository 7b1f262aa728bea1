from __future__ import annotations

import json
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


@pytest.mark.usefixtures("registry")
def test_text_shows_broken_plugins_and_empty_kinds() -> None:
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
