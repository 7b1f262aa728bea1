"""What ``selftrain run`` says to bad input: what is wrong, in which file, what to do. And nothing is lost.

The lines of the table are mended one after the other in one run folder, and then the same command finishes there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from selftrain.main import main
from selftrain_core import checking
from selftrain_core.config import RunConfig, dump_config
from selftrain_core.store import PseudoLabelStore
from selftrain_segmentation.task import SegmentationTask

MakeConfig = Callable[..., RunConfig]
CLASSES = ("ground", "red", "green")
SHORT: dict[str, Any] = {
    "teacher": {"steps": 2, "human": 2},
    "student": {"steps": 2, "human": 2, "pseudo": 2, "max_skipped_steps": 2},
    "baseline": False,
}


@dataclass
class Place:
    """Data that may be damaged, the settings of a run on it, and the run's folder."""

    data: Path
    run: Path
    settings: dict[str, Any]

    def image(self, id_: str) -> Path:
        return self.data / "images" / f"{id_}.png"

    def mask(self, id_: str) -> Path:
        return self.data / "masks" / f"{id_}.png"

    def list(self, name: str) -> Path:
        return self.data / "splits" / f"{name}.txt"

    def set(self, key: str, value: Any) -> None:
        *parents, leaf = key.split(".")
        node = self.settings
        for parent in parents:
            node = node[parent]
        node[leaf] = value

    def command(self, *more: str) -> Result:
        config = self.data.parent / "config.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        return CliRunner().invoke(main, ["run", str(config), "-o", str(self.run), "--in-process", *more])


def new_place(folder: Path, pristine: Path, configure: MakeConfig) -> Place:
    data = Path(shutil.copytree(pristine, folder / "squares"))
    return Place(data, folder / "run", yaml.safe_load(dump_config(configure(data, **SHORT))))


@pytest.fixture
def place(tmp_path: Path, shared_squares: Path, configure: MakeConfig) -> Place:
    return new_place(tmp_path, shared_squares, configure)


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture
def in_turn(table_run: Path, shared_squares: Path, configure: MakeConfig) -> Iterator[Place]:
    """Give the place that the lines of the table damage and mend in turn."""
    yield new_place(table_run, shared_squares, configure)
    shutil.rmtree(table_run / "squares")


def assert_refused(result: Result, code: int, message: str) -> None:
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert re.search(message, result.stderr), result.stderr
    assert result.exit_code == code
    assert "Traceback" not in result.output


def assert_finished(result: Result, run: Path) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:70])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def write_bomb(path: Path) -> None:
    """Write a PNG of a kilobyte that claims to be 60,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def fill_mask(path: Path, value: int) -> None:
    with Image.open(path) as mask:
        size = mask.size
    Image.new("L", size, value).save(path)


def ignore_all(place: Place, name: str) -> None:
    for id_ in place.list(name).read_text().split():
        fill_mask(place.mask(id_), 255)


def copy_image(place: Place, source: str, target: str) -> None:
    shutil.copy(place.image(source), place.image(target))


def copy_pair(place: Place, source: str, target: str) -> None:
    copy_image(place, source, target)
    shutil.copy(place.mask(source), place.mask(target))


def rename_in_bytes(place: Place) -> None:
    os.rename(place.image("pool-1"), os.fsencode(place.data / "images") + b"/pool-\xe9.png")  # noqa: PTH104
    place.set("data.sources.pool", {"name": "core/images", "images": str(place.data / "images")})


def empty_folder(place: Place) -> None:
    (place.data / "none").mkdir()
    place.set("data.sources.pool", {"name": "core/images", "images": str(place.data / "none")})


MEND = r"; take it out of its list, or mend it\)"
LABELLED = rf"\n  \('labelled-1' of data\.labelled, .*labelled-1\.png and .*labelled-1\.png{MEND}"
DAMAGE: dict[str, tuple[Callable[[Place], Any], str]] = {
    # images
    "zero bytes": (
        lambda p: p.image("labelled-1").write_bytes(b""),
        rf"images/labelled-1\.png cannot be read: it is empty{LABELLED}",
    ),
    "truncated": (
        lambda p: truncate(p.image("labelled-1")),
        rf"images/labelled-1\.png cannot be read: image file is truncated.*{LABELLED}",
    ),
    "no image": (
        lambda p: p.image("labelled-1").write_text("hello"),
        rf"labelled-1\.png cannot be read: it is in no image format that Pillow knows{LABELLED}",
    ),
    "bomb": (
        lambda p: write_bomb(p.image("labelled-1")),
        rf"labelled-1\.png cannot be read: it claims to be larger than \d+ pixels; scale it down.*{LABELLED}",
    ),
    "a bad image to validate with": (
        lambda p: p.image("val-1").write_bytes(b""),
        rf"val-1\.png cannot be read: it is empty\n  \('val-1' of data\.validation, .*{MEND}",
    ),
    "no such image": (
        lambda p: p.image("labelled-1").unlink(),
        r"splits/labelled\.txt names 'labelled-1', but .*images holds no such image",
    ),
    "a name that is no text": (
        rename_in_bytes,
        r"the folder .*images holds a file whose name is not valid UTF-8, b'pool-\\xe9\.png'; rename it",
    ),
    # masks
    "mask of another size": (
        lambda p: Image.new("L", (12, 10)).save(p.mask("labelled-1")),
        rf"the mask is 12×10 pixels, its image 48×40 pixels; a mask has its image's size.*{LABELLED}",
    ),
    "class out of range": (
        lambda p: fill_mask(p.mask("labelled-1"), 7),
        rf"masks/labelled-1\.png holds the value 7; with 3 classes values are 0 to 2, and 255 .*red, green{LABELLED}",
    ),
    "missing mask": (
        lambda p: p.mask("labelled-1").unlink(),
        rf"the mask .*masks/labelled-1\.png does not exist; .*{LABELLED}",
    ),
    "zero bytes of mask": (
        lambda p: p.mask("test-1").write_bytes(b""),
        rf"the mask .*test-1\.png cannot be read: it is empty\n  \('test-1' of data\.test, .*{MEND}",
    ),
    "nothing but ignored pixels": (
        lambda p: ignore_all(p, "labelled"),
        r"the 6 images of data\.labelled show none of .* ground, red, green: there is nothing to learn from\n  look at",
    ),
    "nothing to validate with": (
        lambda p: ignore_all(p, "val"),
        r"the 4 images of data\.validation show none of the classes .*: there is nothing to measure with",
    ),
    "a class too many": (
        lambda p: p.set("data.classes", [*CLASSES, "blue"]),
        r"no labelled image shows: blue\n.*ground, red, green\n.*data\.allow_missing_classes: true",
    ),
    # parts
    "empty labelled list": (
        lambda p: p.list("labelled").write_text("\n"),
        r"the list .*splits/labelled\.txt is empty; it is to name an image in each line",
    ),
    "empty labelled set": (
        lambda p: p.set("data.labelled", "labelled - labelled"),
        r"data\.labelled: 'labelled - labelled' holds no image",
    ),
    "empty pool": (
        lambda p: p.set("data.unlabelled", "pool - pool"),
        r"data\.unlabelled: 'pool - pool' holds no image",
    ),
    "empty pool folder": (empty_folder, r"the folder .*none holds no image \(\.bmp, "),
    "no pool folder": (
        lambda p: p.set("data.sources.pool.images", str(p.data / "imags")),
        r"the image folder .*imags does not exist",
    ),
    "a list that is a folder": (
        lambda p: replace_by_folder(p.list("pool")),
        r"the list .*pool\.txt cannot be read: Is a directory",
    ),
    "a list that is no text": (
        lambda p: p.list("pool").write_bytes(bytes(range(256))),
        r"the list .*pool\.txt cannot be read: it is no text in UTF-8",
    ),
    "an id in two splits": (
        lambda p: p.list("val").write_text("val-0\nlabelled-1\n"),
        r"'labelled-1' is both in data\.labelled and in data\.validation \(1 image is\).*\n.*: 'labelled - val'",
    ),
    "pool holding validation images": (
        lambda p: p.list("pool").write_text("pool-0\nval-1\nval-2\n"),
        r"'val-1' is both in data\.unlabelled and in data\.validation \(2 images are\).*\n.*unlabelled: 'pool - val'",
    ),
    "pool holding test images": (
        lambda p: p.list("pool").write_text("pool-0\ntest-1\n"),
        r"'test-1' is both in data\.unlabelled and in data\.test .*\n.*unlabelled: 'pool - test'",
    ),
    "one picture in two parts": (
        lambda p: copy_pair(p, "val-0", "labelled-2"),
        r"'val-0' of data\.validation and 'labelled-2' of data\.labelled are the same picture; take one out",
    ),
    # components
    "a policy for no class": (
        lambda p: p.set("policy", {"name": "core/per-class", "thresholds": {"gren": 0.5}}),
        r"policy\.thresholds names 'gren', which is no class \(did you mean 'green'\?\); classes: ground, red, green",
    ),
    "no such backbone": (
        lambda p: p.set("backbone", {"name": "timm/test_resnt"}),
        r"test_resnt.*\(did you mean",
    ),
    "no such accelerator": (
        lambda p: p.set("device.accelerator", "gpu"),
        r"no accelerator is called 'gpu'\n  available: .*core/cpu",
    ),
}


@pytest.mark.parametrize("line", DAMAGE)
def test_damaged_data(in_turn: Place, line: str) -> None:
    damage, message = DAMAGE[line]
    damage(in_turn)
    assert_refused(in_turn.command(), 2, message)
    assert not (in_turn.run / "round-0/teacher/metrics.jsonl").exists(), "it is said before the first step"


def test_once_mended_the_same_command_finishes(in_turn: Place) -> None:
    in_turn.image("labelled-1").write_bytes(b"")
    assert_refused(in_turn.command(), 2, "labelled-1")
    in_turn.image("labelled-1").write_bytes(in_turn.image("labelled-0").read_bytes())
    in_turn.mask("labelled-1").write_bytes(in_turn.mask("labelled-0").read_bytes())
    assert_finished(in_turn.command(), in_turn.run)


def test_bad_images_in_the_pool_are_skipped_and_listed(place: Place) -> None:
    """And odd ones are used: a pixel, a line, 40 megapixels, fewer images than a step has."""
    place.image("pool-1").write_bytes(b"")
    truncate(place.image("pool-2"))
    write_bomb(place.image("pool-3"))
    place.image("pool-4").write_text("hello")
    copy_image(place, "val-1", "pool-5")
    for id_, size in (("pool-6", (1, 1)), ("pool-7", (3000, 1)), ("pool-8", (8000, 5000)), ("labelled-0", (1, 1))):
        Image.new("RGB", size, (99, 9, 9)).save(place.image(id_), compress_level=1)
    Image.new("L", (1, 1), 1).save(place.mask("labelled-0"))
    place.list("labelled").write_text("labelled-0")
    place.list("val").write_text("val-1")
    place.list("pool").write_text("\n".join(f"pool-{number}" for number in range(1, 9)))
    place.set("data.allow_missing_classes", True)
    place.set("student.pseudo", 5)
    summary = assert_finished(place.command(), place.run)
    store = PseudoLabelStore(place.run / "round-1/pseudo-labels", CLASSES)
    found = {failure["id"]: (failure["state"], failure["reason"]) for failure in store.manifest["failures"]}
    assert [found.pop(f"pool-{n}")[0] for n in range(1, 5)] == ["unreadable"] * 4
    assert found == {"pool-5": ("leak", "its bytes equal those of the held-out image 'val-1'")}
    assert store.usable_ids() == {"pool-6", "pool-7", "pool-8"}
    assert (summary["labelling"]["states"]["unreadable"], summary["labelling"]["states"]["leak"]) == (4, 1)
    assert "4 unreadable" in (place.run / "summary.md").read_text()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p, id_: p.image(id_).write_bytes(b""),
            "10 unreadable\n.*'pool-0': .*pool-0.png cannot be read: it is emp",
        ),
        (lambda p, id_: copy_image(p, "test-0", id_), "10 leak\n.*'pool-0': its bytes equal .*held-out image 'test-0'"),
    ],
    ids=["unreadable", "leaks"],
)
def test_a_pool_of_no_use_stops_the_run_before_the_student(
    place: Place, shared_squares: Path, spoil: Callable[[Place, str], Any], message: str
) -> None:
    for number in range(10):
        spoil(place, f"pool-{number}")
    expected = (
        rf"none of the 10 images of data\.unlabelled can be used: {message}.*\n  mend the images, .*teacher is kept"
    )
    assert_refused(place.command(), 2, expected)
    assert not (place.run / "round-1/student").exists()
    teacher = (place.run / "round-0/teacher/stage.json").stat()
    for number in range(10):
        shutil.copy2(shared_squares / "images" / f"pool-{number}.png", place.image(f"pool-{number}"))
    assert_finished(place.command(), place.run)
    assert (place.run / "round-0/teacher/stage.json").stat().st_mtime_ns == teacher.st_mtime_ns


def test_one_class_only(place: Place) -> None:
    place.set("data.classes", ["ground"])
    assert_refused(
        place.command(), 2, r"data\.classes names 'ground' alone, so there is nothing to tell apart; add a class"
    )


def test_nan_in_the_pseudo_half(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = SegmentationTask.losses
    with monkeypatch.context() as patch:

        def broken(self: SegmentationTask, outputs: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
            nan_B = torch.tensor([0.0, 0.0, float("nan"), 0.0])[: len(outputs)]  # the third is the pseudo half's first
            return {name: loss_B + nan_B for name, loss_B in losses(self, outputs, targets).items()}

        patch.setattr(SegmentationTask, "losses", broken)
        expected = (
            r"round-1/student: the loss or its gradient was not finite for 2 steps in a row, up to step 1 "
            r"\(human loss \d[^,]*, pseudo loss nan, gradient norm \S+\)\n  the batch is in (.*\.pt)\n  what"
        )
        result = place.command()
        assert_refused(result, 4, expected)
    saved = re.search(expected, result.stderr)
    assert saved is not None
    batches = torch.load(saved[1], weights_only=True)
    assert np.isfinite(batches[0]["image_B3HW"].numpy()).all()
    assert_finished(place.command(), place.run)


def test_checking_many_labels_says_how_far_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "IMAGES_PER_REPORT", 5)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "selftrain_core.stage_context.StageContext.tell_progress",
        lambda self, text, done, total: told.append((done, total)) if text.startswith("checking") else None,
    )
    place.mask("test-4").unlink()
    assert_refused(place.command(), 2, r"test-4\.png does not exist")
    assert told == [(5, 15), (10, 15)]
