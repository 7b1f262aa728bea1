from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selftrain_core.errors import DataError
from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_core.testing.samples import write_images
from selftrain_detection.coco import CocoSource
from selftrain_detection.correcting import CORRECTING, ids_in_file, is_changed, said
from selftrain_detection.source_config import CocoConfig

BOXES = [[1, 2, 11, 12], [1, 2, 11, 12], [20.123456, 2, 30, 12]]


def labels(boxes: Any = BOXES, classes: Any = (0, 1, 1)) -> BoxLabels:
    return BoxLabels(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))


def test_what_is_said_of_boxes_is_plain() -> None:
    known = said(labels([*BOXES, [0, 0, 5, 5]], (0, 1, 1, IGNORE_LABEL)))
    assert known == [
        [0, 1, 2, 11, 12, 0],
        [1, 1, 2, 11, 12, 0],
        [1, 20.12, 2, 30, 12, 0],
        [IGNORE_LABEL, 0, 0, 5, 5, 0],
    ]
    assert json.loads(json.dumps(known)) == known
    assert said(labels([], [])) == []


@pytest.mark.parametrize(
    ("boxes", "classes", "changed"),
    [
        (BOXES, (0, 1, 1), False),
        (BOXES[::-1], (1, 1, 0), False),
        ([[1, 2, 11, 12], [1.4, 2, 11, 12], [20, 2, 30.9, 12]], (0, 1, 1), False),
        ([[1, 2, 11, 12], [1, 2, 11, 12], [20.123, 2, 31.2, 12]], (0, 1, 1), True),
        (BOXES, (0, 1, 0), True),
        (BOXES[:2], (0, 1), True),
        ([*BOXES, BOXES[0]], (0, 1, 1, 0), True),
        ([BOXES[0], BOXES[2], BOXES[2]], (0, 1, 1), True),
        ([], (), True),
    ],
)
def test_boxes_have_changed(boxes: Any, classes: Any, changed: bool) -> None:
    assert is_changed(labels(boxes, classes), said(labels())) == changed


def test_nothing_has_changed_where_nothing_is() -> None:
    assert not is_changed(labels([], []), [])
    assert is_changed(labels(), [])


REGIONS = [[0.0, 0, 5, 5], [6, 6, 4, 4]]
"""x, y, width, height."""


def corrected(folder: Path, regions: Any, **more: Any) -> BoxLabels:
    """Return the labels of 'a' from a file with a box and these regions; None leaves out their key."""
    write_images(folder / "images", ["a"], size=(20, 30))
    keys = {} if regions is None else {"ignore_regions": regions}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], **more}
    content = {
        "images": [{"id": 1, "file_name": "a.png", **keys}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "f.json").write_text(json.dumps(content))
    made = CocoSource(CocoConfig(images=folder / "images", annotations=folder / "f.json"), ("cat",))
    return made.read_labels(next(made.scan()))


@pytest.mark.parametrize(
    ("regions", "more", "changed"),
    [
        (REGIONS, {}, False),
        (REGIONS[::-1], {}, False),
        (REGIONS[:1], {}, True),
        ([], {}, True),
        ([*REGIONS, [9, 9, 2, 2]], {}, True),
        ([REGIONS[0], [6, 6, 4, 5.5]], {}, True),
        (None, {}, False),
        (REGIONS, {"iscrowd": 1}, True),
        (None, {"iscrowd": 1}, True),
        (None, {"bbox": [1, 2, 3, 6]}, True),
    ],
)
def test_regions_and_crowds_have_changed(tmp_path: Path, regions: Any, more: Any, changed: bool) -> None:
    before = said(corrected(tmp_path, REGIONS))
    assert is_changed(corrected(tmp_path, regions, **more), json.loads(json.dumps(before))) == changed


def test_the_first_region_of_all_is_a_change(tmp_path: Path) -> None:
    before = said(corrected(tmp_path, None))
    assert is_changed(corrected(tmp_path, REGIONS[:1]), before)
    assert not is_changed(corrected(tmp_path, None), before)


@pytest.mark.parametrize("before", ["text", {"a": 1}, [[1, 2]], [1, [2]], [[0, 1, 2, 3, 4]] * 6, None])
def test_what_was_not_said_is_refused(before: Any) -> None:
    with pytest.raises(ValueError):
        is_changed(labels(), before)


def written(path: Path, *names: str) -> Path:
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}))
    return path


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("b/x.jpg", "b/x"),
        ("images/b/x.png", "b/x"),
        ("project/a/x.jpg", "a/x"),
        ("y.jpg", "a/y"),
        ("images/0123abcd-y.jpg", "a/y"),
        ("images/0123abcd-caf%C3%A9%20z.jpg", "café z"),
    ],
)
def test_names_of_other_tools(tmp_path: Path, name: str, id_: str) -> None:
    held, problems = ids_in_file(written(tmp_path / "f.json", name), ["cat"], ["a/x", "b/x", "a/y", "café z"])
    assert list(held) == [id_] and not problems


def test_an_image_stands_for_one(tmp_path: Path) -> None:
    path = written(tmp_path / "f.json", "a/x.jpg", "images/x.jpg", "x.jpg", "q.jpg")
    held, problems = ids_in_file(path, ["cat"], ["a/x", "b/x"])
    assert held == {"a/x": "a/x", "b/x": "images/x"}
    assert [problem.partition(": ")[2] for problem in problems] == [
        "the image 'q' is none that was exported",
        "the image 'x' is none that was exported",
    ]
    held, problems = ids_in_file(written(path, "x.jpg"), ["cat"], ["a/x", "b/x"])
    assert not held and problems == [f"{path}: the image 'x' may be 'a/x' or 'b/x'; write which"]


def test_a_file_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no class of data\.classes"):
        ids_in_file(written(tmp_path / "f.json", "a.jpg"), ["dog"], ["a"])


def test_people_are_told_where_the_file_goes() -> None:
    assert "in the place of here/instances.json" in CORRECTING.steps.format(folder="here")
    assert "the policy core/fixed dropped" in CORRECTING.left_open.format(policy="core/fixed")
