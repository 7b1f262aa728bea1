"""Files that are whole or absent, and digests."""

import json
from pathlib import Path

import pytest

from selftrain_core.digest import difference, digest
from selftrain_core.errors import RunError
from selftrain_core.files import replacing, write_json, write_text


def test_a_file_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for text in ("old", "new ü"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def fail(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of it")
        raise KeyError


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyError):
        fail(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none/x\.json cannot be written: No such file or directory"):
        write_json(tmp_path / "none/x.json", {})


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "ü", "list": [1]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "ü" in text
    assert json.loads(text) == {"name": "ü", "list": [1]}


def test_digests_do_not_know_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) == "015abd7f5cc57a2d"


def test_differences_are_named() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "gone": 1, "same": None}
    after = {"a": {"b": 2, "c": [1, 2]}, "same": None, "new": {"x": "y"}}
    assert difference(before, after) == ["a.b: 1 → 2", "gone: 1 → (absent)", "new.x: (absent) → y"]
    assert difference(before, before) == []
