"""Images and a COCO file: what is read, what is refused and how it is said."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selftrain_core.errors import DataError
from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_core.testing.samples import write_images
from selftrain_detection.coco import CocoSource
from selftrain_detection.source_config import CocoConfig

Make = Callable[..., CocoSource]
Read = Callable[..., BoxLabels]
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 90, "name": "cat"}]
IMAGES = [{"id": 5, "file_name": "a.png"}, {"id": 3, "file_name": "deep/b.png"}]
DATA = Path(__file__).parents[3] / "shared/data"


def annotation(id_: Any = 1, image: Any = 5, box: Any = (1, 2, 3, 4), category: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": id_, "image_id": image, "category_id": category, "bbox": box, **more}


def remarks(made: CocoSource, id_: str = "a") -> list[str]:
    return made.remarks(next(entry for entry in made.scan() if entry.id == id_))


# --- what is read ---


def test_boxes_become_corners_and_categories_classes_by_name(folder: Path, source: Make, labels: Read) -> None:
    made = source(
        folder, [annotation(1, 5, [1, 2, 3, 4.5]), annotation(2, 3, [0, 0, 1, 1]), annotation(4, 5, category=90)]
    )
    found = labels(made)
    assert found.boxes_N4.tolist() == [[1, 2, 4, 6.5], [1, 2, 4, 6]]
    assert found.labels_N.tolist() == [1, 0]
    assert (found.scores_N, found.crowds_N, found.areas_N) == (None, None, None)
    assert labels(made, "deep/b").boxes_N4.tolist() == [[0, 0, 1, 1]]
    assert made.remarks(None) == remarks(made) == []


def test_corners_are_computed_in_double_precision(folder: Path, source: Make, labels: Read) -> None:
    found = labels(source(folder, [annotation(box=[0.1, 0.2, 10.7, 9.9])]))
    assert found.boxes_N4.tolist() == [
        [np.float32(0.1), np.float32(0.2), np.float32(0.1 + 10.7), np.float32(0.2 + 9.9)]
    ]


def test_crowds_areas_scores_and_segmentations(folder: Path, source: Make, labels: Read) -> None:
    rle = {"counts": [0, 600], "size": [20, 30]}
    found = labels(
        source(
            folder,
            [
                annotation(1, iscrowd=1, area=9.5, segmentation=rle),
                annotation(2, iscrowd=0, area=None, segmentation=[[1, 2, 3, 4, 5, 6]], score=0.25),
            ],
        )
    )
    assert found.crowds_N is not None and found.areas_N is not None
    assert (found.crowds_N.tolist(), found.areas_N.tolist(), found.scores_N) == ([True, False], [9.5, 12], None)


def test_regions_to_ignore_come_last(folder: Path, source: Make, labels: Read) -> None:
    images = [{**IMAGES[0], "ignore_regions": [[0, 0, 5, 5], [9, 9, 99, 2]]}, IMAGES[1]]
    made = source(folder, {"images": images, "annotations": [annotation(area=3)]})
    found = labels(made)
    assert found.labels_N.tolist() == [1, IGNORE_LABEL, IGNORE_LABEL]
    assert found.boxes_N4.tolist()[1:] == [[0, 0, 5, 5], [9, 9, 30, 11]]
    assert found.areas_N is not None and found.areas_N.tolist() == [3, 25, 42]
    (told,) = remarks(made)
    assert told.startswith("the ignore region [9, 9, 99, 2] (x, y, width, height) sticks out of the image, 30×20 pix")


def test_ids_may_be_texts_and_whole_floats_and_sparse(folder: Path, source: Make, labels: Read) -> None:
    images = [{"id": "x/1", "file_name": "a.png"}, {"id": -(2**60), "file_name": "./deep//b.png"}]
    categories = [{"id": "k", "name": "dog"}, {"id": 0, "name": "cat"}]
    annotations = [annotation("n", "x/1", category=0.0), annotation(2.0, -(2**60), category="k")]
    made = source(folder, {"images": images, "categories": categories, "annotations": annotations})
    assert [(labels(made, id_).labels_N.tolist()) for id_ in ("a", "deep/b")] == [[0], [1]]


def test_the_json_needs_nothing_but_what_is_used_in_any_order(folder: Path, source: Make, labels: Read) -> None:
    made = source(folder)
    content = {
        "licenses": [],
        "annotations": [annotation()],
        "categories": CATEGORIES,
        "images": IMAGES,
        "info": {"y": [1]},
    }
    made.config.annotations.write_text("\ufeff" + json.dumps(content, indent=1), encoding="utf-8")
    assert labels(made).boxes_N4.tolist() == [[1, 2, 4, 6]]


def test_images_come_in_the_order_of_their_ids_and_unlisted_ones_do_not(folder: Path, source: Make) -> None:
    write_images(folder / "images", ["B", "é"])
    images = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(["é", "deep/b", "a", "B"])]
    entries = list(source(folder, {"images": images}).scan())
    assert [entry.id for entry in entries] == ["B", "a", "deep/b", "é"]
    assert entries[2].path == folder / "images/deep/b.png"
    assert {entry.label_path for entry in entries} == {folder / "instances.json"}


@pytest.mark.parametrize("lines", [["deep/b", "a"], ["deep/b.png", "a.png"]])
def test_a_list_chooses_and_orders(folder: Path, lines: list[str], source: Make) -> None:
    (folder / "list.txt").write_text("\n".join(lines))
    assert [entry.id for entry in source(folder, list=folder / "list.txt").scan()] == ["deep/b", "a"]


def test_classes_may_be_renamed_and_left_out(folder: Path, source: Make, labels: Read) -> None:
    made = source(
        folder,
        [annotation(1), annotation(2, category=90)],
        ("hound",),
        classes_as={"dog": "hound"},
        ignore_classes=("cat",),
    )
    assert labels(made).labels_N.tolist() == [0]
    assert remarks(made) == [], "what the settings ask for needs no word"


def test_categories_without_boxes_need_no_class(folder: Path, source: Make, labels: Read) -> None:
    assert labels(source(folder, [annotation()], ("dog", "bird"))).labels_N.tolist() == [0]


def test_1500_boxes_keep_their_order(folder: Path, source: Make, labels: Read) -> None:
    boxes = [[n % 29, n % 19, 1, 0.5 + n / 3000] for n in range(1500)]
    found = labels(source(folder, [annotation(n, box=box) for n, box in enumerate(boxes)]))
    expected = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], np.float32)
    np.testing.assert_array_equal(found.boxes_N4, expected)


def test_pickles_as_arrays_and_reads_no_file_twice(folder: Path, source: Make, labels: Read) -> None:
    made = source(folder, [annotation(n, 5 - 2 * (n % 2)) for n in range(2000)])
    assert len(labels(made)) == 1000
    entry = next(made.scan())
    again: CocoSource = pickle.loads(pickle.dumps(made))
    made.config.annotations.unlink()
    assert len(again.read_labels(entry)) == 1000
    assert len(pickle.dumps(made)) < 2000 * 80


@pytest.mark.parametrize("id_", ["a", "a.png", "x", "x" * 1000, "deep/b", "é", ""])
def test_rows_are_found_without_converting_the_table(
    folder: Path, id_: str, monkeypatch: pytest.MonkeyPatch, source: Make
) -> None:
    table = source(folder)._table
    searched = []

    def search(values: Any, wanted: Any) -> Any:
        searched.append(wanted.dtype == values.dtype)
        return np.ndarray.searchsorted(values, wanted)

    monkeypatch.setattr(np, "searchsorted", search)
    assert table.row(id_) == {"a": 0, "deep/b": 1}.get(id_)
    assert searched == ([True] if len(id_.encode()) <= len("deep/b") else [])


# --- images without annotations ---


def test_images_without_annotations(folder: Path, source: Make, labels: Read) -> None:
    assert len(labels(source(folder, [annotation()]), "deep/b")) == 0
    skips = source(folder, [annotation()], unannotated="skip")
    assert [entry.id for entry in skips.scan()] == ["a"]
    refuses = source(folder, [annotation()], unannotated="error")
    assert len(labels(refuses)) == 1
    with pytest.raises(
        DataError, match=r"instances\.json has no annotation of 'deep/b'; set unannotated: negative if .* skip"
    ):
        labels(refuses, "deep/b")


def test_an_image_whose_boxes_are_left_out_or_regions_is_annotated(folder: Path, source: Make) -> None:
    images = [IMAGES[0], {**IMAGES[1], "ignore_regions": [[0, 0, 5, 5]]}]
    content = {"images": images, "annotations": [annotation(category=90)]}
    made = source(folder, content, unannotated="skip", ignore_classes=("cat",))
    assert [len(made.read_labels(entry)) for entry in made.scan()] == [0, 1]


# --- bad boxes ---


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            [1, 2, 0, 4],
            r"annotation 1 with the bbox \[1, 2, 0, 4\] \(x, y, width, height\) of 'a' has no area; mend it",
        ),
        ([1, 2, -3.5, 4], r"\[1, 2, -3\.5, 4\] .* of 'a' is inside out"),
        ([40, 2, 3, 4], r"\[40, 2, 3, 4\] .* of 'a' lies outside of the image, 30×20 pixels"),
        ([1, 2, float("nan"), 4], r"\[1, 2, nan, 4\] .* is not made of four finite numbers"),
        ([1, 2, 3], r"annotation 1 with the bbox \[1, 2, 3\] .* is not made of four finite numbers"),
        ([1, 2, None, 4], r"\[1, 2, None, 4\] .* is not made of four"),
        ([1, 2, 10**400, 4], r"\[1, 2, 10+.* is not made of four"),
        ("1 2 3 4", r"'1 2 3 4' .* is not made of four"),
        (None, r"None .* is not made of four"),
    ],
)
def test_bad_boxes_are_refused_or_left_out(folder: Path, box: Any, message: str, source: Make, labels: Read) -> None:
    annotations = [annotation(9, 3), annotation(1, box=box), annotation(2), annotation(3, category=90)]
    with pytest.raises(DataError, match=rf"instances\.json: .*{message}"):
        labels(source(folder, annotations))
    drops = source(folder, annotations, bad_boxes="drop")
    assert labels(drops).labels_N.tolist() == [1, 0]
    (told,) = remarks(drops)
    assert told.startswith("annotation 1 with the bbox ") and told.endswith(", and is left out")
    assert remarks(drops, "deep/b") == []


def test_a_bad_box_of_another_image_does_not_matter(folder: Path, source: Make, labels: Read) -> None:
    assert len(labels(source(folder, [annotation(1, 3, [0, 0, 0, 0]), annotation(2)]))) == 1


def test_annotations_of_images_that_are_not_there(folder: Path, source: Make, labels: Read) -> None:
    annotations = [annotation(4, 11), annotation(5), annotation(6, 12)]
    message = (
        r"instances\.json: annotation 4 is of the image 11, which 'images' does not hold \(2 annotations are of such "
        r"images\); add the image, or set bad_boxes: drop"
    )
    with pytest.raises(DataError, match=message):
        list(source(folder, annotations).scan())
    drops = source(folder, annotations, bad_boxes="drop")
    assert (len(labels(drops)), remarks(drops)) == (1, [])
    (told,) = drops.remarks(None)
    assert told.endswith("and is left out (2 annotations are of such images)")


def test_numbers_and_texts_are_two_kinds_of_ids(folder: Path, source: Make) -> None:
    with pytest.raises(
        DataError, match=r"of the image '5', which .*; there is 5, which is another id: write both as numb"
    ):
        list(source(folder, [annotation(1, "5")]).scan())


# --- real data ---


@pytest.mark.parametrize(
    ("name", "part", "images", "boxes"),
    [("natural5", "train", 425, {"apple": 112, "banana": 145, "orange": 107, "raccoon": 136, "kangaroo": 170}),
     ("natural5", "test", 131, {"apple": 52, "banana": 34, "orange": 41, "raccoon": 41, "kangaroo": 53}),
     ("cards6", "val", 59, None)],
)  # fmt: skip
def test_real_data(name: str, part: str, images: int, boxes: dict[str, int] | None) -> None:
    root = DATA / name
    if not root.is_dir():
        pytest.skip(f"the data set {name} is not beside the repository")
    file = root / "annotations" / f"{part}.json"
    categories = [each["name"] for each in json.loads(file.read_text())["categories"]]
    settings = CocoConfig(images=root / "images", annotations=file, list=root / "splits" / f"{part}.txt")
    made = CocoSource(settings, sorted(categories))
    entries = list(made.scan())
    assert len(entries) == images
    counted: Counter[str] = Counter()
    for entry in entries:
        counted.update(made.classes[label] for label in made.read_labels(entry).labels_N)
        assert made.remarks(entry) == []
    assert counted == boxes or (boxes is None and sum(counted.values()) == 106)
