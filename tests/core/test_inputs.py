"""The images that a person names."""

import os
from pathlib import Path

import pytest

from selftrain_core.errors import DataError
from selftrain_core.inputs import find_inputs

OUT = Path("/nowhere")


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ids(folder: Path, *paths: str, out: Path = OUT) -> list[str]:
    found = find_inputs([folder / path for path in paths], out)
    assert all(path.is_absolute() for _, path in found)
    return [id_ for id_, _ in found]


def test_the_id_is_the_path_below_the_common_folder(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "a/deep/y.png", "b/x.jpg", "b/notes.md", "b/.hidden.jpg")
    assert ids(tmp_path, "a") == ["deep/y", "x"]
    assert ids(tmp_path, "a/x.jpg") == ["x"]
    assert ids(tmp_path, "a", "b/x.jpg") == ["a/deep/y", "a/x", "b/x"]
    assert ids(tmp_path, "a", "a/x.jpg", "a/../a") == ["deep/y", "x"], "each once"
    assert ids(tmp_path, ".", out=tmp_path / "b") == ["a/deep/y", "a/x"], "what was written is no input"


def test_images_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg", "x.png", "y.png", "x.jpg.png")
    assert ids(tmp_path, ".") == ["x.jpg", "x.jpg.png", "x.png", "y"]


def test_a_list_s_paths_are_relative_to_it(tmp_path: Path) -> None:
    make(tmp_path, "photos/a.jpg", "photos/deep/b.jpg")
    (tmp_path / "some.txt").write_text("photos/a.jpg\nphotos/gone.jpg\n")
    assert ids(tmp_path, "some.txt") == ["a", "gone"]


def test_a_link_to_a_folder_that_it_lies_in_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    assert ids(tmp_path, "a") == ["x"]


def test_what_is_no_image_is_explained(tmp_path: Path) -> None:
    make(tmp_path, "notes.md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"notes\.md is no image: its name ends in none of \.bmp, .*nor in \.txt as a list"
    ):
        ids(tmp_path, "notes.md")
    with pytest.raises(DataError, match=r"gone does not exist; give images, folders of images, or lists of paths"):
        ids(tmp_path, "gone")
    with pytest.raises(DataError, match=r"the folder .*empty holds no image \(\.bmp"):
        ids(tmp_path, "empty")


def test_a_name_that_is_no_text_is_explained(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).touch()
    with pytest.raises(DataError, match=r"has a name that is not valid UTF-8; rename it"):
        ids(tmp_path, ".")
