from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from selftrain import init_command
from selftrain.data_folder import look_at
from selftrain.data_parts import share_out
from selftrain.measuring import measure as really_measure
from selftrain_core.config import load_config
from selftrain_core.errors import DataError
from selftrain_core.rounds import self_train

Write = Callable[..., None]
Init = Callable[..., Result]
Counts = Callable[[Path], dict[str, int]]
BOX = [8, 8, 16, 16]


def coco(path: Path, names: Sequence[str], box: Sequence[float] = BOX, classes: Sequence[str] = ("thing",)) -> None:
    """Write a COCO file with one box of each class in each image of 40×48 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name, "height": 40, "width": 48} for n, name in enumerate(names)]
    boxes = [(n, c) for n in range(len(names)) for c in range(len(classes))]
    annotations = [{"id": i, "image_id": n, "category_id": c, "bbox": list(box)} for i, (n, c) in enumerate(boxes)]
    categories = [{"id": c, "name": name} for c, name in enumerate([*classes, "never"])]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture
def photos(tmp_path: Path, photo: Write) -> Path:
    """Return a folder with 14 images below images/."""
    for number in range(14):
        photo(tmp_path / f"data/images/p{number:02}.png", number)
    return tmp_path / "data"


@pytest.fixture
def data(photos: Path) -> Path:
    """Return the folder with a COCO file that has 9 of them."""
    coco(photos / "instances.json", [f"p{n:02}.png" for n in range(9)])
    return photos


def test_one_coco_file_is_found_and_written(data: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    path = tmp_path / "my.yaml"
    shown = init(data, "-o", path, "--minutes", 10).stdout
    assert f"images  {data / 'images'}: 14, 40×48 pixels (height × width)" in shown
    assert f"boxes   {data / 'instances.json'}: 9 images, detection/coco" in shown
    assert "parts   6 labelled, 5 unlabelled, 1 validation, 2 test" in shown
    assert "validation: 1 images with boxes chosen by a hash of their names, for want of a list" in shown
    assert "thing 9 9 16" in [" ".join(line.split()) for line in shown.splitlines()]
    assert "warning: no box is of the class 'never': left out of the classes" in shown
    config = load_config(path)
    assert config.task.name == "detection/retinanet" and config.data.class_names() == ("thing",)
    assert counts(path) == {"labelled": 6, "unlabelled": 5, "validation": 1, "test": 2}
    text = path.read_text()
    assert "classes: [thing]  # from instances.json" in text and "# of each class the surest boxes" in text
    raw = yaml.safe_load(text)["data"]["sources"]
    assert raw["labelled"]["annotations"] == "data/instances.json" and raw["unlabelled"]["name"] == "core/images"
    found = json.loads(init(data, "-o", path, "--force", "--json").stdout)
    assert found["format"] == "coco" and found["classes"] == [{"name": "thing", "images": 9, "boxes": 9}]


@pytest.mark.parametrize("name", ["annotations/{}.json", "annotations/instances_{}2017.json", "{}.json"])
def test_a_coco_file_for_each_part(
    photos: Path, tmp_path: Path, fast: None, name: str, init: Init, counts: Counts
) -> None:
    for part, numbers in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 9))):
        coco(photos / name.format(part), [f"p{n:02}.png" for n in numbers])
    shown = init(photos, "-o", tmp_path / "my.yaml").stdout
    assert "parts   5 labelled, 5 unlabelled, 2 validation, 2 test" in shown and "by a hash" not in shown
    assert counts(tmp_path / "my.yaml") == {"labelled": 5, "unlabelled": 5, "validation": 2, "test": 2}


def test_lists_go_before_the_names_of_files(
    photos: Path, tmp_path: Path, fast: None, init: Init, counts: Counts
) -> None:
    coco(photos / "annotations/train.json", [f"p{n:02}.png" for n in range(7)])
    coco(photos / "annotations/test.json", ["p07.png", "p08.png"])
    (photos / "splits").mkdir()
    (photos / "splits/val.txt").write_text("p05\np06\np08\n")
    init(photos, "-o", tmp_path / "my.yaml")
    assert counts(tmp_path / "my.yaml") == {"labelled": 5, "unlabelled": 5, "validation": 3, "test": 1}
    assert load_config(tmp_path / "my.yaml").data.validation == "validation + validation-2", "of two files"


def test_a_file_beside_its_images(tmp_path: Path, photo: Write, fast: None, init: Init, counts: Counts) -> None:
    for n, part in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"] * 2):
        photo(tmp_path / f"data/{part}/p{n}.png", n)
    for n in range(8, 12):
        photo(tmp_path / f"data/unlabeled/p{n}.png", n)
    for part in ("train", "valid", "test"):
        names = [path.name for path in sorted((tmp_path / "data" / part).iterdir())]
        coco(tmp_path / f"data/{part}/_annotations.coco.json", names)
    init(tmp_path / "data", "-o", tmp_path / "my.yaml")
    assert counts(tmp_path / "my.yaml") == {"labelled": 4, "unlabelled": 4, "validation": 2, "test": 2}


def test_images_that_are_not_there_or_not_annotated_are_told(data: Path) -> None:
    coco(data / "instances.json", [*(f"p{n:02}.png" for n in range(9)), "gone.png"])
    text = json.loads((data / "instances.json").read_text())
    text["annotations"] = text["annotations"][:4]
    (data / "instances.json").write_text(json.dumps(text))
    warnings = " ".join(look_at(data).warnings)
    assert (
        f"1 of the 10 images in {data / 'instances.json'} are not in {data / 'images'}, such as 'gone.png'" in warnings
    )
    assert "has no box of 6 of its 10 images: they count as showing none of the classes" in warnings


def test_bad_boxes_are_left_out_and_told(data: Path, tmp_path: Path, fast: None, init: Init) -> None:
    text = json.loads((data / "instances.json").read_text())
    text["annotations"].append({"id": 99, "image_id": 1, "category_id": 0, "bbox": [5, 5, 0, 3]})
    (data / "instances.json").write_text(json.dumps(text))
    shown = init(data, "-o", tmp_path / "my.yaml").stdout
    assert "warning: 1 images have bad boxes, which are left out (bad_boxes: drop): " in shown
    assert "bad_boxes: drop" in (tmp_path / "my.yaml").read_text()


def test_many_boxes_find_place(data: Path, tmp_path: Path, fast: None, init: Init) -> None:
    text = json.loads((data / "instances.json").read_text())
    number = int(share_out(look_at(data)).ids["labelled"][0].removeprefix("p"))
    many = [{"id": 100 + n, "image_id": number, "category_id": 0, "bbox": [n % 40, n % 30, 3, 3]} for n in range(120)]
    text["annotations"] += many
    (data / "instances.json").write_text(json.dumps(text))
    shown = init(data, "-o", tmp_path / "my.yaml").stdout
    assert "warning: an image to train on has 121 boxes, where 99 of 100 have 121 at most: task.max_boxes and" in shown
    assert "task.prediction.max_detections are 121; more take more memory" in shown
    assert (
        "  max_boxes: 121              # as many as 99 of 100 images here have\n" in (tmp_path / "my.yaml").read_text()
    )
    options: Any = load_config(tmp_path / "my.yaml").task.options
    assert (options.max_boxes, options.prediction.max_detections) == (121, 121)


def test_the_size_of_objects_is_a_share_of_the_longer_side(tmp_path: Path, photo: Write) -> None:
    for number in range(9):
        photo(tmp_path / f"data/images/p{number:02}.png", number, (40, 480))
    names = [f"p{n:02}.png" for n in range(9)]
    coco(tmp_path / "data/instances.json", names, [8, 8, 16, 25])
    text = (tmp_path / "data/instances.json").read_text()
    (tmp_path / "data/instances.json").write_text(text.replace('"width": 48', '"width": 480'))
    assert look_at(tmp_path / "data").relative_side == pytest.approx(20 / 480)


def voc(path: Path, name: str = "thing") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = "<xmin>9</xmin><ymin>9</ymin><xmax>24</xmax><ymax>24</ymax>"
    path.write_text(
        "<annotation><size><width>48</width><height>40</height></size>"
        f"<object><name>{name}</name><bndbox>{corners}</bndbox></object></annotation>"
    )


def test_pascal_voc_with_its_lists(photos: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    (photos / "images").rename(photos / "JPEGImages")
    for n in range(9):
        voc(photos / f"Annotations/p{n:02}.xml", "zebra" if n % 2 else "ant")
    (photos / "ImageSets/Main").mkdir(parents=True)
    for name, numbers in (("train", range(5)), ("val", (5, 6))):
        (photos / f"ImageSets/Main/{name}.txt").write_text("".join(f"p{n:02}\n" for n in numbers))
    shown = init(photos, "-o", tmp_path / "my.yaml").stdout
    assert f"boxes   {photos / 'Annotations'}: 9 images, detection/voc" in shown
    assert load_config(tmp_path / "my.yaml").data.class_names() == ("ant", "zebra")
    assert counts(tmp_path / "my.yaml") == {"labelled": 4, "unlabelled": 5, "validation": 2, "test": 1}


def test_voc_files_in_utf_16(photos: Path) -> None:
    for n in range(9):
        voc(photos / f"Annotations/p{n:02}.xml", "zébra")
    for path in sorted((photos / "Annotations").iterdir()):
        text = path.read_text()
        path.write_bytes(f'<?xml version="1.0" encoding="UTF-16"?>{text}'.encode("utf-16"))
    found = look_at(photos)
    assert (found.form.name, found.classes, len(found.labelled)) == ("voc", ("zébra",), 9)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_voc_files_that_declare_entities_are_not_expanded(photos: Path, encoding: str) -> None:
    for n in range(9):
        voc(photos / f"Annotations/p{n:02}.xml")
    head = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY x "yy">]>'
    text = (photos / "Annotations/p00.xml").read_text().replace("thing", "&x;&x;")
    (photos / "Annotations/p00.xml").write_bytes(f"{head}{text}".encode(encoding))
    with pytest.raises(DataError, match=r"p00\.xml cannot be read: it declares a document type"):
        look_at(photos)


def test_voc_files_beside_their_images(photos: Path) -> None:
    for n in range(9):
        voc(photos / f"images/p{n:02}.xml")
    found = look_at(photos)
    assert found.form.name == "voc" and len(found.labelled) == 9 and len(found.paths) == 14


def yolo(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{number} 0.333333 0.4 0.333333 0.4\n")


def test_yolo_with_names_in_a_file(photos: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    for n in range(9):
        yolo(photos / f"labels/p{n:02}.txt", n % 2)
    (photos / "labels/classes.txt").write_text("ant\nzebra\n")
    shown = init(photos, "-o", tmp_path / "my.yaml").stdout
    assert "warning: 5 images have no text file, and are taken for unlabelled ones; an empty file says" in shown
    assert load_config(tmp_path / "my.yaml").data.class_names() == ("ant", "zebra")
    assert counts(tmp_path / "my.yaml") == {"labelled": 6, "unlabelled": 5, "validation": 1, "test": 2}
    (photos / "labels/classes.txt").unlink()
    assert look_at(photos).classes == ("class 0", "class 1")


def test_yolo_with_a_data_file(photos: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    for n in range(9):
        part = "train" if n < 6 else "val"
        (photos / f"images/{part}").mkdir(exist_ok=True)
        (photos / f"images/p{n:02}.png").rename(photos / f"images/{part}/p{n:02}.png")
        yolo(photos / f"labels/{part}/p{n:02}.txt")
    (photos / "images/pool").mkdir()
    for n in range(9, 14):
        (photos / f"images/p{n:02}.png").rename(photos / f"images/pool/p{n:02}.png")
    (photos / "data.yaml").write_text("train: images/train\nval: images/val\ntest: images/gone\nnames: [ant]\n")
    shown = init(photos, "-o", tmp_path / "my.yaml").stdout
    assert "there is no folder" in shown, "the test part is told, and made of others"
    assert counts(tmp_path / "my.yaml") == {"labelled": 5, "unlabelled": 5, "validation": 3, "test": 1}
    assert "data: data/data.yaml" in (tmp_path / "my.yaml").read_text()
    (photos / "data.yaml").write_text("train: images/train\nnc: 2\nnames: [ant]\n")
    with pytest.raises(DataError, match="says that there are nc: 2 classes, and names 1"):
        look_at(photos)


def test_folders_called_as_parts_are_parts(photos: Path) -> None:
    for n in range(14):
        part = "train" if n < 6 else "val" if n < 8 else "unlabelled"
        (photos / f"images/{part}").mkdir(exist_ok=True)
        (photos / f"images/p{n:02}.png").rename(photos / f"images/{part}/p{n:02}.png")
        if n < 8:
            yolo(photos / f"labels/{part}/p{n:02}.txt")
    found = look_at(photos)
    parts = share_out(found)
    assert parts.ids["validation"] == ["val/p06", "val/p07"] and len(parts.ids["unlabelled"]) == 6


def test_several_forms_are_told(data: Path, mask: Write) -> None:
    for n in range(9):
        mask(data / f"masks/p{n:02}.png")
        yolo(data / f"labels/p{n:02}.txt")
    found = look_at(data)
    assert found.form.name == "masks"
    others = "boxes of COCO files (--format coco) or boxes of YOLO files (--format yolo)"
    assert found.warnings[0] == f"the masks were taken; there are also {others}"
    assert look_at(data, form="coco").form.name == "coco"
    assert look_at(data, form="yolo").sets[0].source["name"] == "detection/yolo"
    with pytest.raises(DataError, match=r"--format: .* holds no folder of Pascal VOC files .*; it holds: images/, "):
        look_at(data, form="voc")
    with pytest.raises(DataError, match="--masks masks goes with --format masks, not with --format coco"):
        look_at(data, masks="masks", form="coco")


def test_what_is_missing_is_explained(photos: Path) -> None:
    with pytest.raises(DataError, match=r"nor does it hold boxes: no COCO file \(annotations/\*\.json or \*\.json\)"):
        look_at(photos)
    coco(photos / "instances.json", ["other/a.png"])
    with pytest.raises(
        DataError, match=r"none of the images that .* lists is there, such as 'other/a.png'; looked in:"
    ):
        look_at(photos)
    with pytest.raises(DataError, match=r"--images gone: .* holds no such folder"):
        look_at(photos, images="gone")
    (photos / "instances.json").write_text('{"images": [{}], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match="is no COCO file of instances"):
        look_at(photos)
    (photos / "instances.json").write_text('{"images": [], "annotations": [], "categories": [')
    with pytest.raises(DataError, match=r"the annotations .*instances\.json cannot be read"):
        look_at(photos)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": [{"id": 1, "file_name": "a\0.png"}]},
            r"json: the image of the id 1 has the file_name 'a\\x00",
        ),
        ({"images": [{"id": 1, "file_name": "x" * 5000}]}, r"of the id 1 has the file_name 'x+'… of 5,000 characters"),
        ({"images": [{"id": 1, "file_name": "é" * 200}]}, r"none of the images that .* lists is there"),
        ({"images": None}, r"is no COCO file of instances \(LookupError\(\"it lacks 'images'\"\)\)"),
        ({"categories": []}, r"is no COCO file of instances \(KeyError\(0\)\)"),
    ],
)
def test_coco_files_that_cannot_be_used(data: Path, change: dict[str, Any], message: str) -> None:
    content = {**json.loads((data / "instances.json").read_text()), **change}
    content = {"note": {"images": 0}, **{key: value for key, value in content.items() if value is not None}}
    (data / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        look_at(data)


def test_what_is_nested_too_deeply_is_explained(data: Path) -> None:
    (data / "instances.json").write_text('{"images": [], "annotations": [], "categories": ' + "[" * 100_000)
    with pytest.raises(DataError, match=r"instances\.json cannot be read: maximum recursion depth exceeded.*, at char"):
        look_at(data)
    (data / "instances.json").unlink()
    (data / "data.yaml").write_text("names: " + "[" * 3000)
    with pytest.raises(DataError, match=r"data\.yaml cannot be read: its values are nested too deeply"):
        look_at(data, form="yolo")
    with pytest.raises(DataError, match="nor does it hold boxes"):
        look_at(data)


def test_labels_without_boxes_are_explained(data: Path) -> None:
    text = json.loads((data / "instances.json").read_text())
    for each in text["annotations"]:
        each["iscrowd"] = 1
    (data / "instances.json").write_text(json.dumps(text))
    with pytest.raises(DataError, match="hold no box of the classes thing: there is nothing to learn from"):
        look_at(data)
    (data / "instances.json").write_text(json.dumps({**text, "annotations": []}))
    with pytest.raises(DataError, match="there is not a single annotation"):
        look_at(data)


def test_images_of_one_name_are_explained(tmp_path: Path, photo: Write) -> None:
    for n, part in enumerate(("train", "val")):
        photo(tmp_path / part / "a.png", n)
        coco(tmp_path / part / "_annotations.coco.json", ["a.png"])
    with pytest.raises(DataError, match=r"train/a\.png and .*val/a\.png share the id 'a'.*; rename one"):
        look_at(tmp_path)


def test_parts_need_labels(data: Path) -> None:
    (data / "val.txt").write_text("p12\n")
    found = look_at(data)
    with pytest.raises(DataError, match=r"val\.txt: 'p12' of the validation images has no entry in .*instances\.json"):
        share_out(found)


def test_without_a_pool_boxes_are_hidden(data: Path, tmp_path: Path, fast: None, init: Init, counts: Counts) -> None:
    for number in range(9, 14):
        (data / f"images/p{number:02}.png").unlink()
    shown = init(data, "-o", tmp_path / "my.yaml").stdout
    assert "warning: there is no image without boxes, so half of the labelled images play" in shown
    assert counts(tmp_path / "my.yaml") == {"labelled": 3, "unlabelled": 3, "validation": 1, "test": 2}


def test_what_is_written_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: Init, request: pytest.FixtureRequest
) -> None:
    """A run in miniature is really made; the run itself is cut down to two steps."""
    assert init_command.SETTINGS["policy"] == "core/adaptive"
    backbone = {"name": "timm/test_resnet", "init": "random"}
    monkeypatch.setattr(init_command, "SETTINGS", {"backbone": backbone})
    found = look_at(data)
    parts = share_out(found)
    speed = really_measure(found, parts, (64, 64), {"task": "detection/retinanet", "backbone": backbone}, 0.0)
    assert min(speed.supervised, speed.joint, speed.labelling, speed.evaluating) > 0
    request.getfixturevalue("fast")  # only now: the measuring above was real
    init(data, "-o", tmp_path / "my.yaml", "--minutes", 5)
    overrides = ["backbone.name=timm/test_resnet", "backbone.init=random", "teacher.steps=2", "student.steps=2"]
    overrides += ["device.workers=0", "canvas=[64,64]"]
    summary = self_train(load_config(tmp_path / "my.yaml", overrides), tmp_path / "run", in_process=True)
    assert {model["name"] for model in summary["models"]} == {"teacher", "student", "baseline"}
