"""What ``selftrain run`` says to a configuration that is wrong. The run's folder is not even made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from selftrain.main import main
from selftrain_core.config import RunConfig, dump_config
from selftrain_core.config_text import read_yaml

MakeConfig = Callable[..., RunConfig]


def refuse(tmp_path: Path, config: Path, message: str, *more: str) -> None:
    result = CliRunner().invoke(main, ["run", str(config), "-o", str(tmp_path / "run"), *more])
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert re.search(message, result.stderr), result.stderr
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()


def written(tmp_path: Path, make_config: MakeConfig, changes: dict[str, Any]) -> Path:
    settings = yaml.safe_load(dump_config(make_config()))
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = settings
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


SETTINGS: dict[str, tuple[str, Any, str]] = {
    "typo": ("teacher.stepz", 4, r"teacher: has no key 'stepz' \(did you mean 'steps'\?\); keys: steps, human"),
    "whole number": ("teacher.steps", "many", r"teacher\.steps: expected a whole number \(given 'many'\)"),
    "fraction": ("teacher.steps", 1.5, r"teacher\.steps: expected a whole number \(given 1\.5\)"),
    "nothing": ("rounds", None, r"rounds: expected a whole number \(given nothing\)"),
    "number": ("objective.alpha", "much", r"objective\.alpha: expected a number \(given 'much'\)"),
    "truth": ("baseline", "perhaps", r"baseline: expected true or false \(given 'perhaps'\)"),
    "text": ("data.labelled", 3, r"data\.labelled: expected a text; .* needs quotes to be one \(given 3\)"),
    "section": ("teacher", 3, r"teacher: expected settings, each as `key: value` \(given 3\)"),
    "path": ("data.sources.pool.images", 7, r"data\.sources\.pool\.images: expected a path \(given 7\)"),
    "list": ("canvas", 64, r"canvas: expected a list, such as \[first, second\] \(given 64\)"),
    "short list": ("canvas", [64], r"canvas\.1: is missing: another value is expected \(given \[64\]\)"),
    "no value": ("labelling.scales", [], r"labelling\.scales: expected 1 or more values \(given \[\]\)"),
    "canvas": ("canvas", [100, 64], r"canvas: .*multiples of 32; the nearest is \[96, 64\] \(given \[100, 64\]\)"),
    "a number for the classes": ("data.classes", 3, r"data\.classes: expected the class names as a list .*\(given 3\)"),
    "classes that are numbers": (
        "data.classes",
        [1, 2],
        r"data\.classes: .* needs quotes to be a text \(given \[1, 2\]\)",
    ),
    "long": ("seed", "x" * 500, r"seed: expected a whole number \(given 'x{99}…\)\n"),
    "choice": ("student.start", "scratch", r"student\.start: must be 'teacher' or 'init' \(given 'scratch'\)"),
    "α < 0": ("objective.alpha", -1, r"objective\.alpha: must be greater than or equal to 0 \(given -1\)"),
    "threshold": ("policy.threshold", 1.5, r"policy\.threshold: must be less than or equal to 1 \(given 1\.5\)"),
    "no such source": (
        "data.test",
        "tset",
        r"data\.test: 'tset' names the source 'tset', which .*\(did you mean 'test'",
    ),
    "no such policy": (
        "policy",
        "core/fixd",
        r"no policy is called 'core/fixd' \(did you mean 'core/fixed'\?\)\n  av",
    ),
}


@pytest.mark.parametrize("line", SETTINGS)
def test_wrong_settings(tmp_path: Path, make_config: MakeConfig, line: str) -> None:
    key, value, message = SETTINGS[line]
    refuse(tmp_path, written(tmp_path, make_config, {key: value}), rf"config\.yaml is wrong:\n  .*{message}")


def test_a_list_of_wrong_values_is_not_called_short(tmp_path: Path, make_config: MakeConfig) -> None:
    message = r"wrong:\n  labelling\.scales\.0: must be greater than 0 \(given 0\)\n$"
    refuse(tmp_path, written(tmp_path, make_config, {"labelling.scales": [0]}), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the configuration .*bad.yaml cannot be read: Is a directory"),
        (b"", r"bad\.yaml holds no settings; it is to hold `key: value` lines.*\n.*selftrain config schema"),
        (b"- a\n", r"bad\.yaml holds no settings"),
        (bytes(range(256)), r"bad\.yaml is no valid YAML: unacceptable character .*\n.*bad\.yaml"),
        (b"data:\n\tclasses: [a]\n", r"bad\.yaml is no valid YAML: (.|\n)*line 2.*\n  YAML is indented with spaces"),
        (b"seed: 1\nrounds: 2\nseed: 3\n", r"the key 'seed' is given twice, in the lines 1 and 3; take one out"),
        (b"seed: 2024-13-45\n", r"bad\.yaml is no valid YAML: month must be in 1\.\.12"),
        (b"[" * 3000, r"bad\.yaml is no valid YAML: maximum recursion"),
        (b"seed: !!python/object/apply:os.mkdir [hostile]\n", r"could not determine a constructor for the tag"),
    ],
)
def test_configuration_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    refuse(tmp_path, path, message)
    assert [each.name for each in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_merged_key_is_not_given_twice() -> None:
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, a: 3}\n"
    assert read_yaml(text)["other"] == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", r"--set nonsense: expected the form a\.b=value"),
        ("teacher.steps=[", r"--set teacher\.steps=\[: the value is no valid YAML"),
        ("seed.x=1", r"--set seed\.x=1: 'seed' holds 0, not settings"),
        ("a.b.c=1", r"\(top level\): has no key 'a'; keys: seed"),
        ("teacher..steps=1", r"teacher: has no key ''; keys: steps"),
    ],
)
def test_overrides(tmp_path: Path, make_config: MakeConfig, override: str, message: str) -> None:
    refuse(tmp_path, written(tmp_path, make_config, {}), message, "--set", override)
