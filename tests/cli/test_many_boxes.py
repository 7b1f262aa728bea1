"""How many boxes of an image `selftrain init` finds place for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from selftrain.coco_folder import COCO
from selftrain.data_parts import Parts, _note_boxes
from selftrain.found_data import DataFolder
from selftrain.init_config import task_of
from selftrain_detection.config import DetectionConfig


@pytest.mark.parametrize(
    ("counts", "usual", "settings", "told"),
    [
        ([3] * 200, 3, {}, None),
        ([3] * 198 + [1500] * 2, 3, {}, r"has 1,500 boxes, where 99 of 100 have 3 at most: .* are 100; of the images"),
        ([3] * 197 + [300] * 3, 300, {"max_boxes": 300, "prediction": {"max_detections": 300}}, "are 300; more take"),
        ([300] * 198 + [301, 1500], 300, {"max_boxes": 300, "prediction": {"max_detections": 300}}, "has 1,500 boxes"),
        (
            [6000] * 3,
            6000,
            {"max_boxes": 6000, "prediction": {"max_detections": 6000, "candidates": 6000}},
            r"are 6,000; more",
        ),
    ],
)
def test_one_image_does_not_decide_for_all(
    counts: list[int], usual: int, settings: dict[str, Any], told: str | None
) -> None:
    ids = [f"p{n}" for n in range(len(counts))]
    found = DataFolder(Path("data"), COCO, [], boxes_of={**dict(zip(ids, counts, strict=True)), "other": 9999})
    _note_boxes(Parts({"labelled": ids}), found)
    assert found.usual_boxes == usual
    assert task_of(found) == {"name": "detection/retinanet", **settings}
    DetectionConfig.model_validate({key: value for key, value in task_of(found).items() if key != "name"})
    assert len(found.warnings) == (told is not None) and (told is None or re.search(told, found.warnings[0]))


def test_where_not_all_were_read_fewer_are_spared() -> None:
    ids = [f"p{n}" for n in range(1000)]
    found = DataFolder(Path("data"), COCO, [], boxes_of={id_: 101 + n for n, id_ in enumerate(ids)})
    _note_boxes(Parts({"labelled": ids}), found)
    assert found.usual_boxes == 1090
    _note_boxes(Parts({"labelled": [*ids, "unread"]}), found)
    assert found.usual_boxes == 1095
