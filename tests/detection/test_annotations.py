"""From what files say of boxes and classes to labels: what is clipped, left out, or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selftrain_core.data_source import Entry
from selftrain_core.errors import DataError
from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_detection.annotations import LEFT_OUT, ClassNames, RawBoxes, checked, size_of
from selftrain_detection.source_config import BoxSettings

FILE = Path("labels.json")
SIZE = (20, 30)
NAN, INF = math.nan, math.inf


def read(boxes: list[list[float]], settings: BoxSettings | None = None, **columns: Any) -> tuple[BoxLabels, list[str]]:
    corners_N4 = np.array(boxes, np.float64).reshape(-1, 4)
    labels_N = columns.pop("labels_N", np.arange(len(boxes)))
    raw = RawBoxes(corners_N4, labels_N, lambda n: f"box {n}", **columns)
    return checked(raw, SIZE, FILE, "deep/a", settings or BoxSettings())


# --- boxes ---


def test_boxes_within_the_image_stay_as_they_are() -> None:
    labels, remarks = read([[0, 0, 30, 20], [0.25, 1.5, 1.25, 2.5]])
    assert labels.boxes_N4.tolist() == [[0, 0, 30, 20], [0.25, 1.5, 1.25, 2.5]]
    assert labels.boxes_N4.dtype == np.float32
    assert labels.labels_N.tolist() == [0, 1]
    assert (labels.scores_N, labels.crowds_N, labels.areas_N, remarks) == (None, None, None, [])


@pytest.mark.parametrize(
    ("box", "clipped", "is_told"),
    [
        ([-1, 0, 5, 5], [0, 0, 5, 5], False),
        ([-1.01, 0, 5, 5], [0, 0, 5, 5], True),
        ([0, 0, 31, 21], [0, 0, 30, 20], False),
        ([2, 3, 30.5, 99], [2, 3, 30, 20], True),
        ([-1e300, -9, 1e300, 1e300], [0, 0, 30, 20], True),
    ],
)
def test_what_sticks_out_is_clipped_and_told_from_a_pixel_on(
    box: list[float], clipped: list[float], is_told: bool
) -> None:
    labels, remarks = read([box, [0, 0, 1, 1]])
    assert labels.boxes_N4.tolist() == [clipped, [0, 0, 1, 1]]
    assert remarks == ["box 0 sticks out of the image, 30×20 pixels, and is clipped to it"] * is_told


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([NAN, 0, 5, 5], "is not made of four finite numbers"),
        ([0, 0, 5, INF], "is not made of four finite numbers"),
        ([5, 0, 4, 5], "is inside out: it ends before it begins"),
        ([0, 5, 5, 4.9], "is inside out: it ends before it begins"),
        ([5, 0, 5, 5], "has no area"),
        ([30, 0, 35, 5], "lies outside of the image, 30×20 pixels"),
        ([0, -5, 5, 0], "lies outside of the image, 30×20 pixels"),
        ([5, 0, 5 + 1e-9, 5], "has no area within the image, 30×20 pixels"),
    ],
)
def test_bad_boxes_are_refused_or_left_out_and_told(box: list[float], reason: str) -> None:
    with pytest.raises(DataError) as error:
        read([[0, 0, 1, 1], box])
    assert str(error.value) == (
        f"labels.json: box 1 of 'deep/a' {reason}; mend it, or set bad_boxes: drop to leave such out"
    )
    labels, remarks = read([[0, 0, 1, 1], box, [1, 1, 2, 2]], BoxSettings(bad_boxes="drop"))
    assert labels.boxes_N4.tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]]
    assert labels.labels_N.tolist() == [0, 2]
    assert remarks == [f"box 1 {reason}, and is left out"]


def test_columns_follow_their_boxes() -> None:
    crowds_N, areas_N = np.array([True, False, True]), np.array([7.0, 3.0, NAN])
    settings = BoxSettings(bad_boxes="drop")
    labels, _ = read([[9, 9, 9, 9], [0, 0, 2, 2], [0, 0, 3, 4]], settings, crowds_N=crowds_N, areas_N=areas_N)
    assert labels.crowds_N is not None and labels.areas_N is not None
    assert (labels.crowds_N.tolist(), labels.areas_N.tolist()) == ([False, True], [3, 12])
    assert labels.areas_N.dtype == np.float32


def test_no_crowds_and_no_areas_are_none() -> None:
    areas_N = np.array([NAN, 0.0, -4.0, INF])
    labels, remarks = read([[0, 0, 2, 2]] * 4, crowds_N=np.zeros(4, np.bool_), areas_N=areas_N)
    assert (labels.crowds_N, labels.areas_N) == (None, None)
    assert remarks == ["area 0 of box 1 is taken as that of its box, and so are 2 others"]


@pytest.mark.parametrize(("area", "told"), [(NAN, None), (3.0, None), (-4.5, "-4.5"), (INF, "inf")])
def test_an_area_that_is_none_is_told(area: float, told: str | None) -> None:
    settings = BoxSettings(bad_boxes="drop")
    _, remarks = read([[0, 0, 2, 2], [9, 9, 9, 9]], settings, areas_N=np.array([area, 0]))
    assert remarks[1:] == ([] if told is None else [f"area {told} of box 0 is taken as that of its box"])


def test_no_boxes_have_shapes_all_the_same() -> None:
    labels, remarks = read([], areas_N=np.zeros(0), crowds_N=np.zeros(0, np.bool_))
    assert (labels.boxes_N4.shape, labels.labels_N.shape, remarks) == ((0, 4), (0,), [])


@given(st.lists(st.lists(st.floats(), min_size=4, max_size=4), max_size=6))
def test_whatever_a_file_says_the_labels_fit_and_nothing_is_lost_in_silence(boxes: list[list[float]]) -> None:
    labels_N = np.full(len(boxes), IGNORE_LABEL)
    labels, remarks = read(boxes, BoxSettings(bad_boxes="drop"), labels_N=labels_N)
    low_N2, high_N2 = labels.boxes_N4[:, :2], labels.boxes_N4[:, 2:]
    assert (low_N2 >= 0).all() and (high_N2 <= [30, 20]).all() and (high_N2 > low_N2).all()
    assert len(boxes) - len(labels) == sum("left out" in line for line in remarks)


# --- classes ---


def test_classes_are_matched_by_name() -> None:
    settings = BoxSettings(ignore_classes=("fork",), classes_as={"doggy": "dog"})
    names = ClassNames(["cat", "dog"], settings)
    assert [names.index(name) for name in ("dog", "cat", "doggy", "fork", "Cat")] == [1, 0, 1, LEFT_OUT, None]


def test_a_class_that_the_run_lacks_is_explained_with_both_lists() -> None:
    error = ClassNames(["cat", "dog"], BoxSettings()).stranger(["dgo"], ["cat", "dgo", "x"], FILE, "line 3 is")
    assert str(error) == (
        "labels.json: line 3 is of the class 'dgo', not among data.classes (did you mean 'dog'?); add it to "
        "data.classes, leave it out by ignore_classes: [dgo], or rename it by classes_as: {dgo: dog}\n"
        "  its classes: cat, dgo, x\n  data.classes: cat, dog"
    )
    far = ClassNames(["cat", "dog"], BoxSettings()).stranger(["kangaroo"], ["kangaroo"], FILE, "line 3 is")
    assert "or rename it by classes_as: {kangaroo: NAME}" in str(far), "no class is offered that is not meant"


@pytest.mark.parametrize("settings", [BoxSettings(), BoxSettings(ignore_classes=("ball",))])
def test_a_file_with_no_class_of_the_run_is_refused(settings: BoxSettings) -> None:
    names = ClassNames(["cat", "dog"], settings)
    names.refuse_strangers(["ball", "cat"], FILE)
    names.refuse_strangers([], FILE)
    with pytest.raises(DataError) as error:
        names.refuse_strangers([f"{n}" for n in range(102)], FILE)
    assert str(error.value).startswith(
        "labels.json has no class of data.classes; rename its classes by classes_as: {its"
    )
    assert "98, 99 and 2 more\n  data.classes: cat, dog" in str(error.value)


def test_a_file_whose_classes_are_all_ignored_is_refused() -> None:
    names = ClassNames(["cat", "dog"], BoxSettings(ignore_classes=("cat",)))
    names.refuse_strangers(["cat", "dog"], FILE)
    with pytest.raises(DataError) as error:
        names.refuse_strangers(["ball", "cat"], FILE)
    assert str(error.value) == (
        "labels.json has no class of data.classes but those that ignore_classes leaves out: cat; take one out of "
        "ignore_classes\n  its classes: ball, cat\n  data.classes: cat, dog"
    )


def test_a_rename_to_a_class_that_the_run_lacks_is_refused() -> None:
    with pytest.raises(DataError, match=r"classes_as calls 'a' 'dgo', not .* \(did you mean 'dog'\?\)\n.*: cat, dog$"):
        ClassNames(["cat", "dog"], BoxSettings(classes_as={"a": "dgo"}))


def test_a_class_has_one_fate() -> None:
    with pytest.raises(ValueError, match="classes_as and ignore_classes both name 'a'; take it out of one of them"):
        BoxSettings(classes_as={"a": "b"}, ignore_classes=("a",))


# --- sizes ---


def entry(folder: Path, orientation: int = 1) -> Entry:
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (30, 20)).save(folder / "a.jpg", exif=exif)
    return Entry("a", folder / "a.jpg")


@pytest.mark.parametrize("said", [(20, 30), (0, 0), (-1, -1), (0, 30)])
def test_sizes_that_agree_or_are_not_said(tmp_path: Path, said: tuple[int, int]) -> None:
    assert size_of(entry(tmp_path), said, FILE) == (20, 30)


def test_another_size_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        size_of(entry(tmp_path), (40, 60), FILE)
    assert str(error.value) == (
        f"labels.json says that 'a' is 60×40 pixels, but {tmp_path / 'a.jpg'} is 30×20 pixels (width×height, after its "
        "EXIF rotation): the boxes are not those of this file"
    )


def test_the_size_before_the_exif_rotation_is_explained(tmp_path: Path) -> None:
    turned = entry(tmp_path, 6)
    assert size_of(turned, (30, 20), FILE) == (30, 20)
    with pytest.raises(
        DataError, match=r"30×20 pixels, but .* is 20×30 pixels .*; its boxes may be those of the image bef"
    ):
        size_of(turned, (20, 30), FILE)
