"""Looking at all labels before training: what is told, and what stops a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selftrain_core.checking import check_labels
from selftrain_core.config import DataConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.index import Index, write_index
from selftrain_core.labels import MaskLabels, ScoreStatistics
from selftrain_core.samples import HumanLabels
from selftrain_core.sources import ImageFolder, ImageFolderConfig
from selftrain_core.testing.fakes import PixelTask
from selftrain_core.testing.samples import write_images, write_masks

CLASSES = ("ground", "sky")
PARTS = {"labelled": 200, "validation": 3, "test": 2}
Told = list[str]


class Masks(ImageFolder):
    """Masks beside images, with remarks as told."""

    said: dict[str | None, list[str]]

    def read_labels(self, entry: Entry) -> MaskLabels:
        with Image.open(self.config.images.parent / "masks" / f"{entry.id}.png") as mask:
            return MaskLabels(np.array(mask))

    def remarks(self, entry: Entry | None) -> list[str]:
        return self.said.get(entry.id if entry else None, [])


class Places(PixelTask):
    """A task whose targets have no place for the labels of some images: the first that it is asked of."""

    overflowing: int = 0
    seen: int = 0

    def overflow(self, labels: Any) -> int:
        self.seen += 1
        return 5 + self.seen if self.seen <= self.overflowing else 0

    def overflow_advice(self, overflow: int) -> str:
        return f"set task.places to at least {100 + overflow}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    ids = [f"{part}/{number}" for part, count in PARTS.items() for number in range(count)] + ["pool/0"]
    write_images(folder / "images", ids, size=(4, 6))
    write_masks(folder / "masks", ids, 2, size=(4, 6))
    return folder


def check(
    data: Path, said: dict[str | None, list[str]], task: PixelTask | None = None, told: Told | None = None
) -> tuple[ScoreStatistics, Told]:
    sources: dict[str, DataSource] = {}
    for part in (*PARTS, "pool"):
        source = Masks(ImageFolderConfig(images=data / "images", list=_list(data, part)), CLASSES)
        source.said = {key: lines for key, lines in said.items() if part == "labelled" or key is not None}
        sources[part] = source
    raw: dict[str, Any] = {part: part for part in PARTS}
    choices = {part: {"name": "core/images", "images": "images"} for part in sources}
    config = DataConfig.model_validate({"classes": list(CLASSES), "sources": choices, "unlabelled": "pool", **raw})
    write_index(data / "index.arrow", config, sources)
    told = [] if told is None else told
    statistics = check_labels(
        HumanLabels(Index(data / "index.arrow"), sources),
        task or PixelTask(StrictModel(), CLASSES),
        (8, 8),
        allow_missing_classes=False,
        progress=lambda done, total: None,
        remark=told.append,
    )
    return statistics, told


def _list(data: Path, part: str) -> Path:
    path = data / f"{part}.txt"
    path.write_text("".join(f"{part}/{number}\n" for number in range(PARTS.get(part, 1))))
    return path


def test_without_remarks_nothing_is_told(data: Path) -> None:
    statistics, told = check(data, {})
    assert (statistics.num_images, told) == (200, [])


def test_a_part_to_measure_with_that_lacks_a_class_is_told(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for number in range(PARTS["test"]):
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(copy / f"masks/test/{number}.png")
    _, told = check(copy, {})
    assert told == [f"data.test shows no {CLASSES[1]}: its scores say nothing of that"]


def test_remarks_are_told_by_part_and_named_up_to_a_number(data: Path) -> None:
    many: dict[str | None, list[str]] = {
        f"labelled/{number}": ["box 1 is left out", "box 2 is clipped"] for number in range(100, 107)
    }
    _, told = check(data, {None: ["of no image"], "test/1": ["odd"], **many})
    first, second = told
    head, *lines, last = first.splitlines()
    assert head == "data.labelled: labels of 7 of 200 images were left out or changed"
    assert lines[0] == "  of no image", "once, not for every image"
    assert lines[1:3] == ["  'labelled/100': box 1 is left out", "  'labelled/100': box 2 is clipped"]
    assert (len(lines), last) == (10, "  and 5 more")
    assert second == "data.test: labels of 1 of 2 images were left out or changed\n  'test/1': odd"


def test_remarks_of_no_image_count_none(data: Path) -> None:
    _, told = check(data, {None: ["box 9 is of no image, and is left out"]})
    assert told[0] == "data.labelled: labels were left out or changed\n  box 9 is of no image, and is left out"


def test_a_few_images_with_too_many_labels_are_told(data: Path) -> None:
    task = Places(StrictModel(), CLASSES)
    task.overflowing = 2
    _, told = check(data, {}, task)
    (text,) = told
    assert text == (
        "2 of 200 images of data.labelled have more labels than their targets have places, 'labelled/1' by 7; what "
        "finds none is not trained on\n  set task.places to at least 107"
    )


def test_more_than_one_in_a_hundred_are_an_error_that_says_what_would_do(data: Path) -> None:
    task = Places(StrictModel(), CLASSES)
    task.overflowing = 3
    told: Told = []
    with pytest.raises(DataError) as error:
        check(data, {}, task, told)
    assert told == []
    assert str(error.value) == (
        "3 of 200 images of data.labelled have more labels than their targets have places, 'labelled/10' by 8\n"
        "  set task.places to at least 108"
    )


def test_a_part_that_shows_nothing_is_an_error_after_its_remarks(data: Path) -> None:
    told: Told = []

    class Nothing(PixelTask):
        def statistics(self, labels: Any, geometry: Any = None) -> ScoreStatistics:
            return ScoreStatistics.of(np.zeros(0, np.int64), None, 2)

    with pytest.raises(
        DataError, match=r"(?s)show none of .* ground, sky: .* all ignored, of crowds, empty, or those of"
    ):
        check(data, {"labelled/0": ["box 1 is left out"]}, Nothing(StrictModel(), CLASSES), told)
    assert told[0].endswith("'labelled/0': box 1 is left out")
