"""What the commands say to bad boxes: what is wrong, in which file, what to do. And nothing is lost.

The lines of the tables are mended one after the other in one run folder, and then the same command finishes there.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from selftrain.main import main
from selftrain_core.store import EMPTY, LABELLED, PseudoLabelStore

CLASSES = ["red", "green"]
TEACHER = Path("round-0/teacher")
LABELS = Path("round-1/pseudo-labels")
NAN = float("nan")


@dataclass
class Place:
    """Data that may be damaged, the settings of a run on it, and the run's folder."""

    data: Path
    run: Path
    settings: dict[str, Any]

    def image(self, part: str, number: int) -> Path:
        return self.data / "images" / part / f"{part}-{number}.png"

    def read(self, part: str) -> Any:
        return json.loads((self.data / f"{part}.json").read_text())

    def write(self, part: str, content: Any) -> Place:
        (self.data / f"{part}.json").write_text(json.dumps(content))
        return self

    def change(self, part: str, key: str, number: int, **values: Any) -> Place:
        """Change an element of a list of a COCO file."""
        content = self.read(part)
        content[key][number].update(values)
        return self.write(part, content)

    def set(self, key: str, value: Any) -> Place:
        *parents, leaf = key.split(".")
        node = self.settings
        for parent in parents:
            node = node[parent]
        node[leaf] = value
        return self

    def command(self, name: str = "teach") -> Result:
        config = self.data.parent / "config.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        return CliRunner().invoke(main, [name, str(config), "-o", str(self.run), "--in-process"])


MakeSettings = Callable[[Path], dict[str, Any]]


def new_place(folder: Path, pristine: Path, configure: MakeSettings) -> Place:
    data = Path(shutil.copytree(pristine, folder / "squares"))
    return Place(data, folder / "run", configure(data))


@pytest.fixture
def place(tmp_path: Path, shared_box_squares: Path, configure_boxes: MakeSettings) -> Place:
    return new_place(tmp_path, shared_box_squares, configure_boxes)


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture
def in_turn(table_run: Path, shared_box_squares: Path, configure_boxes: MakeSettings) -> Iterator[Place]:
    """Give the place that the lines of the tables damage and mend in turn."""
    yield new_place(table_run, shared_box_squares, configure_boxes)
    shutil.rmtree(table_run / "squares")


def assert_refused(result: Result, message: str) -> None:
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert re.search(message, result.stderr), result.stderr
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def assert_done(result: Result) -> None:
    assert result.exit_code == 0, (result.output, result.exception)


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def boxes(place: Place, part: str = "labelled", **values: Any) -> Place:
    """Change every annotation of a part."""
    content = place.read(part)
    for annotation in content["annotations"]:
        annotation.update(values)
    return place.write(part, content)


def spoil(place: Place) -> Place:
    """Give the first boxes one mistake each."""
    for number, (box, _) in enumerate(BAD_BOXES.values()):
        place.change("labelled", "annotations", number, bbox=box)
    return place


def undress(place: Place) -> Place:
    """Take the annotations of one labelled image out."""
    content = place.read("labelled")
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 1]
    return place.write("labelled", content)


def fill(place: Place) -> Place:
    """Give one labelled image 1,500 boxes."""
    content = place.read("labelled")
    content["annotations"] += [
        {"id": 1000 + n, "image_id": 1, "category_id": 7 + n % 2, "bbox": [n % 40, n // 40, 4, 4]} for n in range(1498)
    ]
    return place.write("labelled", content)


def source(place: Place, **settings: Any) -> Place:
    """Change settings of the source of the labelled images; a new name changes all."""
    old = place.settings["data"]["sources"]["labelled"]
    kept = {"images": old["images"]} if "name" in settings else old
    place.settings["data"]["sources"]["labelled"] = {**kept, **settings}
    return place


def voc(place: Place, text: str | None = None) -> Place:
    """Take the labels from the VOC files, one of which may say something else."""
    source(place, name="detection/voc", annotations=f"{place.data}/voc")
    if text is not None:
        (place.data / "voc/labelled-1.xml").write_text(text)
    return place


def yolo(place: Place, text: str | None = None, names: list[str] = CLASSES) -> Place:
    """Take the labels from the YOLO files, one of which may say something else."""
    source(place, name="detection/yolo", labels=f"{place.data}/yolo", names=names)
    if text is not None:
        (place.data / "yolo/labelled-1.txt").write_text(text)
    return place


Damage = Callable[[Place], Place]
BAD_BOXES: dict[str, tuple[list[float], str]] = {
    "outside": ([100, 3, 4, 5], r"\[100, 3, 4, 5\] {} lies outside of the image, 48×40 pixels"),
    "inverted": ([20, 20, -4, 3], r"\[20, 20, -4, 3\] {} is inside out: it ends before it begins"),
    "NaN": ([NAN, 1, 2, 3], r"\[nan, 1, 2, 3\] {} is not made of four finite numbers"),
    "zero area": ([3, 3, 0, 5], r"\[3, 3, 0, 5\] {} has no area"),
}
FORM = r"\(x, y, width, height\)"
FORM_OF_1 = rf"{FORM} of 'labelled-1'"
FILES = r"\n  \('labelled-1' of data\.labelled, .*labelled-1\.png and .*{}; take it out of its list, or mend it\)"
NOTHING = (
    r"the 4 images of data\.labelled show none of the classes red, green: there is nothing to learn from\n"
    r"  look at their label files: they may be all ignored, of crowds, empty, or those of other images"
)
DAMAGE: dict[str, tuple[Damage, str]] = {
    "an annotation for an absent image": (
        lambda p: p.change("labelled", "annotations", 3, image_id=99),
        (
            r"labelled\.json: annotation 3 is of the image 99, which 'images' does not hold; add the image, or set "
            r"bad_boxes: drop to leave out such"
        ),
    ),
    "an image without annotation, where that is an error": (
        lambda p: source(undress(p), unannotated="error"),
        r"labelled\.json has no annotation of 'labelled-1'; set unannotated: negative if .*, or unannotated: skip to "
        r"pass them over" + FILES.format(r"labelled\.json"),
    ),
    **{
        name: (
            lambda p, box=box: p.change("labelled", "annotations", 3, bbox=box),  # type: ignore[misc]
            rf"labelled\.json: annotation 3 with the bbox {text.format(FORM_OF_1)}; mend it, or set "
            r"bad_boxes: drop to leave such out" + FILES.format(r"labelled\.json"),
        )
        for name, (box, text) in BAD_BOXES.items()
    },
    "an unknown category": (
        lambda p: p.change("labelled", "annotations", 3, category_id=9),
        r"labelled\.json: annotation 3 has the category_id 9, which is no category's; categories: 7 \(red\), 8 ",
    ),
    "two images of one id": (
        lambda p: p.change("labelled", "images", 3, id=1),
        r"labelled\.json has two images of the id 1, 'labelled-1\.png' and 'labelled-3\.png'; ids are to differ",
    ),
    "a file_name that climbs out": (
        lambda p: p.change("labelled", "images", 3, file_name="../val/val-0.png"),
        (
            r"labelled\.json: images\[3\] \(id 3\) has the file_name '\.\./val/val-0\.png', which leads out of "
            r"the folder 'images'; it is to be a path below it"
        ),
    ),
    "1,500 boxes": (
        fill,
        (
            r"1 of 4 images of data\.labelled have more labels than their targets have places, 'labelled-1' by 1,400\n"
            r"  task\.max_boxes: 1500\n"
        ),
    ),
    "no class of the run": (
        lambda p: p.set("data.classes", ["rot", "grün"]),
        (
            r"labelled\.json has no class of data\.classes; rename its classes by classes_as: .*\n"
            r"  its classes: red, green\n  data\.classes: rot, grün\n"
        ),
    ),
    "a class that the run lacks": (
        lambda p: p.set("data.classes", ["red", "gren"]),
        (
            r"annotation 1 is of the class 'green', not among data\.classes \(did you mean 'gren'\?\); add it to "
            r"data\.classes, .* classes_as: \{green: gren\}\n  its classes: red, green\n  data\.classes: red, gren\n"
        ),
    ),
    "a class too many": (
        lambda p: p.set("data.classes", [*CLASSES, "blue"]),
        r"no labelled image shows: blue\n.*: red, green\n.*data\.allow_missing_classes: true",
    ),
    "nothing but crowds": (lambda p: boxes(p, iscrowd=1), NOTHING),
    "nothing but dropped boxes": (
        lambda p: source(boxes(p, bbox=[100, 3, 4, 5]), bad_boxes="drop"),
        rf"annotation 7 .* lies outside of the image, 48×40 pixels, and is left out\nerror: {NOTHING}",
    ),
    "nothing but boxes of a class that is ignored": (
        lambda p: source(boxes(p, category_id=7), ignore_classes=["red"]),
        NOTHING,
    ),
    "all classes ignored": (
        lambda p: source(p, ignore_classes=CLASSES),
        (
            r"labelled\.json has no class of data\.classes but those that ignore_classes leaves out: red, green; take "
            r"one out of ignore_classes\n  its classes: red, green\n  data\.classes: red, green\n"
        ),
    ),
    "nothing to validate with": (
        lambda p: boxes(p, "val", iscrowd=1),
        r"the 2 images of data\.validation show none of the classes red, green: there is nothing to measure with\n",
    ),
    "malformed XML": (
        lambda p: voc(p, "<annotation>\n<object>"),
        r"voc/labelled-1\.xml cannot be read: it is no XML \(no element found: line 2, column 8\)"
        + FILES.format(r"voc/labelled-1\.xml"),
    ),
    "a malformed line": (
        lambda p: yolo(p, "0 .5 .5 .2 .2\n1 .5 x .2 .2\n"),
        r"yolo/labelled-1\.txt, line 2: '1 \.5 x \.2 \.2' is not made of numbers; a line is 'class x y width height'.*"
        + FILES.format(r"yolo/labelled-1\.txt"),
    ),
    "names that the run lacks": (
        lambda p: yolo(p, names=["rot", "blau"]),
        r"no class of data\.classes; rename .*\n  its classes: rot, blau\n  data\.classes: red, green\n",
    ),
}


@pytest.mark.parametrize("line", DAMAGE)
def test_bad_boxes_are_refused_before_the_first_step(in_turn: Place, line: str) -> None:
    damage, message = DAMAGE[line]
    damage(in_turn)
    assert_refused(in_turn.command(), message)
    assert not (in_turn.run / TEACHER / "metrics.jsonl").exists()


def test_once_mended_the_same_command_finishes(in_turn: Place, shared_box_squares: Path) -> None:
    in_turn.change("labelled", "annotations", 3, bbox=[100, 3, 4, 5])
    assert_refused(in_turn.command(), "annotation 3")
    shutil.copy2(shared_box_squares / "labelled.json", in_turn.data)
    assert_done(in_turn.command())


DROPPED = "\n".join(
    rf"  'labelled-{n // 2}': annotation {n} with the bbox {text.format(FORM)}, and is left out"
    for n, (_, text) in enumerate(BAD_BOXES.values())
)
ACCEPTED: dict[str, tuple[Damage, str | None]] = {
    "an image without annotation": (undress, None),
    "boxes that are left out": (
        lambda p: source(spoil(p), bad_boxes="drop"),
        rf"data\.labelled: labels of 2 of 4 images were left out or changed\n{DROPPED}\n",
    ),
    "an annotation for an absent image that is left out": (
        lambda p: source(p.change("labelled", "annotations", 3, image_id=99), bad_boxes="drop"),
        (
            r"data\.labelled: labels were left out or changed\n  .*labelled\.json: annotation 3 is of the image 99, "
            r"which 'images' does not hold, and is left out\n"
        ),
    ),
    "1,500 boxes that find room": (lambda p: fill(p).set("task.max_boxes", 1500), None),
    "VOC": (voc, None),
    "YOLO": (yolo, None),
}


@pytest.mark.parametrize("line", ACCEPTED)
def test_the_run_goes_on_and_says_what_it_left_out(place: Place, line: str) -> None:
    change, note = ACCEPTED[line]
    change(place).set("teacher.human", 4)  # all labelled images in one step
    result = place.command()
    assert_done(result)
    assert ("left out" in result.output) == (note is not None), result.output
    assert re.search(note or "", result.output), result.output


def test_a_finished_teacher_is_kept(place: Place, shared_box_squares: Path) -> None:
    """Boxes of the test images go bad, and a whole file, once there is a teacher."""
    assert_done(place.command())
    teacher = content_of(place.run / TEACHER)
    place.change("test", "annotations", 1, bbox=[3, 3, 0, 5])
    message = r"test\.json: annotation 1 with the bbox .* of 'test-0' has no area; mend it, or set bad_boxes: drop"
    assert_refused(place.command("run"), message)
    place.change("labelled", "images", 3, file_name="../val/val-0.png")
    assert_refused(place.command("run"), "leads out of the folder 'images'")
    for name in ("test.json", "labelled.json"):
        shutil.copy2(shared_box_squares / name, place.data)
    result = place.command("run")
    assert_done(result)
    assert "round-0/teacher: skipped" in result.output
    assert content_of(place.run / TEACHER).items() >= teacher.items()


def test_pool_images_below_the_floor_are_kept_as_images_of_nothing(place: Place) -> None:
    place.set("task.prediction", {"floor": 0.9})  # no box of a teacher of one step
    place.set("policy.threshold", 0.95)
    place.set("student.negatives", False)
    message = (
        r"the policy keeps nothing of what the teacher saw in 4 images, and student\.negatives is false: .*\n"
        r"  lower the policy's threshold, .*, or set student\.negatives: true"
    )
    assert_refused(place.command("learn"), message)
    finished = content_of(place.run / TEACHER) | content_of(place.run / LABELS)
    store = PseudoLabelStore(place.run / LABELS, CLASSES)
    assert store.manifest["states"] == {EMPTY: 4}
    assert store.usable_ids() == {f"pool-{number}" for number in range(4)}
    assert store.row("pool-0")["boxes"] == []
    place.set("student.negatives", True)
    assert_done(place.command("learn"))
    assert content_of(place.run).items() >= finished.items()


def test_images_of_40_megapixels_are_learnt_from_and_labelled(place: Place) -> None:
    for part in ("labelled", "pool"):
        place.image(part, 0).unlink()
        Image.new("RGB", (8000, 5000), (99, 9, 9)).save(place.image(part, 0).with_suffix(".jpg"))
    place.change("labelled", "images", 0, file_name="labelled-0.jpg", width=8000, height=5000)
    place.change("labelled", "annotations", 0, bbox=[100, 200, 4000, 3000])
    place.set("teacher.human", 4)
    place.set("task.prediction", {"floor": 0})
    began = time.monotonic()
    assert_done(place.command("learn"))
    assert time.monotonic() - began < 60
    store = PseudoLabelStore(place.run / LABELS, CLASSES)
    assert store.manifest["states"] == {LABELLED: 4}
    row = store.row("pool-0")
    assert (row["height"], row["width"]) == (5000, 8000)
    assert np.max(row["boxes"]) > 4000, "boxes lie in the pixels of the image"
