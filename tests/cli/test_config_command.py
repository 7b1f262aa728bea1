from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from selftrain import schema
from selftrain.main import main
from selftrain_core.config import RunConfig, load_config
from selftrain_core.plugins import Found, config_model, registry

CONFIG = """
anchors: {folder: &folder images}
data:
  sources:
    all: {name: core/images, images: *folder}
  labelled: all
  unlabelled: all
  validation: all
  test: all
  classes: [background, cat]
task: segmentation/semantic
backbone: {name: core/fpn, body: timm/resnet18}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def test_show_fills_in_defaults_and_can_be_read_again(path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "show", str(path), "--set", "teacher.steps=7", "--set", "seed=3"])
    assert result.exit_code == 0, result.output
    shown = yaml.safe_load(result.stdout)
    assert (shown["teacher"]["steps"], shown["seed"], shown["student"]["pseudo"]) == (7, 3, 8)
    assert shown["data"]["sources"]["all"]["images"] == str(tmp_path / "images")
    again = tmp_path / "elsewhere" / "again.yaml"
    again.parent.mkdir()
    again.write_text(result.stdout)
    assert load_config(again) == load_config(path, ["teacher.steps=7", "seed=3"])


def test_show_explains_a_typo(path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "show", str(path), "--set", "teacher.stepps=7"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "has no key 'stepps' (did you mean 'steps'?)" in result.stderr


def changed(path: Path, *overrides: str) -> str:
    """Return the path of a copy of a configuration with other settings."""
    shown = CliRunner().invoke(main, ["config", "show", str(path), *(part for o in overrides for part in ("--set", o))])
    copy = path.with_name("changed.yaml")
    copy.write_text(shown.stdout)
    return str(copy)


def compared(first: Path | str, second: Path | str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["config", "diff", str(first), str(second), "--json"])
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_diff_of_the_same(path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "diff", str(path), changed(path)])
    assert (result.exit_code, result.stdout) == (0, "no setting differs\n")


def test_diff_tells_what_changes_a_result(path: Path) -> None:
    found = compared(path, changed(path, "student.steps=7", "device.workers=3", "data.sources.all.images=elsewhere"))
    effects = {each["key"]: (each["first"], each["second"], each["changes"]) for each in found["settings"]}
    assert effects.pop("data.sources.all.images")[2] == "data"
    assert effects == {"student.steps": (1000, 7, "result"), "device.workers": (1, 3, "place")}
    assert found["made_again"] == [
        "round-1/student",
        "round-1/student/evaluation",
        "round-0/baseline",
        "round-0/baseline/evaluation",
        "pictures",
    ]
    assert found["made_again_if_data_differs"] == [
        "round-0/teacher",
        "round-0/teacher/evaluation",
        "round-1/pseudo-labels",
    ]


def test_diff_names_stages_that_come_and_go(path: Path) -> None:
    found = compared(path, changed(path, "rounds=2", "baseline=false"))
    assert found["made_again"] == ["pictures"]
    assert found["added"] == ["round-2/pseudo-labels", "round-2/student", "round-2/student/evaluation"]
    assert found["dropped"] == ["round-0/baseline", "round-0/baseline/evaluation"]


def test_diff_takes_the_folder_of_a_run(path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    failed = CliRunner().invoke(main, ["config", "diff", str(path), str(run)])
    assert failed.exit_code == 2
    assert f"{run} is a folder without a config.yaml; give a YAML file, or the folder of a run" in failed.stderr
    Path(changed(path, "policy.share=0.9")).rename(run / "config.yaml")
    result = CliRunner().invoke(main, ["config", "diff", str(path), str(run)])
    assert result.exit_code == 0
    assert "policy.share  0.8" in result.stdout
    assert "  makes again: round-1/student, round-1/student/evaluation, pictures\n" in result.stdout


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    result = CliRunner().invoke(main, ["config", "schema"])
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def test_schema_has_the_keys_of_a_configuration(printed: dict[str, Any]) -> None:
    assert set(printed["properties"]) == {*RunConfig.model_fields, "anchors"}
    assert printed["required"] == ["data", "task"]


def test_schema_refers_to_nothing_that_is_missing(printed: dict[str, Any]) -> None:
    referred = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(printed)))
    assert referred == set(printed["$defs"])


def test_schema_lists_components_with_their_own_settings(printed: dict[str, Any]) -> None:
    by_name_alone, *backbones = printed["$defs"]["BackboneChoice"]["anyOf"]
    found = {backbone["title"]: backbone for backbone in backbones}
    assert set(found) == set(registry().components["backbones"])
    assert found["timm/*"]["properties"]["name"] == {"type": "string", "pattern": "^timm/.+$"}
    assert "init" in found["timm/*"]["properties"]
    assert found["core/fpn"]["required"] == ["name", "body"]
    assert found["core/fpn"]["properties"]["body"]["$ref"] == "#/$defs/BackboneChoice"
    assert found["core/fpn"]["additionalProperties"] is False
    # A pyramid needs its body, so its name alone is no backbone.
    assert by_name_alone["anyOf"] == [{"type": "string", "pattern": f"^{name}/.+$"} for name in ("spinenet", "timm")]


def test_schema_accepts_what_the_loader_accepts(printed: dict[str, Any]) -> None:
    assert accepts(printed, yaml.safe_load(CONFIG), printed)
    wrong = yaml.safe_load(CONFIG)
    wrong["backbone"]["body"] = "core/fpn"
    assert not accepts(printed, wrong, printed)
    assert not accepts(printed, {**yaml.safe_load(CONFIG), "sead": 1}, printed)


def test_a_component_whose_settings_cannot_be_imported_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(found: Found) -> Any:
        if found.spec.name == "core/fpn":
            raise ModuleNotFoundError("No module named 'gone'")
        return config_model(found)

    monkeypatch.setattr(schema, "config_model", broken)
    titles = [choice["title"] for choice in schema.run_schema()["$defs"]["BackboneChoice"]["anyOf"]]
    assert "core/fpn" not in titles
    assert "'core/fpn' of selftrain-core is left out: No module named 'gone'" in capsys.readouterr().err


def accepts(node: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Return whether a schema accepts a value, as far as structure goes: keys, alternatives, references."""
    if "$ref" in node:
        return accepts(root["$defs"][node["$ref"].rpartition("/")[2]], value, root)
    if "anyOf" in node:
        return any(accepts(option, value, root) for option in node["anyOf"])
    if "const" in node:
        return bool(value == node["const"])
    if "pattern" in node:
        return isinstance(value, str) and re.search(node["pattern"], value) is not None
    if node.get("type") == "object" and isinstance(node.get("properties"), dict):
        return (
            isinstance(value, dict)
            and set(node.get("required", ())) <= set(value)
            and set(value) <= set(node["properties"])
            and all(accepts(node["properties"][key], item, root) for key, item in value.items())
        )
    if node.get("type") == "object":
        return isinstance(value, dict) and all(
            accepts(node.get("additionalProperties", {}), item, root) for item in value.values()
        )
    return True
