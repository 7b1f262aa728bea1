"""Images and YOLO's text files: what is read, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from selftrain_core.config_model import identity
from selftrain_core.errors import DataError
from selftrain_core.labels import BoxLabels
from selftrain_core.testing.samples import write_images
from selftrain_detection.source_config import YoloConfig
from selftrain_detection.yolo import YoloSource

CLASSES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data set as YOLO has them: images/train and labels/train side by side, images of 40×20 pixels."""
    write_images(tmp_path / "images/train", ["a", "deep/b"], size=(20, 40))
    (tmp_path / "labels/train/deep").mkdir(parents=True)
    data_file(tmp_path)
    return tmp_path


def data_file(folder: Path, **changes: Any) -> None:
    values = {"train": "images/train", "val": "images/val", "test": None, "nc": 2, "names": ["dog", "cat"], **changes}
    (folder / "data.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if value != ""}))


def source(folder: Path, lines: str | None = None, classes: tuple[str, ...] = CLASSES, **settings: Any) -> YoloSource:
    """Return the source, with these lines in the file of 'a'."""
    if lines is not None:
        (folder / "labels/train/a.txt").write_text(lines)
    settings = settings if "images" in settings else {"data": folder / "data.yaml", **settings}
    return YoloSource(YoloConfig.model_validate(settings), classes)


def labels(made: YoloSource) -> BoxLabels:
    return made.read_labels(next(made.scan()))


# --- what is read ---


def test_shares_become_pixels_and_numbers_classes_by_name(folder: Path) -> None:
    made = source(folder, "0 0.5 0.5 1 1\n\n1.0 0.25\t0.25 0.05 0.1  \r\n")
    found = labels(made)
    np.testing.assert_allclose(found.boxes_N4, [[0, 0, 40, 20], [9, 4, 11, 6]], atol=1e-6)
    assert found.labels_N.tolist() == [1, 0]
    assert (found.scores_N, found.crowds_N, found.areas_N, made.remarks(None)) == (None, None, None, [])


def test_of_a_polygon_the_box_around_it_counts(folder: Path) -> None:
    found = labels(source(folder, "1 0.5 0.5 0.25 0.75 1 0.6\n1 0 0 0.5 0 0.5 1 0 1"))
    assert found.boxes_N4.tolist() == [[10, 10, 40, 15], [0, 0, 20, 20]]


def test_shares_are_of_the_turned_image(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8
    Image.new("RGB", (40, 20)).save(folder / "images/train/a.png", exif=exif)
    assert labels(source(folder, "0 0.5 0.5 1 1")).boxes_N4.tolist() == [[0, 0, 20, 40]]


def test_rounding_beyond_the_edge_is_no_mistake(folder: Path) -> None:
    made = source(folder, "0 0.5 0.5 1.000001 1.000001")
    assert labels(made).boxes_N4.tolist() == [[0, 0, 40, 20]]
    assert made.remarks(next(made.scan())) == []


def test_images_without_a_file(folder: Path) -> None:
    made = source(folder, "0 0.5 0.5 1 1")
    entries = list(made.scan())
    assert [(entry.id, entry.label_path) for entry in entries] == [
        ("a", folder / "labels/train/a.txt"),
        ("deep/b", folder / "labels/train/deep/b.txt"),
    ]
    assert [len(made.read_labels(entry)) for entry in entries] == [1, 0]
    assert [entry.id for entry in source(folder, unannotated="skip").scan()] == ["a"]
    with pytest.raises(
        DataError, match=r"deep/b\.txt do not exist; add them, or set unannotated: negative if .*'deep/b'"
    ):
        source(folder, unannotated="error").read_labels(entries[1])


def test_an_empty_file_says_that_the_image_shows_none(folder: Path) -> None:
    made = source(folder, "\n", unannotated="error")
    assert len(labels(made)) == 0


def test_a_missing_folder_of_labels_is_no_set_of_negatives(folder: Path) -> None:
    (folder / "labels").rename(folder / "label")
    with pytest.raises(DataError, match=r"labels/train/a\.txt do not exist; there is no folder .*labels/train$"):
        labels(source(folder))


def test_folders_and_names_in_place_of_a_data_file(folder: Path) -> None:
    named: dict[str, Any] = {"images": folder / "images/train", "names": ["dog", "cat"]}
    assert labels(source(folder, "1 0.5 0.5 1 1", **named)).labels_N.tolist() == [0]
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("0 0.5 0.5 1 1\n" * 2)
    assert labels(source(folder, labels=folder / "texts", **named)).labels_N.tolist() == [1, 1]


def test_without_a_folder_of_that_name_files_are_beside_the_images(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures", ["a"])
    (tmp_path / "pictures/a.txt").write_text("0 0.5 0.5 1 1")
    made = source(tmp_path, images=tmp_path / "pictures", names=["dog"])
    assert len(labels(made)) == 1


def test_the_last_folder_called_images_counts(tmp_path: Path) -> None:
    write_images(tmp_path / "images/set/images", ["a"])
    made = source(tmp_path, images=tmp_path / "images", names=["dog"])
    assert next(made.scan()).label_path == tmp_path / "images/set/labels/a.txt"


def test_a_list_chooses(folder: Path) -> None:
    (folder / "list.txt").write_text("deep/b\n")
    assert [entry.id for entry in source(folder, list=folder / "list.txt").scan()] == ["deep/b"]


def test_classes_may_be_renamed_and_left_out(folder: Path) -> None:
    settings: dict[str, Any] = {"classes_as": {"dog": "hound"}, "ignore_classes": ["cat"]}
    assert labels(source(folder, "1 0.5 0.5 1 1\n0 0.5 0.5 1 1", ("x", "hound"), **settings)).labels_N.tolist() == [1]


def test_1500_lines_keep_their_order(folder: Path) -> None:
    lines = [f"{n % 2} {0.1 + n / 2000} 0.5 0.01 {0.2 + n / 3000}" for n in range(1500)]
    found = labels(source(folder, "\n".join(lines)))
    assert found.labels_N.tolist() == [1, 0] * 750
    assert (np.diff(found.boxes_N4[:, 0]) > 0).all()


# --- data files ---


@pytest.mark.parametrize(
    "changes",
    [
        {"names": {1: "cat", 0: "dog"}, "nc": ""},
        {"train": "../images/train"},
        {"path": "..", "train": "data/images/train"},
        {"path": "/no/such/folder"},
        {"train": "./images/train/"},
    ],
)
def test_forms_of_data_files(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_images(tmp_path / "data/images/train", ["a"])
    (tmp_path / "data/labels/train").mkdir(parents=True)
    data_file(tmp_path / "data", **changes)
    assert labels(source(tmp_path / "data", "1 0.5 0.5 1 1")).labels_N.tolist() == [0]


def test_parts_of_a_data_file(folder: Path) -> None:
    write_images(folder / "images/val", ["v"])
    made = source(folder, split="val")
    assert [entry.label_path for entry in made.scan()] == [folder / "labels/val/v.txt"]


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({}, "test", r"data\.yaml does not say where the images of 'test' are; parts it has: train, val$"),
        ({"train": ["a", "b"]}, "train", r"gives several folders as 'train', \['a', 'b'\]; make a source of each"),
        ({"train": "list.txt"}, "train", r"gives a list of files as 'train', .*list\.txt; give 'images', the folder"),
        ({}, "val", r"says that 'val' is in images/val, but there is no folder .*images/val$"),
    ],
)
def test_parts_that_are_not_there_are_explained(
    folder: Path, changes: dict[str, Any], split: str, message: str
) -> None:
    (folder / "list.txt").write_text("images/train/a.png")
    data_file(folder, **changes)
    with pytest.raises(DataError, match=message):
        list(source(folder, split=split).scan())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"data\.yaml cannot be read: No such file"),
        ("names: [a", r"data\.yaml cannot be read: it is no YAML"),
        ("train: x", r"data\.yaml lacks the names of the classes; a data file has 'names', and 'train'"),
        ("- 1", r"data\.yaml lacks the names"),
        ("names: [a, b]\nnc: 3", r"data\.yaml says that there are nc: 3 classes, and names 2"),
        ("names: [a, 2]", r"data\.yaml: names is to be a list of class names, .*; it is \{0: 'a', 1: 2\}"),
        ("names: {-1: a}", r"names is to be a list of class names, or their names by number"),
        ("names: dog", r"names is to be a list of class names, .*; it is 'dog'"),
        ("names: " + "[" * 3000, r"data\.yaml cannot be read: its values are nested too deeply"),
        ("names: [a]\nmade: 2020-13-45", r"data\.yaml cannot be read: it is no YAML \(month must be"),
        ("names: [a]\npath: [b]", r"data\.yaml: path is to be a folder; it is \['b'\]"),
        ("names: [a]\npath: ~nobody-of-this-name/x", r"path is '~nobody.*', the folder of somebody not known here"),
    ],
    ids=range(12),
)
def test_unusable_data_files_are_explained(folder: Path, text: str | None, message: str) -> None:
    (folder / "data.yaml").unlink()
    if text is not None:
        (folder / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        source(folder)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcde", "bcdef", strict=True)
)
"""Half a million names in a few hundred bytes."""


@pytest.mark.parametrize("end", ["names: *f", "names: [a]\nnc: *f", "names: [a]\npath: *f"])
def test_anchors_do_not_make_messages_of_megabytes(folder: Path, end: str) -> None:
    (folder / "data.yaml").write_text(BOMB + end)
    with pytest.raises(ValueError) as error:
        YoloConfig.model_validate({"data": folder / "data.yaml"})
    assert "data.yaml" in str(error.value)
    assert len(error.value.errors()[0]["msg"]) < 1000  # type: ignore[attr-defined]  # pydantic's


def test_anchors_in_the_place_of_a_folder(folder: Path) -> None:
    (folder / "data.yaml").write_text(f"{BOMB}names: [dog, cat]\ntrain: *f")
    with pytest.raises(DataError, match="gives several folders as 'train'") as error:
        list(source(folder).scan())
    assert len(str(error.value)) < 1000


def test_a_folder_of_a_name_that_cannot_be_is_explained(folder: Path) -> None:
    data_file(folder, train="x" * 5000)
    with pytest.raises(DataError, match="but there is no folder"):
        list(source(folder).scan())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give 'data', a data.yaml, or the folder 'images' with the 'names' of the classes"),
        ({"images": "i"}, "give 'data', a data.yaml, or the folder 'images' with the 'names'"),
        ({"names": ["a"]}, "give either 'data', a data.yaml, or the folder 'images', and not both"),
        ({"images": "i", "data": "d", "names": ["a"]}, "give either 'data', .*, and not both"),
        ({"labels": "l", "data": "d", "names": ["a"]}, "'labels' goes with 'images'; where 'data' is given"),
        ({"images": "i", "names": []}, r"names is to be a list of class names"),
        ({"images": "i", "names": {"-1": "a"}}, r"names is to be a list of class names"),
    ],
)
def test_settings_that_contradict_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YoloConfig.model_validate(settings)


def test_the_data_file_is_found_beside_the_configuration_and_its_names_identify_the_result(folder: Path) -> None:
    def settings(**changes: Any) -> YoloConfig:
        data_file(folder, **changes)
        return YoloConfig.model_validate({"data": "data.yaml"}, context={"base_dir": folder})

    first = settings()
    assert (first.data, first.names) == (folder / "data.yaml", {0: "dog", 1: "cat"})
    assert identity(settings(train="elsewhere")) == identity(first)
    assert identity(settings(names=["cat", "dog"])) != identity(first)


# --- files that cannot be used ---


FORM = "; a line is 'class x y width height', or 'class x y x y x y …' of a polygon, in shares of the image"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dog 0.5 0.5 1 1", "'dog 0.5 0.5 1 1' is not made of numbers" + FORM),
        ("0,0.5,0.5,1,1", "'0,0.5,0.5,1,1' is not made of numbers"),
        ("0.5 0.5 0.5 1 1", "has the class 0.5; classes are the numbers 0, 1, … of 'names'"),
        ("-1 0.5 0.5 1 1", "has the class -1; classes are the numbers"),
        ("nan 0.5 0.5 1 1", "has the class nan; classes are the numbers"),
        ("2 0.5 0.5 1 1", r"has the class 2, which 'names' does not have: 0 \(dog\), 1 \(cat\)"),
        ("0 0.5 0.5 1", "has 4 numbers" + FORM),
        ("0", "has 1 numbers" + FORM),
        ("0 0.5 0.5 1 1 0.9", "has 6 numbers; six are a prediction with its score, not a label" + FORM),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 8 numbers" + FORM),
        ("0 120 0.5 30 0.5", "has the number 120, which is no share of the image, 0 to 1" + FORM),
        ("0 0.5 0.5 0 1", r"the box \[0\.5, 0\.5, 0, 1\], of 'a' has no area; mend it, or set bad_boxes: drop"),
        ("0 0.5 0.5 -0.1 1", "of 'a' is inside out"),
        ("0 1.5 0.5 0.5 1", "of 'a' lies outside of the image, 40×20 pixels"),
        ("0 nan 0.5 0.5 1", r"the box \[nan, 0\.5, 0\.5, 1\], of 'a' is not made of four finite numbers"),
        ("0 0.1 0.1 0.2 inf 0.3 0.3", r"the polygon \[0\.1, 0\.1, 0\.2, inf, 0\.3, 0\.3\], of 'a' is not made of"),
    ],
)
def test_malformed_lines_are_explained(folder: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"labels/train/a\.txt[,:] line 2.*{message}"):
        labels(source(folder, f"0 0.5 0.5 1 1\n{line}\n"))


def test_bad_boxes_may_be_left_out(folder: Path) -> None:
    made = source(folder, "0 0.5 0.5 0 1\n1 0.9 0.5 0.4 1\n\n0 0.5 0.5 1 1", bad_boxes="drop")
    assert labels(made).labels_N.tolist() == [0, 1]
    assert made.remarks(next(made.scan())) == [
        "line 1, the box [0.5, 0.5, 0, 1], has no area, and is left out",
        "line 2, the box [0.9, 0.5, 0.4, 1], sticks out of the image, 40×20 pixels, and is clipped to it",
    ]


def test_classes_that_the_run_lacks_are_explained_with_both_lists(folder: Path) -> None:
    made = source(folder, "0 0.5 0.5 1 1\n1 0.5 0.5 1 1", ("dog", "cats"))
    message = r"a\.txt: line 2 is of the class 'cat', .*\(did you mean 'cats'\?\).*\n.*: dog, cat\n.*: dog, cats$"
    with pytest.raises(DataError, match=message):
        labels(made)
    with pytest.raises(DataError, match=r"data\.yaml has no class of data\.classes; .*\n.*: dog, cat\n.*: bird$"):
        source(folder, classes=("bird",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"\xff\xfe0"), r"a\.txt cannot be read: it is no text"),
        (lambda path: path.mkdir(), r"a\.txt cannot be read: Is a directory"),
    ],
)
def test_unreadable_files_are_explained(folder: Path, make: Any, message: str) -> None:
    make(folder / "labels/train/a.txt")
    with pytest.raises(DataError, match=message):
        labels(source(folder))


def test_an_unreadable_image_is_explained(folder: Path) -> None:
    (folder / "images/train/a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png cannot be read: it is empty"):
        labels(source(folder, "0 0.5 0.5 1 1"))
