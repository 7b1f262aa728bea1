"""What the tests of COCO files share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftrain_core.labels import BoxLabels
from selftrain_core.testing.samples import write_images
from selftrain_detection.coco import CocoSource
from selftrain_detection.source_config import CocoConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three images, of which `source` lists the first two."""
    write_images(tmp_path / "images", ["a", "deep/b", "unlisted"], size=(20, 30))  # 20, 21, 22 high
    return tmp_path


@pytest.fixture
def source() -> Callable[..., CocoSource]:
    """Return what makes a source over a file with annotations, or over whatever else is given."""

    def make(
        folder: Path, annotations: Any = (), classes: tuple[str, ...] = ("cat", "dog"), **settings: Any
    ) -> CocoSource:
        content = annotations if isinstance(annotations, dict) else {"annotations": list(annotations)}
        usual = {
            "images": [{"id": 5, "file_name": "a.png"}, {"id": 3, "file_name": "deep/b.png"}],
            "categories": [{"id": 7, "name": "dog"}, {"id": 90, "name": "cat"}],
            "annotations": [],
        }
        file = folder / "instances.json"
        file.write_text(json.dumps({key: value for key, value in {**usual, **content}.items() if value is not None}))
        return CocoSource(CocoConfig(images=folder / "images", annotations=file, **settings), classes)

    return make


@pytest.fixture
def labels() -> Callable[..., BoxLabels]:
    """Return what reads the labels of an image, by default of 'a'."""

    def read(made: CocoSource, id_: str = "a") -> BoxLabels:
        return made.read_labels(next(entry for entry in made.scan() if entry.id == id_))

    return read
