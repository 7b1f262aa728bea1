"""What the data sources hold, on its way into the index: rows on the disk, memory-mapped. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import ContractError, DataError
from selftrain_core.files import writing

ROWS_AT_ONCE = 4096
"""Rows that are Python objects at one time."""

_SCAN = pa.schema([("id", pa.string()), ("path", pa.string()), ("label_path", pa.string())])


class Rows:
    """Rows of a memory-mapped table by number. Arrow's own `take` copies the whole column first.

    Args:
        table: The table.
    """

    def __init__(self, table: pa.Table) -> None:
        self._batches = table.to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])[:-1]

    def take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return some columns of some rows, in their order."""
        batch_of = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(batch_of, kind="stable")
        cuts = np.flatnonzero(np.diff(batch_of[order])) + 1
        parts = [
            self._batches[number].select(columns).take(pa.array(rows[part] - self._starts[number]))
            for part in np.split(order, cuts)
            for number in batch_of[part[:1]]
        ]
        return pa.Table.from_batches(parts).combine_chunks().take(pa.array(np.argsort(order)))


@dataclass(frozen=True, slots=True)
class Scanned:
    """What all sources hold, one row for each of their images, memory-mapped. Ids are numbered in their order.

    Attributes:
        rows: Id, path and label path.
        sources: The sources' names.
        first: int64, the first row of each source, and the end.
        number: int32, of each row, the number of its id.
        row: int64, of each number, a row that has the id.
    """

    rows: Rows
    sources: tuple[str, ...]
    first: NDArray[np.int64]
    number: NDArray[np.int32]
    row: NDArray[np.int64]

    @classmethod
    def of(cls, sources: Mapping[str, DataSource], scratch: Path) -> Scanned:
        """Scan the sources, and keep what they yield in files in `scratch`."""
        tables = [_scan(source, name, scratch / str(n)) for n, (name, source) in enumerate(sources.items())]
        table = pa.concat_tables(tables)
        first = np.cumsum([0, *(part.num_rows for part in tables)], dtype=np.int64)
        rows = Rows(table)
        order = pc.sort_indices(table.column("id")).to_numpy().astype(np.int64)
        is_new = np.ones(len(order), np.bool_)
        for start in range(0, len(order) - 1, ROWS_AT_ONCE):
            ids = rows.take(order[start : start + ROWS_AT_ONCE + 1], ["id"]).column("id")
            is_new[start + 1 : start + len(ids)] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
        number = np.empty(len(order), np.int32)
        number[order] = np.cumsum(is_new) - 1
        scanned = cls(rows, tuple(sources), first, number, order[is_new])
        for name, source in sources.items():
            counts = np.bincount(number[scanned.rows_of(name)], minlength=1)
            if counts.max() > 1:
                twice = scanned.id(int(counts.argmax()))
                raise ContractError(f"the data source '{name}' ({type(source).__name__}) yields the id '{twice}' twice")
        return scanned

    def rows_of(self, source: str) -> NDArray[np.int64]:
        """Return the rows of one source."""
        place = self.sources.index(source)
        return np.arange(self.first[place], self.first[place + 1])

    def id(self, number: int) -> str:
        """Return the id of that number."""
        return str(self.take(self.row[[number]])["id"][0])

    def take(self, rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return the columns of a few rows as Python values."""
        values: dict[str, list[Any]] = self.rows.take(rows, _SCAN.names).to_pydict()
        return values

    def refuse_two_files(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        """Check that of two rows of one id, both mean the same file."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            first, second = (
                self.take(rows[start : start + ROWS_AT_ONCE]),
                self.take(others[start : start + ROWS_AT_ONCE]),
            )
            for id_, one, other in zip(first["id"], first["path"], second["path"], strict=True):
                if one != other:
                    raise DataError(
                        f"two images are called '{id_}': {one} and {other}; rename one, or take one out if they show "
                        "the same"
                    )


def _scan(source: DataSource, name: str, path: Path) -> pa.Table:
    entries = source.scan()
    with writing(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCAN) as writer:
        while batch := _next_batch(entries, name):
            writer.write_batch(batch)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _next_batch(entries: Iterator[Entry], name: str) -> pa.RecordBatch | None:
    try:
        columns: list[list[str | None]] = [[], [], []]
        for entry in islice(entries, ROWS_AT_ONCE):
            values = (entry.id, str(entry.path), None if entry.label_path is None else str(entry.label_path))
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    except OSError as error:
        raise DataError(f"data.sources.{name} cannot be scanned: {error}") from error
    return pa.record_batch(columns, schema=_SCAN) if columns[0] else None
