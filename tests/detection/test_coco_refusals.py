"""COCO files that cannot be used, and how that is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from selftrain_core.errors import DataError
from selftrain_core.labels import BoxLabels
from selftrain_detection.coco import CocoSource
from selftrain_detection.source_config import CocoConfig

Make = Callable[..., CocoSource]
Read = Callable[..., BoxLabels]
IMAGE = {"id": 5, "file_name": "a.png"}


def annotation(id_: Any = 1, image: Any = 5, box: Any = (1, 2, 3, 4), category: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": id_, "image_id": image, "category_id": category, "bbox": box, **more}


# --- files that contradict themselves ---


NEEDS = (
    r"; a COCO file of instances has 'images' \(id, file_name\), 'annotations' \(id, image_id, category_id, bbox\), "
    r"'categories' \(id, name\)"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": None}, "it lacks 'images'" + NEEDS),
        ({"annotations": None, "categories": None}, "it lacks 'annotations', 'categories'" + NEEDS),
        ({"images": {"a": 1}}, "'images' is no list" + NEEDS),
        ({"annotations": [3]}, r"annotations\[0\] is '3', which is no object" + NEEDS),
        (
            {"annotations": [annotation(), {"id": 8, "image_id": 5}]},
            r"annotations\[1\] \(id 8\) lacks 'category_id', 'bbox'",
        ),
        ({"images": [{"id": 1}]}, r"images\[0\] \(id 1\) lacks 'file_name'"),
        ({"categories": [{"name": "x"}]}, r"categories\[0\] lacks 'id'"),
        ({"categories": [{"id": 1, "name": 2}]}, r"categories\[0\] \(id 1\) has the name 2, which is no text"),
        (
            {"annotations": [annotation(None)]},
            r"annotations\[0\] \(id None\) has the id None; ids are whole numbers or text",
        ),
        ({"annotations": [annotation(1.5)]}, r"has the id 1\.5; ids are whole numbers or texts"),
        ({"annotations": [annotation(True)]}, r"has the id True; ids are whole numbers or texts"),
        ({"annotations": [annotation(2**70)]}, r"has the id \d+; ids are whole numbers or texts"),
        ({"annotations": [annotation(iscrowd=2)]}, "has iscrowd 2, which is neither 0 nor 1"),
        ({"annotations": [annotation(area="big")]}, "has the area 'big', which is no number"),
        ({"annotations": [annotation(area=10**400)]}, r"annotations\[0\] \(id 1\) has int too large"),
        (
            {"annotations": [annotation(1), annotation(1, 3)]},
            r"two annotations of the id 1, one of the image 5 \(a\.png\), one of the image 3 \(deep/b\.png\); ids",
        ),
        (
            {"annotations": [annotation(category=8)]},
            r"annotation 1 has the category_id 8, which is no category's; categories: 7 \(dog\), 90 \(cat\)",
        ),
        (
            {"categories": [{"id": 7, "name": "dog"}, {"id": 7, "name": "cat"}]},
            r"categories\[1\] \(id 7\) has the id of another: it is both 'dog' and 'cat'",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "deep/b.png"}]},
            r"two images of the id 1, 'a\.png' and 'deep/b\.png'; ids are to differ",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.png"}, {"id": "z", "file_name": "./a.png"}]},
            r"two images with the file_name 'a\.png', 1 and 'z'; join them",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.jpg"}]},
            r"has the images 'a\.jpg' and 'a\.png', which share the id 'a' \(the path without ending\); rename one",
        ),
        (
            {"images": [{"id": 1, "file_name": "../a.png"}]},
            r"the file_name '\.\./a\.png', which leads out of the folder",
        ),
        (
            {"images": [{"id": 1, "file_name": "x/../../a.png"}]},
            "leads out of the folder 'images'; it is to be a path bel",
        ),
        ({"images": [{"id": 1, "file_name": "/etc/a.png"}]}, "'/etc/a.png', which leads out of the folder"),
        ({"images": [{"id": 1, "file_name": "./"}]}, "leads out of the folder"),
        ({"images": [{"id": 1, "file_name": ""}]}, "the file_name '', which is no path"),
        ({"images": [{"id": 1, "file_name": "a\0.png"}]}, r"the file_name 'a\\x00\.png', which is no path"),
        ({"images": [{"id": 1, "file_name": "\ud800.png"}]}, r"the file_name '\\ud800\.png', which is no path"),
        ({"images": [{"id": 1, "file_name": 3}]}, "the file_name 3, which is no path"),
        ({"images": [{"id": 1, "file_name": "x" * 256}]}, r"images\[0\] \(id 1\) has the file_name 'x+'… of 256 char"),
        (
            {"images": [{**IMAGE, "width": 30.5}]},
            r"images\[0\] \(id 5\) has the width 30\.5, which is no whole number",
        ),
        ({"images": [{**IMAGE, "height": "20"}]}, "has the height '20', which is no whole number"),
        ({"images": [{**IMAGE, "ignore_regions": 3}]}, "has ignore_regions 3, which is no list of boxes"),
    ],
)
def test_files_that_cannot_be_used_are_explained(
    folder: Path, content: dict[str, Any], message: str, source: Make
) -> None:
    with pytest.raises(DataError, match=rf"instances\.json.*{message}"):
        list(source(folder, content).scan())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the annotations .*instances\.json cannot be read: No such file"),
        (b"", r"cannot be read: it is no JSON \(Expecting '\{', at character 1\)"),
        (b'{"images": [{"id": 1, ', r"it is no JSON \(Expecting property name .*, at character \d+\)"),
        (b'{"images": ' + b"[" * 100_000, r"it is no JSON \(maximum recursion depth exceeded"),
        (b"\xff\xfe{}", r"cannot be read: it is no text in UTF-8"),
        (b'[{"image_id": 1, "score": 0.5}]', "it is a list, as a file of results is" + NEEDS),
    ],
)
def test_unreadable_files_are_explained(folder: Path, content: bytes | None, message: str, source: Make) -> None:
    made = source(folder)
    made.config.annotations.unlink()
    if content is not None:
        made.config.annotations.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(made.scan())


def test_classes_that_the_run_lacks_are_explained_with_both_lists(folder: Path, source: Make) -> None:
    annotations = [annotation(1), annotation(2, category=90)]
    with pytest.raises(DataError) as error:
        list(source(folder, annotations, ("dog", "cats")).scan())
    first, *lists = str(error.value).splitlines()
    assert "instances.json: annotation 2 is of the class 'cat', not among data.classes (did you mean 'cats'?)" in first
    assert lists == ["  its classes: dog, cat", "  data.classes: dog, cats"]
    with pytest.raises(DataError, match=r"instances\.json has no class of data\.classes; .*\n.*: dog, cat\n.*: bird"):
        list(source(folder, [], ("bird",)).scan())


# --- files that do not fit the folder ---


def test_a_missing_folder_is_explained(folder: Path) -> None:
    made = CocoSource(CocoConfig(images=folder / "imags", annotations=folder / "x.json"), ("cat", "dog"))
    with pytest.raises(DataError, match=r"the image folder .*imags does not exist"):
        list(made.scan())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", r"instances\.json lists the image 'gone\.png', but .*images holds no such file$"),
        ("images/a.png", "it is below .*: set images to that$"),
        ("train/a.png", r"there is 'a\.png': a file_name is the path below the folder$"),
        ("é" * 200, "holds no such file$"),  # 400 bytes are too many for most file systems
        ("deep\\b.png", r"write its folders with / in place of \\$"),
    ],
)
def test_a_missing_image_is_explained(folder: Path, name: str, message: str, source: Make) -> None:
    with pytest.raises(DataError, match=message):
        list(source(folder, {"images": [{"id": 1, "file_name": name}]}).scan())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "unlisted",
            r"list\.txt names 'unlisted', which .*json does not list; .*images holds it, but without annotations",
        ),
        ("deep/x", r"names 'deep/x', which .*json does not list \(did you mean 'deep/b'\?\)$"),
        ("../images/a", r"names '\.\./images/a', which .*json does not list"),
        ("a.jpg", r"names 'a\.jpg', which .*json does not list"),
        ("a\na.png", r"list\.txt names 'a' twice, once as 'a\.png'"),
    ],
)
def test_lists_of_other_images_are_explained(folder: Path, lines: str, message: str, source: Make) -> None:
    (folder / "list.txt").write_text(lines)
    with pytest.raises(DataError, match=message):
        list(source(folder, list=folder / "list.txt").scan())


def test_another_size_is_explained(folder: Path, source: Make, labels: Read) -> None:
    right = source(folder, {"images": [{**IMAGE, "width": 30.0, "height": 20}]})
    assert len(labels(right)) == 0
    wrong = source(folder, {"images": [{**IMAGE, "width": 60, "height": 40}]})
    with pytest.raises(DataError, match=r"instances\.json says that 'a' is 60×40 pixels, but .*a\.png is 30×20 pixels"):
        labels(wrong)


def test_boxes_belong_to_the_turned_image(folder: Path, source: Make, labels: Read) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(folder / "images/a.png", exif=exif)
    upright = {"images": [{**IMAGE, "width": 20, "height": 30}], "annotations": [annotation(box=[0, 25, 20, 5])]}
    assert labels(source(folder, upright)).boxes_N4.tolist() == [[0, 25, 20, 30]]
    lying = {"images": [{**IMAGE, "width": 30, "height": 20}]}
    with pytest.raises(
        DataError, match=r"30×20 pixels, but .* is 20×30 .*may be those of the image before its EXIF rotati"
    ):
        labels(source(folder, lying))


def test_an_image_that_is_not_listed_has_no_labels(folder: Path, source: Make) -> None:
    made = source(folder)
    entry = next(made.scan())
    with pytest.raises(DataError, match=r"instances\.json does not list the image 'z'"):
        made.read_labels(type(entry)("z", entry.path))
