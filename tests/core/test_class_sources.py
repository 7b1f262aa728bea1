"""Where the classes of images come from."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selftrain_core.classification.sources import ClassFolders, ClassFoldersConfig, ClassList, ClassListConfig
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.labels import IGNORE_LABEL, ClassLabels
from selftrain_core.testing.samples import write_images

CLASSES = ("dog", "cat")


def folders(path: Path, classes: tuple[str, ...] = CLASSES, **more: Any) -> ClassFolders:
    return ClassFolders(ClassFoldersConfig(images=path, **more), classes)


def listed(folder: Path, text: str, **more: Any) -> ClassList:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return ClassList(ClassListConfig(images=folder / "images", labels=folder / "labels.csv", **more), CLASSES)


def classes_of(source: DataSource) -> dict[str, int]:
    found = {}
    for entry in source.scan():
        labels = source.read_labels(entry)
        assert isinstance(labels, ClassLabels) and labels.class_1.dtype == np.int64
        found[entry.id] = int(labels.class_1[0])
    return found


def test_the_folder_is_the_class(tmp_path: Path) -> None:
    """By its name: classes may stand in any order."""
    write_images(tmp_path, ["cat/002", "cat/001", "dog/deep/er/x"])
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("no image")
    assert classes_of(folders(tmp_path)) == {"cat/001": 1, "cat/002": 1, "dog/deep/er/x": 0}
    first = next(folders(tmp_path).scan())
    assert first == Entry("cat/001", tmp_path / "cat/001.png")


def test_a_list_chooses_among_the_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["cat/1", "dog/1", "dog/2"])
    (tmp_path / "list.txt").write_text("dog/2\ncat/1.png\n")
    assert classes_of(folders(tmp_path / "images", list=tmp_path / "list.txt")) == {"dog/2": 0, "cat/1": 1}


def test_an_empty_folder_stands_for_a_class_without_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat/1"])
    (tmp_path / "dog").mkdir()
    assert classes_of(folders(tmp_path)) == {"cat/1": 1}


def test_names_are_compared_as_they_look(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "kälte")
    write_images(tmp_path, [f"{name}/1", "dog/1"])
    assert classes_of(folders(tmp_path, ("dog", unicodedata.normalize("NFC", name))))[f"{name}/1"] == 1


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["cat/1", "dogs/1"], "  folders that are no class: dogs\n  classes without a folder: dog\n"),
        (["cat/1", "dog/1", "hen/1"], "  folders that are no class: hen\n"),
        (["cat/1"], "  classes without a folder: dog\n"),
    ],
)
def test_folders_that_are_not_the_classes_are_explained(tmp_path: Path, there: list[str], said: str) -> None:
    write_images(tmp_path, there)
    names = sorted({id_.partition("/")[0] for id_ in there})
    with pytest.raises(DataError) as raised:
        list(folders(tmp_path).scan())
    assert str(raised.value) == (
        f"the folders in {tmp_path} are not the classes\n{said}  all folders: {', '.join(names)}\n"
        "  all classes: dog, cat\n  rename the folders, move them elsewhere, or change the setting classes; a class "
        "without images needs an empty folder"
    )


def test_an_image_beside_the_class_folders_is_explained(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat/1", "dog/1", "stray"])
    message = r"the image 'stray' lies in no class folder of .*; move it into one of: dog, cat"
    with pytest.raises(DataError, match=message):
        list(folders(tmp_path).scan())


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the image folder .*none does not exist"):
        list(folders(tmp_path / "none").scan())


def test_a_file_says_the_classes(tmp_path: Path) -> None:
    """Ids with or without ending, any other columns, images that it does not name left alone."""
    write_images(tmp_path / "images", ["a", "deep/b", "c", "not named"])
    source = listed(tmp_path, "score,class,id\n0.5,cat,a\n,dog,deep/b.png\n,,c\n")
    assert classes_of(source) == {"a": 1, "c": IGNORE_LABEL, "deep/b": 0}
    assert {entry.label_path for entry in source.scan()} == {tmp_path / "labels.csv"}


@pytest.mark.parametrize("text", ["id;class\r\na;cat\r\n", "\ufeffid,class\na,cat\n\n", 'id\t"class"\na\tcat'])
def test_files_of_spreadsheets_are_read(tmp_path: Path, text: str) -> None:
    write_images(tmp_path / "images", ["a"])
    assert classes_of(listed(tmp_path, text)) == {"a": 1}


def test_a_list_chooses_among_the_lines(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a", "b"])
    (tmp_path / "list.txt").write_text("b\n")
    text = "id,class\na,cat\nb,dog\nelsewhere,dog\n"
    assert classes_of(listed(tmp_path, text, list=tmp_path / "list.txt")) == {"b": 0}
    source = listed(tmp_path, "id,class\na,cat\n", list=tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"labels\.csv has no line for the image 'b'; add one, or take it out of its"):
        classes_of(source)


def test_a_line_without_image_is_explained(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a"])
    with pytest.raises(DataError, match=r"labels\.csv names 'b', but .*images holds no such image; names are paths"):
        classes_of(listed(tmp_path, "id,class\na,cat\nb,dog\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the first line of .*labels\.csv is to name the columns 'id' and 'class'; it names: nothing"),
        ("a,cat\n", r"is to name the columns 'id' and 'class'; it names: a, cat"),
        ("id,class\na,cta\n", r"labels\.csv, line 2: 'cta' is no class \(did you mean 'cat'\?\); classes: dog, cat"),
        ("id,class\na,cat\na,dog\n", r"labels\.csv, line 3: 'a' is there twice; an image has one class"),
        ("id,class\n,dog\n", r"labels\.csv, line 2: there is no id"),
    ],
)
def test_unusable_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    write_images(tmp_path / "images", ["a"])
    with pytest.raises(DataError, match=message):
        classes_of(listed(tmp_path, text))


def test_files_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a"])
    source = listed(tmp_path, "")
    (tmp_path / "labels.csv").write_bytes("id,class\nä,cat\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"the labels .*labels\.csv cannot be read: it is no text in UTF-8"):
        classes_of(source)
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"the labels .*labels\.csv cannot be read: No such file"):
        classes_of(source)
    (tmp_path / "labels.csv").write_text("id,class\na," + "x" * 200_000)
    with pytest.raises(DataError, match=r"the labels .*labels\.csv cannot be read: field larger than"):
        classes_of(source)
