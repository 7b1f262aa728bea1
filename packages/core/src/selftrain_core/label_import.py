"""Corrected labels into a labelled set of their own. The store they came from is never edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from selftrain_core.components import build_task
from selftrain_core.config_model import TaskChoice
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError, RunError, did_you_mean
from selftrain_core.files import write_json, write_text, writing_in
from selftrain_core.geometry import Geometry
from selftrain_core.images import read_image
from selftrain_core.interfaces import Task
from selftrain_core.label_export import (
    CLASSES,
    EXPORTED,
    LIST,
    SCHEMA,
    image_root,
    reader,
    refuse_full_folder,
)
from selftrain_core.labels import Labels

_ANY_CANVAS = (32, 32)
"""Whether labels fit their image shows on any canvas."""


@dataclass(frozen=True)
class _Export:
    """A folder that was exported.

    Attributes:
        folder: Where it lies.
        record: What `export_labels` wrote down.
        task: Reads and writes labels.
    """

    folder: Path
    record: Mapping[str, Any]
    task: Task[Any, Any]
    _readers: dict[Path, DataSource] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> _Export:
        path = folder / EXPORTED
        if not path.is_file():
            raise RunError(
                f"{folder} holds no {EXPORTED}: it was not written by `selftrain labels export`\n"
                "  labels that were made elsewhere need no import: name their folder as a source under data.sources"
            )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            task = build_task(TaskChoice.model_validate(record["task"]), tuple(record["classes"]))
            record["data"]["sources"]
            for id_, facts in record["images"].items():
                _check(id_, facts)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(_damaged(path, error)) from error
        return cls(folder, record, task)

    @cached_property
    def _held(self) -> tuple[dict[str, str], list[str]]:
        ids = [id_ for id_, facts in self.record["images"].items() if not facts["file"]]
        return self.task.ids_in(self.folder / self.task.label_files, ids) if ids else ({}, [])

    @property
    def strangers(self) -> list[str]:
        """What is wrong with labels in files of all images that belong to none that was exported.

        Raises:
            DataError: The files cannot be read.
        """
        return self._held[1]

    def is_deleted(self, id_: str) -> bool:
        """Return whether the labels of an image are gone."""
        file = self.record["images"][id_]["file"]
        return not (self.folder / file).exists() if file else id_ not in self._held[0]

    def read(self, id_: str) -> Labels:
        """Return the labels of an image.

        Raises:
            DataError: They cannot be read.
        """
        entry = self.entry(id_)
        root = image_root(entry.id, entry.path)
        if root not in self._readers:
            self._readers[root] = reader(self.task, self.folder, root)  # it may hold the labels of all images
        # In a file of all images it may be called by another name.
        return self._readers[root].read_labels(replace(entry, id=self._held[0].get(id_, id_)))

    def is_changed(self, id_: str, labels: Labels) -> bool:
        """Return whether the labels of an image say something else than when they were exported.

        Raises:
            RunError: What they said is damaged.
        """
        try:
            return self.task.is_changed(labels, self.record["images"][id_]["said"])
        except ValueError as error:
            raise RunError(_damaged(self.folder / EXPORTED, error)) from error

    def entry(self, id_: str) -> Entry:
        """Return an image with the file of its labels."""
        facts = self.record["images"][id_]
        return Entry(id_, Path(facts["image"]), self.folder / facts["file"] if facts["file"] else None)


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is damaged ({error!r}); export again, and copy the corrected files there"


def _check(id_: str, facts: Mapping[str, Any]) -> None:
    """Refuse what an export does not write, above all names that lead out of a folder.

    Raises:
        ValueError: A name is absolute or climbs, or the image cannot lie where its id says.
        LookupError: Something is missing.
    """
    for name in (id_, facts["file"] or id_):
        if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
            raise ValueError(f"'{name}' is no name below a folder")
    if len(Path(facts["image"]).parents) <= id_.count("/"):
        raise ValueError(f"the image {facts['image']} cannot be called '{id_}'")
    facts["said"]


def import_labels(folder: Path, output: Path, *, everything: bool) -> dict[str, Any]:
    """Return what was imported, and leave it in `output` as a labelled set.

    Args:
        folder: What `export_labels` wrote, with some files corrected, or deleted.
        output: Where the set goes.
        everything: Take all labels, not only those that say something else than when they were exported.

    Returns:
        How many labels were ``imported``, are ``unchanged``, and ``deleted``, and under ``config`` the YAML that
        makes a run use them.

    Raises:
        DataError: Something is wrong with a label or its image, of which the message lists all, or there is nothing to
            import; nothing is written then.
        RunError: `folder` was not exported, or `output` is not empty or cannot be written to.
    """
    export = _Export.open(folder)
    refuse_full_folder(output)
    problems = list(_strangers(export))
    taken: list[str] = []
    deleted = 0
    for id_ in export.record["images"]:
        entry = export.entry(id_)
        if export.is_deleted(id_):
            deleted += 1
            continue
        try:
            labels = export.read(id_)
            if everything or export.is_changed(id_, labels):
                height, width = read_image(entry.path).shape[:2]
                export.task.to_targets(labels, None, Geometry.fit((height, width), _ANY_CANVAS))
                taken.append(id_)
        except DataError as error:
            where = "" if entry.label_path is None or str(entry.label_path) in str(error) else f"{entry.label_path}: "
            problems.append(f"{where}{error}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise DataError(
            f"{len(problems):,} labels in {folder} cannot be imported; nothing was written. Mend or delete:\n{listed}"
        )
    if not taken:
        raise DataError(
            f"nothing in {folder} has been changed since it was exported ({len(export.record['images']) - deleted:,} "
            "labels); --all imports them as they are"
        )
    with writing_in(output):
        sources = _write(export, output, taken)
    return {
        "schema": SCHEMA,
        "folder": str(output),
        "imported": len(taken),
        "unchanged": len(export.record["images"]) - deleted - len(taken),
        "deleted": deleted,
        "config": _as_yaml(export, sources),
    }


def _strangers(export: _Export) -> list[str]:
    """Return what is wrong with files that were not exported."""
    folder = export.folder / export.task.label_files
    known = {facts["file"] for facts in export.record["images"].values()}
    if None in known:
        return export.strangers  # all labels are in one file
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    names = [str(path.relative_to(export.folder)) for path in found]
    return [
        f"{export.folder / name} belongs to no image that was exported{did_you_mean(name, known)}"
        for name in names
        if name not in known
    ]


def _write(export: _Export, output: Path, taken: list[str]) -> list[dict[str, Any]]:
    """Write the set, and return the settings of the sources that read it: one for each folder of images."""
    output.mkdir(parents=True, exist_ok=True)
    folder = output.resolve() / export.task.label_files
    writer = export.task.writer(folder)
    by_root: dict[Path, list[str]] = {}
    for id_ in taken:
        entry = export.entry(id_)
        height, width = read_image(entry.path).shape[:2]
        writer.write(id_, export.read(id_), (height, width), entry.path)
        by_root.setdefault(image_root(id_, entry.path), []).append(id_)
    writer.close()
    write_json(output / CLASSES, {"classes": list(export.task.classes)})
    sources = []
    for number, (root, ids) in enumerate(by_root.items(), 1):
        path = output.resolve() / (LIST if len(by_root) == 1 else f"list-{number}.txt")
        write_text(path, "".join(f"{id_}\n" for id_ in ids))
        sources.append(export.task.written_source(root, folder, path))
    return sources


def _as_yaml(export: _Export, sources: list[dict[str, Any]]) -> str:
    data = export.record["data"]
    names: dict[str, dict[str, Any]] = {}
    for source in sources:
        number = 1
        while (name := "corrected" if number == 1 else f"corrected-{number}") in (*data["sources"], *names):
            number += 1
        names[name] = source
    changed = {
        "sources": names,
        "labelled": f"{data['labelled']} + {' + '.join(names)}",
        "unlabelled": f"{data['unlabelled']} - {' - '.join(names)}",
    }
    return yaml.safe_dump({"data": changed}, sort_keys=False, allow_unicode=True, width=1000)
