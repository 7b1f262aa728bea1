from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from selftrain import preview_grid
from selftrain.main import main
from selftrain.preview_grid import GAP
from selftrain_core.augmentation import NoAugmentation
from selftrain_core.batch import Batch, Targets
from selftrain_core.components import build_augmentation, build_task
from selftrain_core.config_model import AugmentationChoice, StrictModel, TaskChoice
from selftrain_core.keys import fold, name_key

Write = Callable[..., None]
CELL = 256
"""Height and width of a cell for the canvas of 64, enlarged."""


def preview(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["augment", "preview", "--canvas", "64,64", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image)


def is_in(colour: tuple[int, int, int], picture: NDArray[np.uint8]) -> bool:
    return bool((picture == colour).all(-1).any())


@pytest.fixture
def masks(tmp_path: Path, photo: Write, mask: Write) -> Path:
    """Return a folder of 5 images of which 4 have masks."""
    folder = tmp_path / "data"
    for number in range(5):
        photo(folder / f"images/p{number}.png", number)
        if number < 4:
            mask(folder / f"masks/p{number}.png")
    (folder / "classes.txt").write_text("ground\nthing\n")
    return folder


@pytest.fixture
def boxes(tmp_path: Path, photo: Write) -> Path:
    """Return a folder of 3 images with a COCO file; each has a box, and a crowd, which is ignored."""
    names = [f"p{number}.png" for number in range(3)]
    for number, name in enumerate(names):
        photo(tmp_path / "data/images" / name, number)
    images = [{"id": n, "file_name": name, "height": 40, "width": 48} for n, name in enumerate(names)]
    annotations = [
        {"id": 2 * n + crowd, "image_id": n, "category_id": 1, "bbox": box, "iscrowd": crowd}
        for n in range(3)
        for crowd, box in enumerate(([8, 8, 16, 16], [30, 20, 14, 14]))
    ]
    text = json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]})
    (tmp_path / "data/instances.json").write_text(text)
    return tmp_path / "data"


@pytest.fixture
def photos(tmp_path: Path, photo: Write) -> Path:
    """Return a folder of 3 images without labels."""
    for number, name in enumerate(("a.png", "deep/b.png", "deep/c.jpg")):
        photo(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def configuration(data: Path, **settings: Any) -> Path:
    """Write the configuration of a run with masks beside `data`."""
    images, mask_folder = str(data / "images"), str(data / "masks")
    (data / "labelled.txt").write_text("p1\np3\np4\n")
    raw = {
        "canvas": [32, 96],
        "task": "segmentation/semantic",
        "data": {
            "sources": {
                "all": {"name": "segmentation/index-masks", "images": images, "masks": mask_folder},
                "part": {"name": "core/images", "images": images, "list": str(data / "labelled.txt")},
                "gone": {"name": "core/images", "images": "nowhere"},
            },
            "classes": ["ground", "thing"],
            "labelled": "all - part",
            "unlabelled": "gone",
            "validation": "gone",
            "test": "gone",
        },
        **settings,
    }
    path = data.parent / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


class Spy(NoAugmentation):
    """Notes what it is given; of a canvas that is `oversample` times as large it takes every so many-th pixel."""

    oversample = 2
    given: list[tuple[tuple[int, ...], int]]

    def __init__(self) -> None:
        super().__init__(StrictModel())
        self.given = []

    def remarks(self, *, has_boxes: bool) -> list[str]:
        return [] if has_boxes else ["without boxes half of it does nothing"]

    def parameters(self, batch: Batch, key_B: torch.Tensor) -> dict[str, torch.Tensor]:
        self.given.append((tuple(batch.image_B3HW.shape), int(key_B)))
        return {}

    def replay(self, batch: Batch, parameters: Mapping[str, torch.Tensor]) -> Batch:
        same, step = super().replay(batch, parameters), self.oversample
        targets = same.targets
        if targets.mask_BHW is not None:
            targets = replace(targets, mask_BHW=targets.mask_BHW[:, ::step, ::step])
        image_B3HW = same.image_B3HW[:, :, ::step, ::step]
        return replace(same, image_B3HW=image_B3HW, valid_B2=-(-same.valid_B2 // step), targets=targets)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(preview_grid, "build_augmentation", lambda _: spy)
    return spy


def test_masks_are_drawn_on_images_and_draws(masks: Path, tmp_path: Path) -> None:
    path = tmp_path / "new/grid.png"
    result = preview(masks, "--policy", "s1", "-o", path, "--images", 3, "--draws", 2, "--seed", 7, "--json")
    told = json.loads(result.stdout)
    assert told["augmentation"]["name"] == "augment/s1" and told["task"] == "segmentation/semantic"
    assert (told["canvas"], told["seed"], told["draws"], told["remarks"]) == ([64, 64], 7, 2, [])
    assert [image["id"] for image in told["images"]] == ["p0", "p1", "p3"], "evenly spread, and labelled"
    assert told["path"] == str(path) and [file.name for file in path.parent.iterdir()] == ["grid.png"]
    picture = read(path)
    assert picture.shape[1] == GAP + 3 * (CELL + GAP)
    first, *rest = (picture[:, GAP + n * (CELL + GAP) :][:, :CELL] for n in range(3))
    assert not any(np.array_equal(first, each) for each in rest)
    thing = build_task(TaskChoice.of("segmentation/semantic"), ("ground", "thing")).legend()[1][1]
    assert all(is_in(thing, cells[:-40]) for cells in (first, *rest)), "outlines"


def test_there_is_a_row_for_each_image_and_a_column_for_each_draw(masks: Path, tmp_path: Path) -> None:
    def shape(images: int, draws: int) -> tuple[int, int]:
        path = tmp_path / f"{images}-{draws}.png"
        result = preview(masks, "--policy", "core/none", "-o", path, "--images", images, "--draws", draws)
        assert result.stdout == f"{path}: {images:,} images, {draws} draws of core/none each\n"
        height, width, _ = read(path).shape
        return height, width

    (one, narrow), (two, wide), (three, _) = shape(1, 1), shape(2, 3), shape(3, 1)
    assert narrow == GAP + 2 * (CELL + GAP) and wide == GAP + 4 * (CELL + GAP)
    assert three - two == two - one and CELL + GAP < two - one < CELL + GAP + 40, "a cell, and the image's name"


def test_boxes_and_ignored_regions_are_drawn(boxes: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    told = json.loads(preview(boxes, "--policy", "none", "-o", path, "--draws", 1, "--json").stdout)
    assert told["augmentation"] == {"name": "core/none"} and told["task"] == "detection/retinanet"
    assert len(told["images"]) == 3, "there are no more"
    picture = read(path)
    columns = [picture[:, GAP + n * (CELL + GAP) :][:, :CELL] for n in range(2)]
    task = build_task(TaskChoice.of("detection/retinanet"), ("square",))
    assert all(is_in(task.legend()[0][1], cells[:-40]) for cells in columns)
    assert all(is_in((190, 190, 190), cells[:-40]) for cells in columns), "the crowd"


def test_ignored_pixels_differ_from_every_class() -> None:
    image = np.full((40, 40, 3), 220, np.uint8)
    colours = np.array([[0, 0, 0], [250, 0, 0]])
    drawn = [preview_grid._tinted(image, np.full((40, 40), value, np.uint8), colours) for value in (0, 1, 255)]
    assert len({each[20, 20:22].tobytes() for each in drawn}) == 3
    assert len(np.unique(drawn[2].reshape(-1, 3), axis=0)) == 2, "hatched"
    assert all(len(np.unique(each.reshape(-1, 3), axis=0)) == 1 for each in drawn[:2])


def test_images_without_labels_are_shown_as_they_are(photos: Path, tmp_path: Path) -> None:
    path = photos / "grid.png"
    told = json.loads(preview(photos, "--policy", "s1", "-o", path, "--draws", 1, "--json").stdout)
    assert told["task"] is None and [image["id"] for image in told["images"]] == ["a", "deep/b", "deep/c"]
    again = json.loads(preview(photos, "--policy", "s1", "-o", path, "--draws", 1, "--json", "--overwrite").stdout)
    assert again == told, "what was written is no input"
    one = json.loads(preview(photos / "a.png", "--policy", "s1", "-o", tmp_path / "one.png", "--json").stdout)
    assert [image["id"] for image in one["images"]] == ["a"]


def test_over_each_cell_stands_what_was_drawn(masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[Any] = []
    sheet = preview_grid._sheet

    def kept(title: str, columns: Any, names: Any, *rest: Any) -> Image.Image:
        captions.extend(names)
        return sheet(title, columns, names, *rest)

    monkeypatch.setattr(preview_grid, "_sheet", kept)
    made = preview(masks, "-o", tmp_path / "sheet.png", "--policy", "s4", "--images", 2, "--draws", 3, "--json")
    shown = json.loads(made.stdout)
    ids = [image["id"] for image in shown["images"]]
    assert captions == [[id_, *drawn] for id_, drawn in zip(ids, shown["drawn"], strict=True)]
    assert [len(drawn) for drawn in shown["drawn"]] == [3, 3]
    assert len({text for drawn in shown["drawn"] for text in drawn}) == 6
    augmentation = build_augmentation(AugmentationChoice.of("augment/s4"))
    key = fold(fold(0, name_key(preview_grid.STAGE)), torch.tensor([name_key(ids[1])]), torch.tensor([2]))
    image = torch.zeros(1, 3, 64, 64)
    size, zero = torch.tensor([[64, 64]]), torch.zeros(1, dtype=torch.int64)
    batch = Batch(image, size, zero, zero, size, torch.eye(2, 3)[None], zero, Targets())
    expected = augmentation.described(augmentation.parameters(batch, key), has_boxes=False)
    assert shown["drawn"][1][2] == expected[0]


def test_the_background_has_no_tint() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    classes = np.zeros((4, 4), np.uint8)
    classes[2:] = 1
    drawn = preview_grid._tinted(image, classes, np.array([(0, 0, 0), (200, 0, 0)]))
    assert (drawn[0] == 100).all() and (drawn[3] != 100).any()


def test_a_seed_makes_the_same_file_again(masks: Path, tmp_path: Path) -> None:
    def written(name: str, seed: int) -> bytes:
        preview(masks, "--policy", "s1", "-o", tmp_path / name, "--images", 2, "--draws", 2, "--seed", seed)
        return (tmp_path / name).read_bytes()

    first = written("a.png", 3)
    assert written("b.png", 3) == first != written("c.png", 4)


def test_draws_are_those_of_training(masks: Path, tmp_path: Path, spy: Spy) -> None:
    result = preview(masks, "--policy", "s1", "-o", tmp_path / "grid.png", "--images", 2, "--draws", 2, "--seed", 5)
    key = fold(5, name_key("preview"))
    expected = [int(fold(key, name_key(id_), visit)) for id_ in ("p0", "p3") for visit in (0, 1)]
    assert [given for _, given in spy.given] == expected
    assert {shape for shape, _ in spy.given} == {(1, 3, 128, 128)}, "on a canvas larger by `oversample`"
    assert read(tmp_path / "grid.png").shape[1] == GAP + 3 * (CELL + GAP)
    assert result.stderr == "note: without boxes half of it does nothing\n"


def test_remarks_know_of_boxes(boxes: Path, photos: Path, tmp_path: Path, spy: Spy) -> None:
    spy.oversample = 1
    told = json.loads(preview(boxes, "--policy", "s1", "-o", tmp_path / "a.png", "--json").stdout)
    assert told["remarks"] == []
    told = json.loads(preview(photos, "--policy", "s1", "-o", tmp_path / "b.png", "--json").stdout)
    assert told["remarks"] == ["without boxes half of it does nothing"]


def test_a_configuration_says_data_canvas_and_augmentation(masks: Path, tmp_path: Path) -> None:
    config = configuration(masks, augmentation={"name": "augment/s1", "flip_probability": 0.25})

    def told(*arguments: Any) -> Any:
        out = tmp_path / "grid.png"
        words = ["augment", "preview", str(config), "-o", str(out), "--json", "--overwrite", *map(str, arguments)]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    found = told()
    assert [image["id"] for image in found["images"]] == ["p0", "p2"], "data.labelled is 'all - part'"
    assert found["canvas"] == [32, 96]
    assert (found["augmentation"]["name"], found["augmentation"]["flip_probability"]) == ("augment/s1", 0.25)
    changed = told("--set", "scale_max=3", "--set", "augmentation.scale_min=2", "--canvas", "64,32")
    assert (changed["augmentation"]["scale_min"], changed["augmentation"]["scale_max"]) == (2.0, 3.0)
    assert changed["augmentation"]["flip_probability"] == 0.25 and changed["canvas"] == [64, 32]
    assert told("--policy", "none")["augmentation"] == {"name": "core/none"}


def test_what_cannot_be_used_is_explained(masks: Path, photos: Path, tmp_path: Path) -> None:
    def said(*arguments: Any, code: int = 2) -> str:
        return preview("-o", tmp_path / "grid.png", *arguments, code=code).stderr

    wrong = said(masks, "--policy", "s11")
    assert "no augmentation is called 's11'" in wrong and "available: augment/" in wrong and "core/none" in wrong
    missing = said(masks)
    assert f"{masks} is no configuration, so nothing says which augmentation is meant: give --policy NAME" in missing
    assert "available: augment/" in missing
    wrong = said(masks, "--policy", "s1", "--set", "scale_mix=3")
    assert "the settings of augment/s1 are wrong:" in wrong and "did you mean 'scale_min'?" in wrong
    assert "--set 3: expected the form key=value" in said(masks, "--policy", "s1", "--set", "3")
    assert "--set scale_max=[: the value is no valid YAML" in said(masks, "--policy", "s1", "--set", "scale_max=[")
    assert "gone does not exist; give a configuration (.yaml), a folder" in said(tmp_path / "gone", "--policy", "s1")
    assert "the configuration" in said(tmp_path / "gone.yaml")
    assert "'64,x': expected height and width in pixels" in said(masks, "--canvas", "64,x")
    assert "height and width must be multiples of 32" in said(masks, "--canvas", "64,65")
    huge = said(masks, "--policy", "s1", "--canvas", "8192,8192")
    assert "4 images with 5 draws each" in huge and "or a smaller --canvas" in huge
    assert not (tmp_path / "grid.png").exists()


def test_an_unreadable_image_is_named(masks: Path, photos: Path, tmp_path: Path) -> None:
    whole = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(whole[: len(whole) // 2])
    result = preview(photos, "--policy", "s1", "-o", tmp_path / "grid.png", "--json", code=2)
    assert f"error: {photos / 'a.png'} cannot be read" in result.stderr
    assert json.loads(result.stdout)["error"]["type"] == "DataError"
    Image.new("L", (9, 9)).save(masks / "masks/p0.png")
    result = preview(masks, "--policy", "s1", "-o", tmp_path / "grid.png", code=2)
    assert "the mask is 9×9 pixels, its image 48×40 pixels" in result.stderr and "(image 'p0')" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "photos"]


def test_nothing_is_written_over(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    path.write_text("mine")
    result = preview(photos, "--policy", "s1", "-o", path, code=3)
    assert f"{path} is there already; nothing was written" in result.stderr and "--overwrite" in result.stderr
    assert path.read_text() == "mine"
    assert "is a folder; give the name of a file" in _said_of(photos, tmp_path / "b.png", 3)
    assert "what is written is a PNG; give a name that ends in .png" in _said_of(photos, tmp_path / "grid.jpg", 2)
    assert "cannot be written" in _said_of(photos, path / "grid.png", 3)


def _said_of(photos: Path, path: Path, code: int) -> str:
    if path.name == "b.png":
        path.mkdir()
    return preview(photos, "--policy", "s1", "-o", path, "--draws", 1, code=code).stderr


def test_boxes_that_a_task_has_no_place_for_are_told(boxes: Path, tmp_path: Path) -> None:
    source = {"name": "detection/coco", "images": str(boxes / "images"), "annotations": str(boxes / "instances.json")}
    parts = dict.fromkeys(("labelled", "unlabelled", "validation", "test"), "all")
    raw = {
        "task": {"name": "detection/retinanet", "max_boxes": 1, "prediction": {"max_detections": 1}},
        "data": {"sources": {"all": source}, "classes": ["square"], **parts},
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(raw))
    result = preview(config, "-o", tmp_path / "grid.png", "--images", 1, "--draws", 1)
    assert result.stderr == "note: 1 boxes of 'p0' are left out: task.max_boxes: 2\n"
