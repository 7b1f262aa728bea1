"""The list of a run's images: one memory-mapped Arrow file, so that a million of them cost no memory. No torch here."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selftrain_core import sets
from selftrain_core.config import DataConfig
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.files import replacing
from selftrain_core.plugins import load_component, registry

ROLES = ("labelled", "unlabelled", "validation", "test")

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("role", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("label_path", pa.string()),
        ("bytes", pa.int64()),
        ("modified_ns", pa.int64()),
    ]
)


def build_sources(data: DataConfig, classes: tuple[str, ...]) -> dict[str, DataSource]:
    """Return the data sources of a configuration by name."""
    return {
        name: load_component(registry().find(choice.kind, choice.name))(choice.options, classes)
        for name, choice in data.sources.items()
    }


def write_index(path: Path, data: DataConfig, sources: Mapping[str, DataSource]) -> None:
    """Scan the sources and write the index, sorted by role and id, in one atomic step.

    Raises:
        DataError: A part is empty, an image plays two parts, or two files share an id.
    """
    entries = {name: {entry.id: entry for entry in source.scan()} for name, source in sources.items()}
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    role_of: dict[str, str] = {}
    file_of: dict[str, Path] = {}
    id_of: dict[str, str] = {}
    for role in ROLES:
        members = _members(getattr(data, role), entries)
        if not members:
            raise DataError(f"data.{role}: '{getattr(data, role)}' holds no image")
        for id_, (source, entry) in sorted(members.items()):
            # Two files of one name first: to call that one image in two parts would mislead.
            if file_of.setdefault(id_, entry.path) != entry.path:
                raise DataError(_one_name(id_, file_of[id_], entry.path))
            if id_ in role_of:
                raise DataError(_overlap(id_, role_of[id_], role, members, role_of))
            real = os.path.realpath(entry.path)
            if real in id_of:
                raise DataError(
                    f"the file {real} is two images, '{id_of[real]}' and '{id_}' of data.{role}; every file is one "
                    "image and plays one part"
                )
            role_of[id_], id_of[real] = role, id_
            _append(columns, id_, role, source, entry)
    with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
        with pa.ipc.new_file(file, _SCHEMA) as writer:
            writer.write_table(pa.table(columns, schema=_SCHEMA), max_chunksize=65536)


def _members(expression: str, entries: Mapping[str, Mapping[str, Entry]]) -> dict[str, tuple[str, Entry]]:
    members: dict[str, tuple[str, Entry]] = {}
    for sign, name in sets.parse(expression, entries):
        for id_, entry in entries[name].items():
            if sign < 0:
                members.pop(id_, None)
            elif id_ in members and members[id_][1].path != entry.path:
                raise DataError(_one_name(id_, members[id_][1].path, entry.path))
            else:
                members.setdefault(id_, (name, entry))
    return members


def _one_name(id_: str, first: Path, second: Path) -> str:
    return f"two images are called '{id_}': {first} and {second}; rename one, or take one out if they show the same"


def _overlap(id_: str, first: str, second: str, members: Iterable[str], role_of: Mapping[str, str]) -> str:
    shared = sum(role_of.get(member) == first for member in members)
    return (
        f"'{id_}' is both in data.{first} and in data.{second} ({shared} images are); every image plays one part. "
        f"Take them out of one, for example: {second}: '… - {first}'"
    )


def _append(columns: dict[str, list[Any]], id_: str, role: str, source: str, entry: Entry) -> None:
    try:
        status = entry.path.stat()
    except OSError as error:
        raise DataError(f"{entry.path} cannot be read: {error.strerror}") from error
    values = (
        id_,
        role,
        source,
        str(entry.path),
        None if entry.label_path is None else str(entry.label_path),
        status.st_size,
        status.st_mtime_ns,
    )
    for name, value in zip(_SCHEMA.names, values, strict=True):
        columns[name].append(value)


class Index:
    """Reads an index. Opening it maps the file; rows become Python objects one at a time.

    Args:
        path: The ``index.arrow`` of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table: pa.Table | None = None

    @property
    def table(self) -> pa.Table:
        """The memory-mapped table; opened on first use, so that a worker process maps it for itself."""
        if self._table is None:
            self._table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        return self._table

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapping behind when sent to another process."""
        return {"path": self.path, "_table": None}

    def rows(self, role: str) -> NDArray[np.int64]:
        """Return the row numbers of one role, in the order of their ids."""
        roles: NDArray[Any] = self.table.column("role").to_numpy(zero_copy_only=False)
        return np.flatnonzero(roles == role)

    def entry(self, row: int) -> tuple[str, Entry]:
        """Return a row's source name and entry."""
        values = {name: self.table.column(name)[row].as_py() for name in ("id", "source", "path", "label_path")}
        label_path = None if values["label_path"] is None else Path(values["label_path"])
        return values["source"], Entry(values["id"], Path(values["path"]), label_path)

    def ids(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """Yield the ids of `rows`."""
        column = self.table.column("id")
        return (column[int(row)].as_py() for row in rows)

    def fingerprint(self, role: str) -> dict[str, Any]:
        """Return what identifies the images of one role: their number, and a digest of every id, size and time."""
        hashed = hashlib.sha256()
        rows = self.rows(role)
        for row in rows:
            values = [self.table.column(name)[int(row)].as_py() for name in ("id", "bytes", "modified_ns")]
            hashed.update(repr(values).encode())
            label_path = self.table.column("label_path")[int(row)].as_py()
            if label_path is not None and role != "unlabelled":
                hashed.update(_stamp(Path(label_path)).encode())
        return {"images": len(rows), "digest": hashed.hexdigest()[:16]}

    def counts(self) -> dict[str, int]:
        """Return how many images play each part."""
        counted = Counter(self.table.column("role").to_pylist())
        return {role: counted[role] for role in ROLES}


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"  # reading the labels says so, with the file's name
    return f"{status.st_size} {status.st_mtime_ns}"
