"""What sources load is loaded before workers are forked."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from selftrain_core import stages
from selftrain_core.config import DataConfig
from selftrain_core.config_model import AugmentationChoice
from selftrain_core.errors import DataError
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.samples import Stream
from selftrain_core.testing.samples import write_images, write_masks

FOLDERS = {"a": 3, "b": 2, "pool": 1, "val": 1, "test": 1}


class StoppedError(Exception):
    """Ends a training before it begins."""


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Return an index in which five images of two sources are labelled."""
    sources = {}
    for name, count in FOLDERS.items():
        ids = [f"{name}-{n}" for n in range(count)]
        write_images(tmp_path / name, ids)
        write_masks(tmp_path / "masks", ids, 2)
        masks = {"images": str(tmp_path / name), "masks": str(tmp_path / "masks")}
        sources[name] = {"name": "segmentation/index-masks", **masks}
    parts = {"labelled": "a + b", "unlabelled": "pool", "validation": "val", "test": "test"}
    data = DataConfig.model_validate({"sources": sources, "classes": ["x", "y"], **parts})
    write_index(tmp_path / "index.arrow", data, build_sources(data, ("x", "y")))
    return Index(tmp_path / "index.arrow")


def asked(index: Index, rows: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the images whose labels are asked for before the data set of a stage is made."""
    seen: list[str] = []

    def labeller(row: int) -> Any:
        seen.append(index.entry(row)[1].id)

    def stop(*_: Any, **__: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(stages, "StepDataset", stop)
    request = {"name": "round-0/teacher", "settings": {"steps": 1}}
    context: Any = SimpleNamespace(
        index=index,
        request=request,
        task=None,
        config=SimpleNamespace(
            seed=0,
            canvas=(32, 32),
            device=SimpleNamespace(micro_batches=1),
            augmentation=AugmentationChoice.of("core/none"),
        ),
    )
    settings: Any = None
    answers: Any = labeller
    with pytest.raises(StoppedError):
        stages._train(context, settings, [Stream("human", rows, 1, answers)], nn.Identity(), alpha=0.0)
    return seen


def test_one_image_of_each_source_is_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = index.rows("labelled")
    assert asked(index, rows, monkeypatch) == ["a-0", "b-0"]
    assert asked(index, rows[::-1], monkeypatch) == ["a-2", "b-1"]
    assert asked(index, rows[1:3], monkeypatch) == ["a-1"]


def test_a_stream_without_images_is_explained(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="the stream 'human' holds no image, but each step takes 1 of it"):
        asked(index, np.zeros(0, np.int64), monkeypatch)
