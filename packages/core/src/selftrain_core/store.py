"""The pseudo-label store: predictions with scores, not decisions, so that another threshold costs no inference.

A folder of memory-mapped Arrow shards, sealed by a manifest. A shard is written beside its place, flushed, renamed: it
is whole or absent, and labelling resumes at the first absent one. Readers refuse a store without a manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selftrain_core.errors import StoreError
from selftrain_core.files import replacing, write_json
from selftrain_core.labels import ScoreStatistics

SCHEMA_VERSION = 1
ROWS_PER_BATCH = 64
"""Rows in an Arrow record batch: a shuffled read decodes no more than one row's bytes."""

LABELLED, EMPTY, UNREADABLE, LEAK = "labelled", "empty", "unreadable", "leak"
"""States of an image: predictions above the floor, none above it, no image, bytes equal to a held-out image."""
USABLE = (LABELLED, EMPTY)

_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("matrix", pa.list_(pa.float64(), 6)),
    ]
)


def shard_path(folder: Path, number: int) -> Path:
    """Return where shard `number` lies."""
    return folder / f"shard-{number:05d}.arrow"


def write_shard(path: Path, task_columns: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one shard, whole or not at all.

    Args:
        path: Where it goes.
        task_columns: `Task.row_schema`.
        rows: Values by column; an absent one is null.

    Raises:
        RunError: The disk is full or the folder is not writable.
    """
    schema = pa.schema([*_COLUMNS, *task_columns])
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_table(table, max_chunksize=ROWS_PER_BATCH)


def read_shard(path: Path) -> pa.Table:
    """Return a shard, memory-mapped.

    Raises:
        StoreError: The file is damaged.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete the folder {path.parent} and run the same command: it is made again"
        ) from error


def seal(
    folder: Path, num_shards: int, statistics: ScoreStatistics, classes: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the manifest, which makes the store readable, and return it.

    Raises:
        StoreError: A shard is missing or damaged.
    """
    states: dict[str, int] = {}
    failures: list[dict[str, str]] = []
    rows: list[int] = []
    for number in range(num_shards):
        table = read_shard(shard_path(folder, number))
        rows.append(table.num_rows)
        for id_, state, reason in zip(*(table.column(c).to_pylist() for c in ("id", "state", "reason")), strict=True):
            states[state] = states.get(state, 0) + 1
            if state not in USABLE:
                failures.append({"id": id_, "state": state, "reason": reason})
    manifest = {
        "schema": SCHEMA_VERSION,
        "classes": list(classes),
        "shards": rows,
        "states": states,
        "failures": failures,
        "statistics": statistics.to_json(),
        **facts,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


class PseudoLabelStore:
    """Reads a sealed store. Opening it maps the shards; a row becomes Python objects when it is asked for.

    Args:
        folder: The store.
        classes: The ordered class names the reader expects.

    Raises:
        StoreError: The store is unsealed, damaged, of another schema, or made for other classes.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder = folder
        path = folder / "manifest.json"
        if not path.is_file():
            raise StoreError(f"{folder} is not sealed: labelling has not finished. Run the same command to finish it")
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error
        if self.manifest.get("schema") != SCHEMA_VERSION:
            raise StoreError(
                f"{folder} has schema {self.manifest.get('schema')}, this version of selftrain reads {SCHEMA_VERSION}"
            )
        if self.manifest.get("classes") != list(classes):
            raise StoreError(
                f"{folder} was made for other classes\n  the store's: {self.manifest.get('classes')}\n"
                f"  the student's: {list(classes)}"
            )
        self._tables: list[pa.Table] | None = None
        self._place: dict[str, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mappings behind when sent to another process."""
        return {**self.__dict__, "_tables": None, "_place": {}}

    @property
    def statistics(self) -> ScoreStatistics:
        """What the teacher predicted, by class and score."""
        return ScoreStatistics.from_json(self.manifest["statistics"])

    def usable_ids(self) -> set[str]:
        """Return the ids a student may be trained on: everything but unreadable images and leaks."""
        usable: set[str] = set()
        for table in self._open():
            ids, states = table.column("id").to_pylist(), table.column("state").to_pylist()
            usable.update(id_ for id_, state in zip(ids, states, strict=True) if state in USABLE)
        return usable

    def row(self, id_: str) -> dict[str, Any]:
        """Return the columns of one image.

        Raises:
            StoreError: The store does not hold it.
        """
        tables = self._open()
        if id_ not in self._place:
            raise StoreError(f"{self.folder} holds no image '{id_}'")
        shard, row = self._place[id_]
        (values,) = tables[shard].slice(row, 1).to_pylist()
        return dict(values)

    def _open(self) -> list[pa.Table]:
        if self._tables is None:
            tables = [read_shard(shard_path(self.folder, number)) for number in range(len(self.manifest["shards"]))]
            for number, (table, expected) in enumerate(zip(tables, self.manifest["shards"], strict=True)):
                if table.num_rows != expected:
                    raise StoreError(
                        f"{shard_path(self.folder, number)} holds {table.num_rows} rows, the manifest says {expected}"
                    )
                for row, id_ in enumerate(table.column("id").to_pylist()):
                    self._place[id_] = (number, row)
            self._tables = tables
        return self._tables


def usable_rows(store: PseudoLabelStore, ids: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of `rows`, whose ids are `ids`, that the store lets a student use."""
    usable = store.usable_ids()
    return np.array([row for id_, row in zip(ids, rows, strict=True) if id_ in usable], np.int64)
