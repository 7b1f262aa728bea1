"""The pseudo-label store: sealed or refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selftrain_core.errors import RunError, StoreError
from selftrain_core.labels import ScoreStatistics
from selftrain_core.store import (
    EMPTY,
    LABELLED,
    LEAK,
    ROWS_PER_BATCH,
    UNREADABLE,
    PseudoLabelStore,
    read_shard,
    seal,
    shard_path,
    usable_rows,
    write_shard,
)
from selftrain_core.testing import assert_equal
from selftrain_core.testing.samples import score_statistics

CLASSES = ("ground", "sky")
COLUMNS = pa.schema([("map", pa.binary())])
STATES = {"a": LABELLED, "b": EMPTY, "c": UNREADABLE, "d": LEAK, "e": LABELLED}


def row(id_: str, state: str = LABELLED) -> dict[str, Any]:
    if state not in (LABELLED, EMPTY):
        return {"id": id_, "state": state, "reason": f"{id_} is {state}"}
    return {"id": id_, "state": state, "height": 3, "width": 4, "matrix": [0.5, 0, 0, 0, 0.25, 0], "map": id_.encode()}


def write(folder: Path) -> ScoreStatistics:
    rows = [row(id_, state) for id_, state in STATES.items()]
    write_shard(shard_path(folder, 0), COLUMNS, rows[:3])
    write_shard(shard_path(folder, 1), COLUMNS, rows[3:])
    return score_statistics(2, 1)


def sealed(folder: Path) -> PseudoLabelStore:
    seal(folder, 2, write(folder), CLASSES, {"teacher": "abc"})
    return PseudoLabelStore(folder, CLASSES)


def test_round_trip(tmp_path: Path) -> None:
    store = sealed(tmp_path)
    assert store.row("e") == {**row("e"), "reason": None}
    assert store.row("c") == {**dict.fromkeys(["height", "width", "matrix", "map"]), **row("c", UNREADABLE)}
    assert_equal(store.statistics, score_statistics(2, 1), "statistics")


def test_the_manifest_says_what_is_in_it(tmp_path: Path) -> None:
    store = sealed(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == store.manifest
    assert manifest["classes"] == list(CLASSES)
    assert manifest["shards"] == [3, 2]
    assert manifest["states"] == {LABELLED: 2, EMPTY: 1, UNREADABLE: 1, LEAK: 1}
    assert manifest["failures"] == [
        {"id": "c", "state": UNREADABLE, "reason": "c is unreadable"},
        {"id": "d", "state": LEAK, "reason": "d is leak"},
    ]
    assert manifest["failures_file"] is None
    assert manifest["teacher"] == "abc"


def test_only_usable_images_are_trained_on(tmp_path: Path) -> None:
    store = sealed(tmp_path)
    assert store.usable_ids() == {"a", "b", "e"}
    assert usable_rows(store, ["e", "d", "b", "x"], np.array([7, 8, 9, 10])).tolist() == [7, 9]


def test_many_failures_stand_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftrain_core.store.LISTED_FAILURES", 2)
    rows = [row(f"{n:02}", UNREADABLE if n % 2 else LABELLED) for n in range(10)]
    write_shard(shard_path(tmp_path, 0), COLUMNS, rows[:7])
    write_shard(shard_path(tmp_path, 1), COLUMNS, rows[7:])
    manifest = seal(tmp_path, 2, score_statistics(2, 1), CLASSES, {})
    every = [{"id": f"{n:02}", "state": UNREADABLE, "reason": f"{n:02} is unreadable"} for n in range(1, 10, 2)]
    assert manifest["failures"] == every[:2]
    assert manifest["states"] == {LABELLED: 5, UNREADABLE: 5}
    lines = (tmp_path / manifest["failures_file"]).read_text().splitlines()
    assert [json.loads(line) for line in lines] == every
    assert list(PseudoLabelStore(tmp_path, CLASSES).failures()) == every


def test_rows_are_found_in_any_order_of_ids_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a batch holds, more shards than stay open, ids that are no sorted ASCII."""
    monkeypatch.setattr("selftrain_core.store._OPEN_SHARDS", 2)
    ids = [f"{n * 7919 % 1000}/ä {n}" for n in range(4 * 150)]
    for shard in range(4):
        write_shard(shard_path(tmp_path, shard), COLUMNS, [row(id_) for id_ in ids[shard * 150 : (shard + 1) * 150]])
    seal(tmp_path, 4, score_statistics(2, 1), CLASSES, {})
    store = PseudoLabelStore(tmp_path, CLASSES)
    for id_ in [*ids[::37], *ids[::-41]]:
        assert store.row(id_)["id"] == id_
        assert store.row(id_)["map"] == id_.encode()
    for unknown in ("", "ä", "zzz", ids[0] + " "):
        with pytest.raises(StoreError, match="holds no image"):
            store.row(unknown)


def test_an_empty_store_holds_nothing(tmp_path: Path) -> None:
    seal(tmp_path, 0, score_statistics(2, 1), CLASSES, {})
    store = PseudoLabelStore(tmp_path, CLASSES)
    assert store.usable_ids() == set()
    assert usable_rows(store, [], np.array([], np.int64)).tolist() == []


def test_an_unsealed_store_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(StoreError, match=r"is not sealed: labelling has not finished\. Run the same command"):
        PseudoLabelStore(tmp_path, CLASSES)


@pytest.mark.parametrize("classes", [("sky", "ground"), ("ground",), ("ground", "sky", "sea")])
def test_other_classes_are_refused_with_both_lists(tmp_path: Path, classes: tuple[str, ...]) -> None:
    sealed(tmp_path)
    with pytest.raises(StoreError) as error:
        PseudoLabelStore(tmp_path, classes)
    assert str(error.value).splitlines()[1:3] == [
        "  the store's: ['ground', 'sky']",
        f"  the student's: {list(classes)}",
    ]


def test_another_schema_is_refused(tmp_path: Path) -> None:
    sealed(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(StoreError, match="has schema 9, this version of selftrain reads 1"):
        PseudoLabelStore(tmp_path, CLASSES)


def test_a_damaged_manifest_is_explained(tmp_path: Path) -> None:
    sealed(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        PseudoLabelStore(tmp_path, CLASSES)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_a_damaged_shard_is_explained(tmp_path: Path, damage: str) -> None:
    store, path = sealed(tmp_path), shard_path(tmp_path, 1)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "other": b"x" * 500}[damage])
    with pytest.raises(
        StoreError, match=r"shard-00001\.arrow is damaged .*delete the folder .* and run the same command"
    ):
        store.row("a")


def test_a_shard_of_another_length_is_explained(tmp_path: Path) -> None:
    store = sealed(tmp_path)
    write_shard(shard_path(tmp_path, 1), COLUMNS, [row("d")])
    with pytest.raises(StoreError, match=r"shard-00001\.arrow holds 1 rows, the manifest says 2"):
        store.usable_ids()


def test_an_unknown_image_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no image 'x'"):
        sealed(tmp_path).row("x")


def test_sealing_needs_every_shard(tmp_path: Path) -> None:
    statistics = write(tmp_path)
    with pytest.raises(StoreError, match=r"shard-00002\.arrow is damaged"):
        seal(tmp_path, 3, statistics, CLASSES, {})
    assert not (tmp_path / "manifest.json").exists()


def test_a_store_pickles_without_its_rows(tmp_path: Path) -> None:
    store = sealed(tmp_path)
    small = len(pickle.dumps(store))
    store.row("a")
    assert len(pickle.dumps(store)) == small
    assert pickle.loads(pickle.dumps(store)).row("e")["map"] == b"e"


def test_a_shard_is_cut_into_small_batches(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.arrow", COLUMNS, [row(str(n)) for n in range(2 * ROWS_PER_BATCH + 1)])
    table = read_shard(tmp_path / "x.arrow")
    assert [len(chunk) for chunk in table.column("id").chunks] == [ROWS_PER_BATCH, ROWS_PER_BATCH, 1]


def test_a_shard_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowException):
        write_shard(tmp_path / "x.arrow", COLUMNS, [{**row("a"), "map": 3.5}])
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none/x\.arrow cannot be written: .*No such file or directory"):
        write_shard(tmp_path / "none" / "x.arrow", COLUMNS, [row("a")])
