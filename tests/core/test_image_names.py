"""Paths of images as files of labels give them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from selftrain_core.image_names import is_there, path_below, without_ending


def test_paths_lose_what_means_nothing() -> None:
    assert path_below("./a//b/./c.png") == "a/b/c.png"
    assert path_below("é" * 255) == "é" * 255


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "the file_name None, which is no path"),
        ("", "the file_name '', which is no path"),
        ("a\0b", r"the file_name 'a\\x00b', which is no path"),
        ("\ud800", r"the file_name '\\ud800', which is no path"),
        ("a/../../b", "the file_name 'a/../../b', which leads out of the folder 'images'"),
        ("/a", "leads out of the folder"),
        ("x" * 256, f"^the file_name '{'x' * 100}'… of 256 characters, 256 in one part; a path has no more than 4,096"),
        (
            "x/" * 2100 + "x",
            "of 4,201 characters, 1 in one part; .* 4,096, and 255 between slashes$",
        ),
    ],
)
def test_what_is_no_path_is_explained(name: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        path_below(name)


@pytest.mark.parametrize(
    ("file", "id_"),
    [("a.png", "a"), ("d.x/a", "d.x/a"), ("d/v1.2.png", "d/v1.2"), (".png", ".png"), ("d/.png", "d/.png"), ("a.", "a")],
)
def test_endings(file: str, id_: str) -> None:
    assert without_ending(file) == id_


def test_what_no_file_system_takes_is_not_there(tmp_path: Path) -> None:
    assert not is_there((tmp_path / ("x" * 1000)).is_file)
    assert is_there(tmp_path.is_dir)

    def fails() -> bool:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        is_there(fails)
