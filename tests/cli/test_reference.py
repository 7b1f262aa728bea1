"""The configuration reference is complete, and the page in docs/ is what the models say today."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from selftrain.main import main
from selftrain.reference import reference, words
from selftrain.schema import CHOICES
from selftrain_core.config import RunConfig
from selftrain_core.plugins import config_model, registry

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_models_say() -> None:
    if os.environ.get("SELFTRAIN_REGENERATE"):
        PAGE.write_text(reference(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == reference(), "make golden writes the page anew"


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(main, ["config", "reference"])
    assert result.exit_code == 0
    assert result.output == reference()


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        is_section = isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in CHOICES
        found.append(f"{prefix}{name}")
        found += keys(inner, f"{prefix}{name}.") if is_section else []
    return found


@pytest.mark.parametrize("key", keys(RunConfig))
def test_every_setting_of_a_run_is_there(key: str) -> None:
    assert f"`{key}`" in reference()


@pytest.mark.parametrize("choice", CHOICES)
def test_every_component_is_there_with_its_settings(choice: Any) -> None:
    text = reference()
    for name, found in registry().components[choice.kind].items():
        section = text.partition(f"### `{name}`\n")[2].partition("\n###")[0]
        assert found.spec.summary[1:] in section, name
        for setting in config_model(found).model_fields:
            assert f"`{setting}`" in section, f"{name}: {setting}"


@pytest.mark.parametrize("line", [line for line in reference().splitlines() if line.startswith("| `")])
def test_every_setting_is_explained(line: str) -> None:
    cells = line.replace("\\|", "").strip("| ").split(" | ")
    assert len(cells) == 4, line
    assert len(cells[3]) > 10, f"{cells[0]} needs a description"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 16}, "an integer ≥ 1, ≤ 16"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "a number > 0, < 1"),
        ({"type": "integer", "multipleOf": 32}, "an integer a multiple of 32"),
        ({"anyOf": [{"type": "string", "format": "path"}, {"type": "null"}]}, "a path or null"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"type": "array", "items": {"type": "string"}}, "a list: text"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, "a mapping of names to true or false"),
        ({}, "anything"),
    ],
)
def test_a_schema_in_words(schema: dict[str, Any], expected: str) -> None:
    assert words(schema, {}) == expected
