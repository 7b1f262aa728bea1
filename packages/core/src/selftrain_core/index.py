"""The list of a run's images: one memory-mapped Arrow file, so that a million of them cost no memory. No torch here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selftrain_core import sets
from selftrain_core.config import DataConfig, JointConfig
from selftrain_core.config_model import DataSourceChoice
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.files import replacing, writing
from selftrain_core.plugins import load_component, registry
from selftrain_core.scanning import ROWS_AT_ONCE, Rows, Scanned

ROLES = ("labelled", "unlabelled", "validation", "test")

MISSING = -1
"""Size and time of a file that is not there; reading it says so."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("role", pa.dictionary(pa.int8(), pa.string())),
        ("source", pa.dictionary(pa.int16(), pa.string())),
        ("path", pa.string()),
        ("label_path", pa.string()),
        ("bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("label_bytes", pa.int64()),
        ("label_modified_ns", pa.int64()),
    ]
)
_FINGERPRINT = ("id", "bytes", "modified_ns", "label_bytes", "label_modified_ns")


def build_source(choice: DataSourceChoice, classes: tuple[str, ...]) -> DataSource:
    """Return one data source of a configuration."""
    source: DataSource = load_component(registry().find(choice.kind, choice.name))(choice.options, classes)
    return source


def build_sources(data: DataConfig | JointConfig, classes: tuple[str, ...]) -> dict[str, DataSource]:
    """Return the data sources of a configuration by name."""
    return {name: build_source(choice, classes) for name, choice in data.sources.items()}


@dataclass(frozen=True, slots=True)
class Part:
    """Which images play a part.

    Attributes:
        images: An expression over the sources.
        setting: Where it stands in the configuration.
    """

    images: str
    setting: str


def write_index(path: Path, data: DataConfig, sources: Mapping[str, DataSource]) -> None:
    """Scan the sources and write the index of a run: see `write_parts`."""
    write_parts(path, {role: Part(images, f"data.{role}") for role, images in data.parts().items()}, sources)


def write_parts(path: Path, parts: Mapping[str, Part], sources: Mapping[str, DataSource]) -> None:
    """Scan the sources and write an index, sorted by role and id, in one atomic step.

    What the sources yield goes to the disk at once and is memory-mapped; meanwhile, under 200 bytes an image are in
    memory.

    Args:
        path: Where to.
        parts: Of `ROLES`, all or some.
        sources: By name.

    Raises:
        DataError: A part is empty, an image plays two parts, two files share an id, or an image with human labels is
            not there. An unlabelled one that is not there is recorded as such, and found unreadable when it is read.
        RunError: The disk is full or the folder is not writable.
    """
    with _scratch_folder(path) as scratch:
        scanned = Scanned.of(sources, scratch)
        chosen = _choose(parts, scanned)
        with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
            with pa.ipc.new_file(file, _SCHEMA) as writer:
                for batch in _batches(scanned, chosen):
                    writer.write_batch(batch)


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    with writing(path):
        scratch = TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True)
    with scratch as name:
        yield Path(name)


def _choose(parts: Mapping[str, Part], scanned: Scanned) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each role, in the order of their ids."""
    taken = np.full(len(scanned.row), -1, np.int64)
    role_of = np.full(len(scanned.row), -1, np.int8)
    chosen: dict[str, NDArray[np.int64]] = {}
    for role_number, role in enumerate(ROLES):
        if role not in parts:
            chosen[role] = np.empty(0, np.int64)
            continue
        part = parts[role]
        row_of = _members(part.images, scanned)
        members = np.flatnonzero(row_of >= 0)
        if not len(members):
            raise DataError(f"{part.setting}: '{part.images}' holds no image")
        both = members[taken[members] >= 0]
        # Two files of one name first: to call that one image in two parts would mislead.
        scanned.refuse_two_files(taken[both], row_of[both])
        if len(both):
            first = ROLES[role_of[both[0]]]
            shared = int((role_of[both] == role_of[both[0]]).sum())
            raise DataError(_overlap(parts, scanned, scanned.id(both[0]), first, role, shared))
        taken[members], role_of[members] = row_of[members], role_number
        chosen[role] = row_of[members]
    return chosen


def _members(expression: str, scanned: Scanned) -> NDArray[np.int64]:
    """Return, by number of the id, the row that the set expression chooses, -1 for none."""
    row_of = np.full(len(scanned.row), -1, np.int64)
    for sign, name in sets.parse(expression, scanned.sources):
        rows = scanned.rows_of(name)
        numbers = scanned.number[rows]
        if sign < 0:
            row_of[numbers] = -1
            continue
        is_there = row_of[numbers] >= 0
        scanned.refuse_two_files(row_of[numbers[is_there]], rows[is_there])
        row_of[numbers[~is_there]] = rows[~is_there]
    return row_of


def _overlap(parts: Mapping[str, Part], scanned: Scanned, id_: str, first: str, second: str, shared: int) -> str:
    # What is held out stays: it is taken out of the pool, or out of what is learnt from.
    kept, cut = sorted((first, second), key=("test", "validation", "labelled", "unlabelled").index)
    sources = {
        role: [name for sign, name in sets.parse(part.images, scanned.sources) if sign > 0]
        for role, part in parts.items()
    }
    name = parts[cut].setting.removeprefix("data.")
    remedy = f"Take them out of {name}"
    if not set(sources[cut]) <= set(sources[kept]):
        remedy += f", for example: {name}: '{' - '.join([parts[cut].images, *sources[kept]])}'"
    count = "1 image is" if shared == 1 else f"{shared:,} images are"
    both = f"in {parts[first].setting} and in {parts[second].setting}"
    return f"'{id_}' is both {both} ({count}); every image plays one part\n  {remedy}"


def _batches(scanned: Scanned, chosen: Mapping[str, NDArray[np.int64]]) -> Iterator[pa.RecordBatch]:
    """Yield the index in parts.

    Raises:
        DataError: A file with human labels is not there, or one file is two images.
    """
    rows, files = np.concatenate(list(chosen.values())), _Files(sum(map(len, chosen.values())))
    for number, role in enumerate(ROLES):
        for start in range(0, len(chosen[role]), ROWS_AT_ONCE):
            part = chosen[role][start : start + ROWS_AT_ONCE]
            values = scanned.take(part)
            stamps = [files.add(path, role) for path in values["path"]]
            is_read = role != "unlabelled"  # the labels of others may exist, and are hidden
            label_stamps = [_stamp(path) if path and is_read else (None, None) for path in values["label_path"]]
            sources = np.searchsorted(scanned.first, part, side="right") - 1
            columns = {
                **values,
                "role": pa.DictionaryArray.from_arrays(np.full(len(part), number, np.int8), list(ROLES)),
                "source": pa.DictionaryArray.from_arrays(sources.astype(np.int16), list(scanned.sources)),
                **dict(zip(("bytes", "modified_ns"), zip(*stamps, strict=True), strict=True)),
                **dict(zip(("label_bytes", "label_modified_ns"), zip(*label_stamps, strict=True), strict=True)),
            }
            yield pa.record_batch([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)
    files.refuse_one_file_twice(scanned, rows, np.repeat(np.arange(len(ROLES)), [len(chosen[r]) for r in ROLES]))


class _Files:
    """Remembers which files the images are, 16 bytes each.

    Args:
        count: Number of images.
    """

    def __init__(self, count: int) -> None:
        self._inode = np.zeros((count, 2), np.int64)
        self._done = 0

    def add(self, path: str, role: str) -> tuple[int, int]:
        """Return size and time of the next image's file."""
        try:
            status = os.stat(path)  # noqa: PTH116  # a Path costs more than the call
        except OSError as error:
            if role != "unlabelled":
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            stamp, inode = (MISSING, MISSING), (MISSING, ~self._done)
        else:
            stamp = (status.st_size, status.st_mtime_ns)
            inode = (_signed(status.st_dev), _signed(status.st_ino))
        self._inode[self._done] = inode
        self._done += 1
        return stamp

    def refuse_one_file_twice(self, scanned: Scanned, rows: NDArray[np.int64], role_of: NDArray[np.int64]) -> None:
        """Check that no two images are one file by way of links to files or folders; hard links are several files."""
        order = np.lexsort(self._inode.T)
        same = (self._inode[order[1:]] == self._inode[order[:-1]]).all(1)
        group = np.cumsum(np.concatenate([[False], ~same]))  # equal inodes have one number
        doubtful = np.concatenate([same, [False]]) | np.concatenate([[False], same])
        order, group = order[doubtful], group[doubtful]
        seen: dict[str, str] = {}
        group_before = -1
        for start in range(0, len(order), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            values = scanned.take(rows[order[part]])
            for place, number, path, id_ in zip(order[part], group[part], values["path"], values["id"], strict=True):
                if number != group_before:
                    seen, group_before = {}, number
                real = _real_path(path)
                if real in seen:
                    raise DataError(
                        f"the file {real} is two images, '{seen[real]}' and '{id_}' of data.{ROLES[role_of[place]]}; "
                        "every file is one image and plays one part"
                    )
                seen[real] = id_


def _real_path(path: str) -> str:
    if os.path.islink(path):  # noqa: PTH114  # see above
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value  # file systems count in 64 bits without a sign


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116  # see above
    except OSError:
        return MISSING, MISSING
    return status.st_size, status.st_mtime_ns


class Index:
    """Reads an index. Opening it maps the file; rows become Python objects one at a time.

    Args:
        path: The ``index.arrow`` of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table: pa.Table | None = None
        self._rows: Rows | None = None

    @property
    def table(self) -> pa.Table:
        """The memory-mapped table; opened on first use, so that a worker process maps it for itself."""
        if self._table is None:
            self._table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        return self._table

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapping behind when sent to another process."""
        return {"path": self.path, "_table": None, "_rows": None}

    def rows(self, role: str) -> NDArray[np.int64]:
        """Return the row numbers of one role, in the order of their ids."""
        number = ROLES.index(role)
        chunks = self.table.column("role").chunks
        return np.flatnonzero(np.concatenate([chunk.indices.to_numpy() for chunk in chunks]) == number)

    def entry(self, row: int) -> tuple[str, Entry]:
        """Return a row's source name and entry."""
        values = {name: self.table.column(name)[row].as_py() for name in ("id", "source", "path", "label_path")}
        label_path = None if values["label_path"] is None else Path(values["label_path"])
        return values["source"], Entry(values["id"], Path(values["path"]), label_path)

    def ids(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """Yield the ids of `rows`."""
        for part in self._parts(rows, ["id"]):
            yield from part.column("id").to_pylist()

    def fingerprint(self, role: str) -> dict[str, Any]:
        """Return what identifies the images of one role: their number, and a digest of every id, size and time."""
        rows = self.rows(role)
        hashed = hashlib.sha256()
        for part in self._parts(rows, _FINGERPRINT):
            hashed.update(repr(part.to_pydict()).encode())
        return {"images": len(rows), "digest": hashed.hexdigest()[:16]}

    def _parts(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[pa.Table]:
        if self._rows is None:
            self._rows = Rows(self.table)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            yield self._rows.take(rows[start : start + ROWS_AT_ONCE], columns)

    def counts(self) -> dict[str, int]:
        """Return how many images play each part."""
        return {role: len(self.rows(role)) for role in ROLES}
