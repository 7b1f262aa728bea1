"""The pseudo-label store: predictions with scores, not decisions, so that another threshold costs no inference.

A folder of memory-mapped Arrow shards, sealed by a manifest. A shard is written beside its place, flushed, renamed: it
is whole or absent, and labelling resumes at the first absent one. Readers refuse a store without a manifest.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selftrain_core.errors import StoreError
from selftrain_core.files import replacing, write_json
from selftrain_core.labels import ScoreStatistics

SCHEMA_VERSION = 1
ROWS_PER_BATCH = 64
"""Rows in an Arrow record batch: a shuffled read decodes no more than one row's bytes."""
_MADE_AGAIN = "\n  delete the folder {} and run the same command: it is made again"
LISTED_FAILURES = 1000
"""Failures that the manifest lists itself."""

_OPEN_SHARDS = 512  # each holds a file open, of which a process may have some 1,000
_IDS_PER_CHUNK = 4096

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


def write_shard(
    path: Path,
    task_columns: pa.Schema,
    rows: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one shard, whole or not at all.

    Args:
        path: Where it goes.
        task_columns: `Task.row_schema`.
        rows: Values by column; an absent one is null.
        metadata: Kept with the shard's schema.

    Raises:
        RunError: The disk is full or the folder is not writable.
    """
    schema = pa.schema([*_COLUMNS, *task_columns], metadata=metadata)
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_table(table, max_chunksize=ROWS_PER_BATCH)


def open_shard(path: Path) -> pa.RecordBatchFileReader:
    """Return a reader of a shard, memory-mapped, of which no row is decoded yet.

    Raises:
        StoreError: The file is damaged.
    """
    with _damage(path):
        return pa.ipc.open_file(pa.memory_map(str(path)))


def read_shard(path: Path) -> pa.Table:
    """Return a shard, memory-mapped.

    Raises:
        StoreError: The file is damaged.
    """
    reader = open_shard(path)
    with _damage(path):
        return reader.read_all()


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete the folder {path.parent} and run the same command: it is made again"
        ) from error


def seal(
    folder: Path, num_shards: int, statistics: ScoreStatistics, classes: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the manifest, which makes the store readable, and return it.

    It lists the images that cannot be used, with their reasons. More than `LISTED_FAILURES` stand in
    ``failures.jsonl`` beside it, one per line, and the first of them in the manifest.

    Raises:
        StoreError: A shard is missing or damaged.
        RunError: The disk is full or the folder is not writable.
    """
    states: Counter[str] = Counter()
    rows: list[int] = []
    for number in range(num_shards):
        table = read_shard(shard_path(folder, number))
        rows.append(table.num_rows)
        states.update(table.column("state").to_pylist())
    num_failures = sum(count for state, count in states.items() if state not in USABLE)
    manifest = {
        "schema": SCHEMA_VERSION,
        "classes": list(classes),
        "shards": rows,
        "states": dict(states),
        "failures": list(islice(_failures(folder, num_shards), LISTED_FAILURES)),
        "failures_file": None,
        "statistics": statistics.to_json(),
        **facts,
    }
    if num_failures > LISTED_FAILURES:
        manifest["failures_file"] = "failures.jsonl"
        with replacing(folder / "failures.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(failure, ensure_ascii=False) + "\n" for failure in _failures(folder, num_shards))
    write_json(folder / "manifest.json", manifest)
    return manifest


def _failures(folder: Path, num_shards: int) -> Iterator[dict[str, str]]:
    for number in range(num_shards):
        table = read_shard(shard_path(folder, number)).select(["id", "state", "reason"])
        yield from table.filter(pc.invert(pc.is_in(table.column("state"), pa.array(USABLE)))).to_pylist()


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
            raise StoreError(f"{path} is damaged: {error}{_MADE_AGAIN.format(folder)}") from error
        if self.manifest.get("schema") != SCHEMA_VERSION:
            raise StoreError(
                f"{folder} has schema {self.manifest.get('schema')}, this version of selftrain reads {SCHEMA_VERSION}"
            )
        if self.manifest.get("classes") != list(classes):
            raise StoreError(
                f"{folder} was made for other classes\n  the store's: {self.manifest.get('classes')}\n"
                f"  the student's: {list(classes)}{_MADE_AGAIN.format(folder)}"
            )
        self._contents: _Contents | None = None
        self._readers: OrderedDict[int, pa.RecordBatchFileReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mappings behind when sent to another process."""
        return {**self.__dict__, "_contents": None, "_readers": OrderedDict()}

    @property
    def statistics(self) -> ScoreStatistics:
        """What the teacher predicted, by class and score."""
        return ScoreStatistics.from_json(self.manifest["statistics"])

    def failures(self) -> Iterator[dict[str, str]]:
        """Yield id, state and reason of every image that cannot be used, however many there are."""
        return _failures(self.folder, len(self.manifest["shards"]))

    def usable_ids(self) -> set[str]:
        """Return the ids a student may be trained on: everything but unreadable images and leaks."""
        contents = self._open()
        return set(contents.ids.filter(contents.usable).to_pylist())

    def are_usable(self, ids: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return which of `ids` a student may be trained on; one that the store does not hold is none of them."""
        contents = self._open()
        known = contents.ids.filter(contents.usable)
        found: NDArray[np.bool_] = pc.is_in(ids.cast(pa.large_string()), known).to_numpy()
        return found

    def row(self, id_: str) -> dict[str, Any]:
        """Return the columns of one image.

        Raises:
            StoreError: The store does not hold it, or it is damaged.
        """
        contents = self._open()
        position = contents.find(id_)
        if position is None:
            raise StoreError(f"{self.folder} holds no image '{id_}'")
        shard = int(np.searchsorted(contents.ends, position, side="right"))
        row = position - (int(contents.ends[shard - 1]) if shard else 0)
        with _damage(shard_path(self.folder, shard)):
            (values,) = self._batch(shard, row // ROWS_PER_BATCH).slice(row % ROWS_PER_BATCH, 1).to_pylist()
        return dict(values)

    def _batch(self, shard: int, number: int) -> pa.RecordBatch:
        if shard not in self._readers:
            self._readers[shard] = open_shard(shard_path(self.folder, shard))
            if len(self._readers) > _OPEN_SHARDS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(shard)
        return self._readers[shard].get_batch(number)

    def _open(self) -> _Contents:
        if self._contents is None:
            self._contents = _Contents.read(self.folder, self.manifest["shards"])
        return self._contents


@dataclass(frozen=True, slots=True)
class _Contents:
    """Which image lies where: some 10 bytes an image beside its id.

    Attributes:
        ids: In the order of the rows.
        usable: Boolean, of each row.
        order: int64, the rows in the order of their ids.
        ends: int64, of each shard, the row after its last.
    """

    ids: pa.LargeStringArray
    usable: pa.BooleanArray
    order: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path, num_rows: Sequence[int]) -> _Contents:
        """Return the contents of the shards of a store, which are to have `num_rows` rows each."""
        ids: list[pa.Array] = [pa.array([], pa.large_string())]
        usable: list[pa.Array] = [pa.array([], pa.bool_())]
        for number, expected in enumerate(num_rows):
            path = shard_path(folder, number)
            table = read_shard(path)
            if table.num_rows != expected:
                raise StoreError(
                    f"{path} holds {table.num_rows} rows, the manifest says {expected}{_MADE_AGAIN.format(folder)}"
                )
            ids.extend(table.column("id").cast(pa.large_string()).chunks)
            usable.extend(pc.is_in(table.column("state"), pa.array(USABLE)).chunks)
        joined = pa.concat_arrays(ids)  # copies, so that no shard stays mapped
        order: NDArray[np.int64] = pc.sort_indices(joined).to_numpy().astype(np.int64)
        return cls(joined, pa.concat_arrays(usable), order, np.cumsum(num_rows, dtype=np.int64))

    def find(self, id_: str) -> int | None:
        """Return the row of an image."""
        place = bisect_left(self.order, id_, key=lambda row: self.ids[int(row)].as_py())
        if place == len(self.order) or self.ids[int(self.order[place])].as_py() != id_:
            return None
        return int(self.order[place])


def usable_rows(store: PseudoLabelStore, ids: Iterable[str], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of `rows`, whose ids are `ids`, that the store lets a student use."""
    remaining = iter(ids)
    chunks: list[pa.Array] = []
    while chunk := list(islice(remaining, _IDS_PER_CHUNK)):
        chunks.append(pa.array(chunk, pa.string()))
    return rows[store.are_usable(pa.chunked_array(chunks, pa.string()))]
