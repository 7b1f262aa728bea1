"""From a pool of images to a sealed store: what is counted where, what is made again, and two ranks as one."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from selftrain_core import labelling
from selftrain_core.config import DataConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.index import build_sources, write_index
from selftrain_core.labels import ScoreStatistics
from selftrain_core.prediction import Predicted
from selftrain_core.store import USABLE, PseudoLabelStore, read_shard, shard_path, write_shard
from selftrain_core.testing import assert_equal
from selftrain_core.testing.fakes import PixelPrediction, PixelTask
from selftrain_core.testing.samples import write_images

SCRIPT = Path(__file__).with_name("label_on_ranks.py")
TASK = PixelTask(StrictModel(), ("ground", "red", "green"))
NUM_IMAGES = 14
Label = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the index of a pool of 14, of which one is damaged and one is a copy of a test image."""
    folder = tmp_path_factory.mktemp("pool")
    write_images(folder / "pool", [f"{n:02}" for n in range(NUM_IMAGES)])
    for part in ("labelled", "validation", "test"):
        write_images(folder / part, [part], size=(24, 24))
    (folder / "pool/03.png").write_bytes(b"")
    (folder / "pool/09.png").write_bytes((folder / "test/test.png").read_bytes())
    roles = {"unlabelled": "pool", "labelled": "labelled", "validation": "validation", "test": "test"}
    sources = {name: {"name": "core/images", "images": str(folder / name)} for name in roles.values()}
    data = DataConfig.model_validate({"sources": sources, **roles, "classes": list(TASK.classes)})
    write_index(folder / "index.arrow", data, build_sources(data, TASK.classes))
    return folder / "index.arrow"


@pytest.fixture
def label(monkeypatch: pytest.MonkeyPatch) -> Label:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 4)  # put back afterwards, whatever the script sets
    function: Label = runpy.run_path(str(SCRIPT))["label"]
    return function


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "told.txt"}


def decoded(folder: Path) -> ScoreStatistics:
    total = ScoreStatistics.empty(TASK.num_classes)
    for path in sorted(folder.glob("shard-*")):
        for row in read_shard(path).to_pylist():
            if row["state"] in USABLE:
                total = total + TASK.statistics(TASK.from_row(row))
    return total


def test_the_statistics_beside_the_shards_are_those_of_their_rows(index: Path, label: Label, tmp_path: Path) -> None:
    events = label(index, tmp_path)
    store = PseudoLabelStore(tmp_path, TASK.classes)
    assert_equal(vars_of(store.statistics), vars_of(decoded(tmp_path)), "statistics")
    assert store.statistics.num_images == NUM_IMAGES - 2
    assert store.manifest["shards"] == [4, 4, 4, 2]
    assert [event.done for event in events] == [3, 4, 7, 8, 11, 12, 14]
    failures = {each["id"]: (each["state"], each["reason"]) for each in store.failures()}
    assert failures["09"] == ("leak", "its bytes equal those of the held-out image 'test'")
    assert failures["03"][0] == "unreadable" and "it is empty" in failures["03"][1]
    assert set(failures) == {"03", "09"}


def vars_of(statistics: ScoreStatistics) -> dict[str, Any]:
    return statistics.to_json()


def test_workers_change_nothing(index: Path, label: Label, tmp_path: Path) -> None:
    for workers in (0, 1):
        (tmp_path / str(workers)).mkdir()
        label(index, tmp_path / str(workers), workers=workers)
    assert files(tmp_path / "0") == files(tmp_path / "1")


def test_what_is_there_is_kept_and_what_lacks_statistics_is_made_again(
    index: Path, label: Label, tmp_path: Path
) -> None:
    label(index, tmp_path)
    whole = files(tmp_path)
    (tmp_path / "manifest.json").unlink()
    shard_path(tmp_path, 1).unlink()
    rows = read_shard(shard_path(tmp_path, 2)).to_pylist()
    write_shard(shard_path(tmp_path, 2), TASK.row_schema(), rows)
    kept = {number: shard_path(tmp_path, number).stat().st_mtime_ns for number in (0, 3)}
    events = label(index, tmp_path)
    assert {number: shard_path(tmp_path, number).stat().st_mtime_ns for number in kept} == kept
    assert [event.done for event in events] == [9, 10, 13, 14]
    assert files(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_make_the_store_that_one_makes(index: Path, label: Label, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    label(index, one)
    on_two_ranks(index, two)
    assert files(two) == files(one)
    told = [int(line) for line in (two / "told.txt").read_text().splitlines()]
    assert told[-1] == NUM_IMAGES - 2, "the last shard is the other rank's"
    assert told == sorted(told)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_share_out_what_is_missing(index: Path, label: Label, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    label(index, one)
    shutil.copytree(one, two)
    for name in ("manifest.json", "shard-00001.arrow", "shard-00002.arrow", "shard-00003.arrow"):
        (two / name).unlink()
    on_two_ranks(index, two)
    assert files(two) == files(one)


def on_two_ranks(index: Path, folder: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PL_", "MASTER_"))}
    command = [sys.executable, str(SCRIPT), str(index), str(folder), "2"]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_error_of_the_writing_thread_is_raised(
    index: Path, label: Label, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(labelling, "write_shard", fail)
    with pytest.raises(OSError, match="no space"):
        label(index, tmp_path)


def test_an_image_with_nothing_in_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASK, "statistics", lambda labels: ScoreStatistics.empty(3), raising=True)
    prediction = PixelPrediction(torch.full((3, 32, 32), 1 / 3), (32, 32))
    writer = labelling._ShardWriter(tmp_path, TASK, [("a", Path("a.png"))], (32, 32), 1, [(0, 1)])
    assert writer.add([Predicted(0, prediction)]) == 1
    table: pa.Table = read_shard(shard_path(tmp_path, 0))
    assert table.column("state").to_pylist() == ["empty"]
