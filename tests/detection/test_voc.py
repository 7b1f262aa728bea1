"""Images and Pascal VOC files: what is read, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selftrain_core.errors import DataError
from selftrain_core.labels import BoxLabels
from selftrain_core.testing.samples import write_images
from selftrain_detection.source_config import VocConfig
from selftrain_detection.voc import VocSource

CLASSES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", ["a", "deep/b"], size=(20, 30))
    (tmp_path / "xml/deep").mkdir(parents=True)
    return tmp_path


def thing(name: str = "dog", box: tuple[Any, ...] = (2, 3, 4, 6), more: str = "") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def source(folder: Path, *objects: str, size: tuple[Any, Any] | None = (30, 20), **settings: Any) -> VocSource:
    """Return the source, with these objects in the file of 'a'."""
    about = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    text = f"<annotation><filename>x.jpg</filename>{about}{''.join(objects)}</annotation>"
    (folder / "xml/a.xml").write_text(text, encoding="utf-8")
    return VocSource(VocConfig(images=folder / "images", annotations=folder / "xml", **settings), CLASSES)


def labels(made: VocSource) -> BoxLabels:
    return made.read_labels(next(made.scan()))


def test_the_first_pixel_is_one_and_the_last_belongs_to_the_box(folder: Path) -> None:
    made = source(folder, thing(box=(1, 1, 30, 20)), thing("cat", (2, 3, 2, "3.0")))
    assert labels(made).boxes_N4.tolist() == [[0, 0, 30, 20], [1, 2, 2, 3]]
    assert labels(made).labels_N.tolist() == [1, 0]
    assert made.remarks(next(made.scan())) == made.remarks(None) == []


def test_the_first_pixel_may_be_nought(folder: Path) -> None:
    found = labels(source(folder, thing(box=(0, 0, 29, 19)), thing(box=(2, 3, 2, 3)), first_pixel=0))
    assert found.boxes_N4.tolist() == [[0, 0, 30, 20], [2, 3, 3, 4]]


def test_difficult_objects(folder: Path) -> None:
    objects = (thing(more="<difficult>1</difficult>"), thing("cat", more="<difficult>0</difficult>"))
    ignored = labels(source(folder, *objects))
    assert ignored.crowds_N is not None and ignored.crowds_N.tolist() == [True, False]
    assert ignored.labels_N.tolist() == [1, 0]
    kept = labels(source(folder, *objects, difficult="keep"))
    assert (kept.crowds_N, kept.labels_N.tolist()) == (None, [1, 0])
    assert labels(source(folder, *objects, difficult="drop")).labels_N.tolist() == [0]


def test_boxes_of_parts_are_not_the_objects(folder: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    assert labels(source(folder, thing(more=part))).boxes_N4.tolist() == [[1, 2, 4, 6]]


def test_files_may_have_other_encodings(folder: Path) -> None:
    made = source(folder)
    text = f'<?xml version="1.0" encoding="utf-16"?><annotation>{thing()}</annotation>'
    (folder / "xml/a.xml").write_bytes(text.encode("utf-16"))
    assert len(labels(made)) == 1


def test_classes_may_be_renamed_and_left_out(folder: Path) -> None:
    settings: dict[str, Any] = {"classes_as": {"hound": "dog"}, "ignore_classes": ("bird",)}
    assert labels(source(folder, thing("hound"), thing("bird"), **settings)).labels_N.tolist() == [1]


def test_a_file_without_objects_is_an_image_that_shows_none(folder: Path) -> None:
    assert len(labels(source(folder))) == 0


def test_images_without_a_file(folder: Path) -> None:
    made = source(folder, thing())
    entries = list(made.scan())
    assert [(entry.id, entry.label_path) for entry in entries] == [
        ("a", folder / "xml/a.xml"),
        ("deep/b", folder / "xml/deep/b.xml"),
    ]
    message = (
        r"the annotations .*deep/b\.xml do not exist; add them, or set unannotated: negative if images without them, "
        r"as 'deep/b', show none of the classes, or unannotated: skip"
    )
    with pytest.raises(DataError, match=message):
        made.read_labels(entries[1])
    negative = source(folder, thing(), unannotated="negative")
    assert [len(negative.read_labels(entry)) for entry in negative.scan()] == [1, 0]
    assert [entry.id for entry in source(folder, thing(), unannotated="skip").scan()] == ["a"]


def test_a_missing_folder_is_explained(folder: Path) -> None:
    made = VocSource(VocConfig(images=folder / "images", annotations=folder / "xmls"), CLASSES)
    with pytest.raises(DataError, match=r"xmls/a\.xml do not exist; there is no folder .*xmls$"):
        labels(made)


def test_a_list_chooses(folder: Path) -> None:
    (folder / "list.txt").write_text("deep/b\n")
    assert [entry.id for entry in source(folder, list=folder / "list.txt").scan()] == ["deep/b"]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            [thing("dgo")],
            r"object 1 is of the class 'dgo', .* \(did you mean 'dog'\?\).*\n  its classes: dgo\n.*: cat, dog$",
        ),
        (
            [thing(), thing(" ")],
            r"object 2 has no name; an object of a Pascal VOC file has name and bndbox \(xmin, ymin,",
        ),
        (["<object><name>dog</name></object>"], r"object 1 \('dog'\) has no bndbox/xmin; an object of"),
        ([thing().replace("ymax", "y")], r"object 1 \('dog'\) has no bndbox/ymax; an object of"),
        ([thing(box=("x", 1, 2, 3))], r"bndbox/xmin of object 1 \('dog'\) is 'x', which is no finite number"),
        ([thing(box=(1, "nan", 2, 3))], r"bndbox/ymin of object 1 \('dog'\) is 'nan', which is no finite number"),
        ([thing(more="<difficult>2</difficult>")], r"object 1 \('dog'\) has difficult 2, which is neither 0 nor 1"),
        (
            [thing(more="<difficult>no</difficult>")],
            r"difficult of object 1 \('dog'\) is 'no', which is no finite number",
        ),
    ],
)
def test_malformed_objects_are_explained(folder: Path, objects: list[str], message: str) -> None:
    with pytest.raises(DataError, match=rf"xml/a\.xml: {message}"):
        labels(source(folder, *objects))


def test_bad_boxes_are_refused_or_left_out(folder: Path) -> None:
    objects = [thing(), thing("cat", (9, 3, 4, 6)), thing(box=(2, 3, 99, 6))]
    message = (
        r"a\.xml: object 2 \('cat'\) with the bndbox \[9, 3, 4, 6\] \(xmin, ymin, xmax, ymax\) of 'a' is inside out"
    )
    with pytest.raises(DataError, match=message):
        labels(source(folder, *objects))
    drops = source(folder, *objects, bad_boxes="drop")
    assert labels(drops).boxes_N4.tolist() == [[1, 2, 4, 6], [1, 2, 30, 6]]
    left_out, clipped = drops.remarks(next(drops.scan()))
    assert left_out.startswith("object 2 ('cat') with the bndbox [9, 3, 4, 6] ") and "is left out" in left_out
    assert clipped.startswith("object 3 ('dog') with the bndbox [2, 3, 99, 6] ") and "is clipped to it" in clipped


@pytest.mark.parametrize("size", [None, (0, 0), (30, 20), ("30.0", 20)])
def test_a_size_may_be_missing_or_nought(folder: Path, size: Any) -> None:
    assert len(labels(source(folder, thing(), size=size))) == 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((60, 40), r"a\.xml says that 'a' is 60×40 pixels, but .*a\.png is 30×20 pixels"),
        (
            (20, 30),
            r"20×30 pixels, but .*30×20 pixels .*; its boxes may be those of the image before its EXIF rotation",
        ),
        (("inf", 20), r"size/width of the file is 'inf', which is no finite number"),
    ],
)
def test_another_size_is_explained(folder: Path, size: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels(source(folder, thing(), size=size))


BOMB = '<!DOCTYPE a [<!ENTITY x "yyyyyyyy"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"the annotations .*a\.xml cannot be read: it is no XML \(no element found"),
        (b"<annotation><object></annotation>", r"it is no XML \(mismatched tag: line 1"),
        (b"\x00\x01", "it is no XML"),
        (b'<?xml version="1.0" encoding="no-such"?><annotation/>', r"a\.xml cannot be read"),
        (b"<html/>", r"a\.xml is no Pascal VOC file: its root is <html>, not <annotation>"),
        (BOMB.encode(), r"cannot be read: it declares a document type, which .* no use for; take the DOCTYPE out"),
        (f'<?xml version="1.0" encoding="UTF-16"?>{BOMB}'.encode("utf-16"), "it declares a document type"),
        (('<?xml version="1.0" encoding="utf-16"?>' + BOMB).encode("utf-16"), "it declares a document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "it declares a document type"),
    ],
)
def test_files_that_are_no_voc_are_explained(folder: Path, content: bytes, message: str) -> None:
    made = source(folder)
    (folder / "xml/a.xml").write_bytes(content)
    with pytest.raises(DataError, match=message):
        labels(made)


def test_a_folder_in_place_of_a_file_is_explained(folder: Path) -> None:
    made = source(folder)
    (folder / "xml/a.xml").unlink()
    (folder / "xml/a.xml").mkdir()
    with pytest.raises(DataError, match=r"a\.xml cannot be read: Is a directory"):
        labels(made)


def test_1500_objects_keep_their_order(folder: Path) -> None:
    found = labels(source(folder, *(thing(box=(1 + n % 29, 1 + n % 19, 30, 20)) for n in range(1500))))
    assert found.boxes_N4[:, :2].tolist() == [[n % 29, n % 19] for n in range(1500)]
