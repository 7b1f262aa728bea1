"""Boxes as COCO files: what is read back, by this project's rules and by COCO's own tools."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from selftrain_core.errors import RunError
from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_core.testing.samples import box_labels, draws
from selftrain_detection import writing
from selftrain_detection.writing import INSTANCES, RESULTS, BoxWriter, areas, xywh

CLASSES = ("apple", "Äpfel & Birnen", "raccoon")


def written(folder: Path, labels: dict[str, BoxLabels], size: tuple[int, int] = (120, 160)) -> dict[str, Any]:
    writer = BoxWriter(folder, CLASSES)
    for id_, each in labels.items():
        writer.write(id_, each, size, Path(f"/somewhere/{id_}.jpg"))
    writer.close()
    found: dict[str, Any] = json.loads((folder / INSTANCES).read_text("utf-8"))
    return found


def corners(bbox: list[float]) -> list[float]:
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def read_back(dataset: dict[str, Any], number: int) -> BoxLabels:
    """Return what the files say of one image, without any of the project's code."""
    image = dataset["images"][number]
    rows = [row for row in dataset["annotations"] if row["image_id"] == image["id"]]
    regions = image.get("ignore_regions", [])
    boxes = [corners(row["bbox"]) for row in rows] + [corners(region) for region in regions]
    is_scored = bool(rows) and "score" in rows[0]
    return BoxLabels(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([row["category_id"] - 1 for row in rows] + [IGNORE_LABEL] * len(regions), np.int64),
        np.array([row["score"] for row in rows], np.float32) if is_scored else None,
        np.array([row["iscrowd"] for row in rows], np.bool_),
        np.array([row["area"] for row in rows], np.float32),
    )


@given(
    arrays.arrays(np.float32, (3, 4), elements=st.floats(0, 4000, width=32, allow_subnormal=False)),
)
def test_coordinates_read_back_as_they_were(corners_34: NDArray[np.float32]) -> None:
    boxes_34 = np.concatenate([corners_34[:, :2], corners_34[:, :2] + corners_34[:, 2:]], 1)
    text = json.dumps(xywh(boxes_34).tolist())
    found = np.array([corners(bbox) for bbox in json.loads(text)], np.float32)
    np.testing.assert_array_equal(found, boxes_34)


def test_numbers_have_no_more_digits_than_they_need() -> None:
    boxes_N4 = np.array([[0.1, 10, 20.3, 30.5]], np.float32)
    assert json.dumps(xywh(boxes_N4).tolist()) == "[[0.1, 10.0, 20.2, 20.5]]"
    assert xywh(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_areas_are_those_of_the_things_where_known() -> None:
    boxes_N4, labels_N = np.array([[1, 2, 4, 4.5]], np.float32), np.zeros(1, np.int64)
    assert areas(BoxLabels(boxes_N4, labels_N)).tolist() == [7.5]
    assert areas(BoxLabels(boxes_N4, labels_N, areas_N=np.array([3.5], np.float32))).tolist() == [3.5]


def test_a_whole_file(tmp_path: Path) -> None:
    labels = BoxLabels(
        np.array([[1, 2, 11, 22], [0, 0, 160, 120], [3.5, 4, 5, 6]], np.float32),
        np.array([2, IGNORE_LABEL, 0]),
        crowds_N=np.array([False, False, True]),
        areas_N=np.array([150, 0, 3], np.float32),
    )
    none = BoxLabels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    dataset = written(tmp_path / "new" / "boxes", {"deep/a": labels, "b": none})
    assert dataset == {
        "categories": [{"id": 1, "name": "apple"}, {"id": 2, "name": "Äpfel & Birnen"}, {"id": 3, "name": "raccoon"}],
        "images": [
            {
                "id": 1,
                "file_name": "deep/a.jpg",
                "width": 160,
                "height": 120,
                "ignore_regions": [[0.0, 0.0, 160.0, 120.0]],
            },
            {"id": 2, "file_name": "b.jpg", "width": 160, "height": 120},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [3.5, 4, 1.5, 2], "area": 3, "iscrowd": 1},
        ],
    }
    assert [path.name for path in (tmp_path / "new" / "boxes").iterdir()] == [INSTANCES], "and nothing else"


def test_what_is_written_reads_back_exactly(tmp_path: Path) -> None:
    labels = {}
    for seed in range(4):
        drawn = box_labels((120, 160), 3, seed, scored=seed % 2 == 0, count=7)
        crowds_N = draws((7,), seed, 30).numpy() < 0.3
        areas_N = (draws((7,), seed, 31) * 5000).numpy()
        labels[f"image-{seed}"] = BoxLabels(drawn.boxes_N4, drawn.labels_N, drawn.scores_N, crowds_N, areas_N)
    dataset = written(tmp_path, labels)
    for number, expected in enumerate(labels.values()):
        found = read_back(dataset, number)
        np.testing.assert_array_equal(found.boxes_N4, expected.boxes_N4)
        np.testing.assert_array_equal(found.labels_N, expected.labels_N)
        np.testing.assert_array_equal(found.crowds_N, expected.crowds_N)
        np.testing.assert_array_equal(found.areas_N, expected.areas_N)
        assert (found.scores_N is None) == (expected.scores_N is None)
        if expected.scores_N is not None:
            np.testing.assert_array_equal(found.scores_N, expected.scores_N)
    assert [row["id"] for row in dataset["annotations"]] == list(range(1, 29))


def test_regions_to_ignore_come_last(tmp_path: Path) -> None:
    drawn = box_labels((120, 160), 3, 1, scored=True, count=5)
    labels_N = np.where(np.arange(5) % 2 == 0, IGNORE_LABEL, drawn.labels_N)
    found = read_back(written(tmp_path, {"a": BoxLabels(drawn.boxes_N4, labels_N, drawn.scores_N)}), 0)
    order = [1, 3, 0, 2, 4]
    np.testing.assert_array_equal(found.boxes_N4, drawn.boxes_N4[order])
    np.testing.assert_array_equal(found.labels_N, labels_N[order])
    results = json.loads((tmp_path / RESULTS).read_text())
    assert len(results) == 2, "a region to ignore is no detection"


def test_results_are_what_coco_takes_as_detections(tmp_path: Path) -> None:
    scored = box_labels((120, 160), 3, 5, scored=True)
    dataset = written(tmp_path, {"a": box_labels((120, 160), 3, 4, scored=False), "b": scored})
    results = json.loads((tmp_path / RESULTS).read_text())
    keys = ("image_id", "category_id", "bbox", "score")
    assert results == [{key: row[key] for key in keys} for row in dataset["annotations"] if row["image_id"] == 2]
    assert len(results) == 3


@pytest.mark.parametrize(("scored", "expected"), [(True, "[\n]\n"), (False, None)])
def test_results_are_there_where_something_could_have_been_found(
    tmp_path: Path, scored: bool, expected: str | None
) -> None:
    scores_N = np.zeros(0, np.float32) if scored else None
    written(tmp_path, {"a": BoxLabels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), scores_N)})
    path = tmp_path / RESULTS
    assert (path.read_text() if path.exists() else None) == expected


def test_no_image_is_a_valid_file(tmp_path: Path) -> None:
    assert written(tmp_path, {}) == {
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
        "images": [],
        "annotations": [],
    }


@pytest.mark.parametrize("id_", ["../x", "/tmp/absolute", "a/../../b"])
def test_an_id_that_leads_out_of_the_folder_is_not_written(tmp_path: Path, id_: str) -> None:
    writer = BoxWriter(tmp_path, CLASSES)
    with pytest.raises(RunError, match=rf"the name '{id_}' leads out of the folder of images; nothing was written"):
        writer.write(id_, box_labels((9, 9), 3, 1, scored=False), (9, 9), Path("x.png"))
    writer.close()
    assert json.loads((tmp_path / INSTANCES).read_text("utf-8"))["images"] == []


def test_nothing_is_there_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_MEMORY_BYTES", 100)  # so that lists go to the disk at once
    labels = {f"{n}": box_labels((120, 160), 3, n, scored=True) for n in range(5)}
    writer = BoxWriter(tmp_path, CLASSES)
    for id_, each in labels.items():
        writer.write(id_, each, (120, 160), Path("x.jpg"))
    assert not list(tmp_path.iterdir())
    del writer
    assert not list(tmp_path.iterdir())
    assert len(written(tmp_path, labels)["annotations"]) == 15


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/boxes cannot be written: Not a directory"):
        BoxWriter(tmp_path / "file" / "boxes", CLASSES)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = BoxWriter(tmp_path, CLASSES)
    writer.write("a", box_labels((9, 9), 3, 1, scored=False), (9, 9), Path("a.png"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(RunError, match=r"instances\.json cannot be written: No space left on device\n  nothing"):
        writer.close()
    assert not list(tmp_path.iterdir())
