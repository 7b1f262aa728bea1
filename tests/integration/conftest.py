"""A small data set of squares, as masks and as boxes, and the configuration of a run on it that takes seconds."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selftrain_core.config import RunConfig, parse_config
from selftrain_core.rounds import self_train

SIZES = {"labelled": 6, "pool": 10, "val": 4, "test": 5}
BOX_SIZES = {"labelled": 4, "pool": 4, "val": 2, "test": 2}
BOX_CLASSES = ["red", "green"]
SIDE = 16


def _write_scene(folder: Path, id_: str, seed: int, *, mask: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width = (40, 48) if seed % 2 else (56, 44)
    image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    classes = np.zeros((height, width), np.uint8)
    for label, colour in ((1, (230, 40, 40)), (2, (40, 230, 60))):
        top, left = int(rng.integers(0, height - 16)), int(rng.integers(0, width - 16))
        image[top : top + 16, left : left + 16] = colour
        classes[top : top + 16, left : left + 16] = label
    Image.fromarray(image).save(folder / "images" / f"{id_}.png")
    if mask:
        Image.fromarray(classes).save(folder / "masks" / f"{id_}.png")


def make_squares(folder: Path) -> Path:
    """Write images, masks and lists into `folder`; the pool has no masks."""
    for name in ("images", "masks", "splits"):
        (folder / name).mkdir(parents=True)
    seed = 0
    for split, count in SIZES.items():
        ids = [f"{split}-{number}" for number in range(count)]
        for id_ in ids:
            _write_scene(folder, id_, seed, mask=split != "pool")
            seed += 1
        (folder / "splits" / f"{split}.txt").write_text("\n".join(ids) + "\n")
    return folder


def squares_config(folder: Path, **changes: Any) -> RunConfig:
    """Return the configuration of a short run on `folder`, with changes given as ``teacher={"steps": 3}``."""
    masks = {"name": "segmentation/index-masks", "images": "images", "masks": "masks"}
    raw: dict[str, Any] = {
        "data": {
            "classes": ["ground", "red", "green"],
            "sources": {
                "labelled": {**masks, "list": "splits/labelled.txt"},
                "pool": {"name": "core/images", "images": "images", "list": "splits/pool.txt"},
                "val": {**masks, "list": "splits/val.txt"},
                "test": {**masks, "list": "splits/test.txt"},
            },
            "labelled": "labelled",
            "unlabelled": "pool",
            "validation": "val",
            "test": "test",
        },
        "canvas": [64, 64],
        "task": {
            "name": "segmentation/semantic",
            "decoder": {"name": "fpn", "pyramid_channels": 32, "segmentation_channels": 32},
        },
        "backbone": {"name": "timm/test_resnet", "init": "random"},
        "augmentation": "augment/s1",
        "policy": {"name": "core/fixed", "threshold": 0.5},
        "teacher": {"steps": 8, "human": 3},
        "student": {"steps": 6, "human": 2, "pseudo": 2},
        "validate_every_images": 9,
        "device": {"workers": 0, "predict_batch": 4},
    }
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) and isinstance(raw.get(key), dict) else value
    return parse_config(raw, base_dir=folder)


MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def shared_squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set that no test changes."""
    return make_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="session")
def undisturbed(shared_squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run on `shared_squares`, which no test changes."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    self_train(squares_config(shared_squares), run, in_process=True)
    return run


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run."""
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


@pytest.fixture
def make_config(shared_squares: Path) -> MakeConfig:
    """Return a function that configures a run on `shared_squares`."""
    return partial(squares_config, shared_squares)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Return a data set that the test may damage."""
    return make_squares(tmp_path / "squares")


@pytest.fixture(scope="session")
def configure() -> MakeConfig:
    """Return `squares_config`, which test files cannot import."""
    return squares_config


BOX_SETTINGS: dict[str, Any] = {
    "canvas": [64, 64],
    "task": {"name": "detection/retinanet", "head": {"channels": 8, "num_convs": 1}},
    "backbone": {"name": "timm/test_resnet", "init": "random"},
    "augmentation": "augment/s1",
    "policy": {"name": "core/fixed", "threshold": 0.5},
    "teacher": {"steps": 1, "human": 2},
    "student": {"steps": 1, "human": 1, "pseudo": 1},
    "baseline": False,
    "device": {"accelerator": "core/cpu", "workers": 0, "predict_batch": 4},
}


def _write_box_squares(folder: Path) -> None:
    """Write images of a red and a green square, and for each part one COCO file, VOC files and YOLO files."""
    for part, count in BOX_SIZES.items():
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7 + place, "name": name} for place, name in enumerate(BOX_CLASSES)],
        }
        (folder / "images" / part).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([*part.encode(), number])
            pixels = rng.integers(0, 90, (40, 48, 3), dtype=np.uint8)
            corners = [(int(rng.integers(0, 48 - SIDE)), int(rng.integers(0, 40 - SIDE))) for _ in BOX_CLASSES]
            for (left, top), colour in zip(corners, ((230, 40, 40), (40, 230, 60)), strict=True):
                pixels[top : top + SIDE, left : left + SIDE] = colour
            Image.fromarray(pixels).save(folder / "images" / part / f"{part}-{number}.png")
            content["images"].append({"id": number, "file_name": f"{part}-{number}.png", "height": 40, "width": 48})
            content["annotations"] += [
                {"id": 2 * number + place, "image_id": number, "category_id": 7 + place, "bbox": [*corner, SIDE, SIDE]}
                for place, corner in enumerate(corners)
            ]
            _write_voc(folder / "voc" / f"{part}-{number}.xml", corners)
            _write_yolo(folder / "yolo" / f"{part}-{number}.txt", corners)
        (folder / f"{part}.json").write_text(json.dumps(content))


def _write_voc(path: Path, corners: list[tuple[int, int]]) -> None:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{left + SIDE}</xmax><ymax>{top + SIDE}</ymax></bndbox></object>"
        for name, (left, top) in zip(BOX_CLASSES, corners, strict=True)
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation>{objects}</annotation>")


def _write_yolo(path: Path, corners: list[tuple[int, int]]) -> None:
    lines = [
        f"{number} {(left + SIDE / 2) / 48} {(top + SIDE / 2) / 40} {SIDE / 48} {SIDE / 40}\n"
        for number, (left, top) in enumerate(corners)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines))


def box_settings(data: Path) -> dict[str, Any]:
    """Return the settings of a short run on the COCO files in `data`."""
    sources: dict[str, Any] = {
        part: {"name": "detection/coco", "images": f"{data}/images/{part}", "annotations": f"{data}/{part}.json"}
        for part in BOX_SIZES
    }
    sources["pool"] = {"name": "core/images", "images": f"{data}/images/pool"}
    parts = {"labelled": "labelled", "unlabelled": "pool", "validation": "val", "test": "test"}
    return {**copy.deepcopy(BOX_SETTINGS), "data": {"classes": list(BOX_CLASSES), "sources": sources, **parts}}


@pytest.fixture(scope="session")
def shared_box_squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of boxes that no test changes."""
    folder = tmp_path_factory.mktemp("data") / "box-squares"
    _write_box_squares(folder)
    return folder


@pytest.fixture(scope="session")
def configure_boxes() -> Callable[[Path], dict[str, Any]]:
    """Return `box_settings`, which test files cannot import."""
    return box_settings
