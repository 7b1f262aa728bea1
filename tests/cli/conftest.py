"""A finished run in miniature, made once: a teacher, its labels, a student."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from selftrain.budget import Canvas, Speed
from selftrain.found_data import DataFolder
from selftrain.main import main
from selftrain_core.config import load_config
from selftrain_core.goals import Goal
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.rounds import self_train

PARTS = {"labelled": 4, "pool": 5, "val": 2, "test": 2}
SETTINGS: dict[str, Any] = {
    "canvas": [64, 64],
    "task": {
        "name": "segmentation/semantic",
        "decoder": {"name": "fpn", "pyramid_channels": 32, "segmentation_channels": 32},
    },
    "backbone": {"name": "timm/test_resnet", "init": "random"},
    "policy": {"name": "core/fixed", "threshold": 0.5},
    "device": {"accelerator": "core/cpu", "workers": 0, "predict_batch": 4},
}


def write_photo(path: Path, seed: int, size: tuple[int, int] = (40, 48)) -> None:
    """Write noise with a red square in it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 90, (*size, 3), dtype=np.uint8)
    image[8:24, 8:24] = (230, 40, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_mask(path: Path, size: tuple[int, int] = (40, 48), thing: int = 1) -> None:
    """Write the mask of the square."""
    classes = np.zeros(size, np.uint8)
    classes[8:24, 8:24] = thing
    classes[0, 0] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(classes).save(path)


def write_run(folder: Path) -> Path:
    """Make a run, and return its folder."""
    sources: dict[str, Any] = {}
    seed = 0
    for part, count in PARTS.items():
        for number in range(count):
            seed += 1
            write_photo(folder / f"data/{part}/deep/{part}-{number}.png", seed)
            write_mask(folder / f"data/masks/deep/{part}-{number}.png")
        source = {"name": "segmentation/index-masks", "images": f"data/{part}", "masks": "data/masks"}
        sources[part] = source if part != "pool" else {"name": "core/images", "images": "data/pool"}
    (folder / "data/pool/deep/broken.png").write_bytes(b"no image")
    raw = {
        **SETTINGS,
        "data": {
            "sources": sources,
            "classes": ["ground", "thing"],
            "labelled": "labelled",
            "unlabelled": "pool",
            "validation": "val",
            "test": "test",
        },
        "teacher": {"steps": 2, "human": 2},
        "student": {"steps": 2, "human": 1, "pseudo": 1},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(raw))
    self_train(load_config(folder / "run.yaml"), folder / "run", goal=Goal("learn"), in_process=True)
    return folder / "run"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that no test changes."""
    return write_run(tmp_path_factory.mktemp("miniature"))


@pytest.fixture
def photo() -> Callable[..., None]:
    """Return `write_photo`, which test files cannot import."""
    return write_photo


@pytest.fixture
def mask() -> Callable[..., None]:
    """Return `write_mask`."""
    return write_mask


@pytest.fixture
def settings() -> dict[str, Any]:
    """Return the settings of a small and quick model."""
    return dict(SETTINGS)


BOX_TASK: dict[str, Any] = {
    "name": "detection/retinanet",
    "head": {"channels": 16, "num_convs": 1},
    "prediction": {"floor": 0.0, "candidates": 50, "max_detections": 6},
}


def write_boxes(path: Path, names: list[str]) -> None:
    """Write a COCO file with a box around the square in each image."""
    images = [{"id": n, "file_name": name, "height": 40, "width": 48} for n, name in enumerate(names)]
    boxes = [{"id": n, "image_id": n, "category_id": 7, "bbox": [8, 8, 16, 16]} for n in range(len(names))]
    categories = [{"id": 7, "name": "square"}, {"id": 3, "name": "circle"}]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


@pytest.fixture(scope="session")
def finished_box_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with boxes that no test changes; its model is as good as random."""
    folder = tmp_path_factory.mktemp("boxes")
    sources: dict[str, Any] = {}
    seed = 0
    for part, count in PARTS.items():
        names = [f"deep/{part}-{number}.png" for number in range(count)]
        for name in names:
            seed += 1
            write_photo(folder / "data" / part / name, seed)
        write_boxes(folder / f"data/{part}.json", names)
        source = {"name": "detection/coco", "images": f"data/{part}", "annotations": f"data/{part}.json"}
        sources[part] = source if part != "pool" else {"name": "core/images", "images": "data/pool"}
    raw = {
        **SETTINGS,
        "task": BOX_TASK,
        "policy": {"name": "core/fixed", "threshold": 0},
        "data": {
            "sources": sources,
            "classes": ["square", "circle"],
            "allow_missing_classes": True,
            "labelled": "labelled",
            "unlabelled": "pool",
            "validation": "val",
            "test": "test",
        },
        "teacher": {"steps": 2, "human": 2},
        "student": {"steps": 2, "human": 1, "pseudo": 1},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(raw))
    self_train(load_config(folder / "run.yaml"), folder / "run", goal=Goal("learn"), in_process=True)
    return folder / "run"


@pytest.fixture
def init() -> Callable[..., Result]:
    """Return what calls ``selftrain init``, and checks its exit status, `code`."""

    def call(*arguments: Any, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["init", *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``selftrain init`` measure nothing."""
    speed = Speed(supervised=0.01, joint=0.01, labelling=0.005, evaluating=0.005, start=1.0, reading=0.01)

    def measure(found: DataFolder, parts: Any, canvas: Canvas, settings: Mapping[str, Any], start: float) -> Speed:
        assert settings["task"]["name"] == found.form.task
        return speed

    monkeypatch.setattr("selftrain.measuring.measure", measure)


@pytest.fixture
def counts() -> Callable[[Path], dict[str, int]]:
    """Return what counts the images of each part that a configuration names."""

    def count(path: Path) -> dict[str, int]:
        config = load_config(path)
        index = path.parent / "index"
        write_index(index, config.data, build_sources(config.data, config.data.class_names()))
        return Index(index).counts()

    return count
