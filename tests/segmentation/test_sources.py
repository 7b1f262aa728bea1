"""Index masks beside images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selftrain_core.errors import DataError
from selftrain_core.labels import IGNORE
from selftrain_core.testing.samples import write_images
from selftrain_segmentation.config import IndexMasksConfig
from selftrain_segmentation.sources import IndexMasks


@pytest.fixture
def source(tmp_path: Path) -> IndexMasks:
    write_images(tmp_path / "images", ["a", "deep/b"], suffix=".jpg")
    (tmp_path / "masks/deep").mkdir(parents=True)
    return IndexMasks(IndexMasksConfig(images=tmp_path / "images", masks=tmp_path / "masks"), ("ground", "sky"))


def mask(path: Path, values: list[list[int]]) -> None:
    Image.fromarray(np.array(values, np.uint8)).save(path)


def test_a_mask_is_read(source: IndexMasks, tmp_path: Path) -> None:
    mask(tmp_path / "masks/deep/b.png", [[0, 1, IGNORE]])
    labels = source.read_labels(list(source.scan())[1])
    assert labels.classes_HW.tolist() == [[0, 1, IGNORE]]
    assert labels.scores_HW is None
    assert labels.classes_HW.flags.c_contiguous


@pytest.mark.parametrize("value", [2, 254])
def test_a_value_out_of_range_is_explained(source: IndexMasks, tmp_path: Path, value: int) -> None:
    mask(tmp_path / "masks/a.png", [[0, value, IGNORE]])
    message = rf"a\.png holds the value {value}; with 2 classes values are 0 to 1, and 255 for ignore: ground, sky"
    with pytest.raises(DataError, match=message):
        source.read_labels(next(source.scan()))


def test_a_missing_mask_is_explained(source: IndexMasks) -> None:
    with pytest.raises(DataError, match=r"the mask .*masks/a\.png does not exist"):
        source.read_labels(next(source.scan()))


def test_a_coloured_mask_is_explained(source: IndexMasks, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "masks/a.png")
    with pytest.raises(DataError, match=r"a\.png is a 'RGB' image; an index mask is an 8-bit grey or palette image"):
        source.read_labels(next(source.scan()))


def test_scanning_does_not_ask_for_masks(source: IndexMasks) -> None:
    assert [entry.id for entry in source.scan()] == ["a", "deep/b"]
