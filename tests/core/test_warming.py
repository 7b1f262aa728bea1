"""What sources load is loaded before workers are forked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selftrain_core.config import DataConfig
from selftrain_core.errors import DataError
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.plan import StreamPlan
from selftrain_core.samples import Stream
from selftrain_core.stage_training import warm
from selftrain_core.testing.samples import write_images, write_masks

FOLDERS = {"a": 3, "b": 2, "pool": 1, "val": 1, "test": 1}


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


def asked(index: Index, rows: Any) -> list[str]:
    """Return the images whose labels are asked for before workers are forked."""
    seen: list[str] = []

    def labeller(row: int) -> Any:
        seen.append(index.entry(row)[1].id)

    answers: Any = labeller
    warm(index, [Stream("human", rows, 1, answers)])
    return seen


def test_one_image_of_each_source_is_read(index: Index) -> None:
    rows = index.rows("labelled")
    assert asked(index, rows) == ["a-0", "b-0"]
    assert asked(index, rows[::-1]) == ["a-2", "b-1"]
    assert asked(index, rows[1:3]) == ["a-1"]


def test_a_stream_without_images_asks_for_none_and_is_explained(index: Index) -> None:
    assert asked(index, np.empty(0, np.int64)) == []
    with pytest.raises(DataError, match="the stream 'human' holds no image, but each step takes 1 of it"):
        StreamPlan("human", torch.empty(0, dtype=torch.int64), 1)
