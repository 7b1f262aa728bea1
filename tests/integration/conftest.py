"""A small data set of squares, and the configuration of a run on it that takes seconds."""

from __future__ import annotations

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
