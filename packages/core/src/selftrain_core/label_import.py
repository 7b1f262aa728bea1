"""Corrected labels into a labelled set of their own. The store they came from is never edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    label_digest,
    reader,
    refuse_full_folder,
)

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

    @classmethod
    def open(cls, folder: Path) -> _Export:
        path = folder / EXPORTED
        if not path.is_file():
            raise RunError(
                f"{folder} holds no {EXPORTED}: it was not written by `selftrain labels export`\n"
                "  masks that were made elsewhere need no import: name their folder as a source under data.sources"
            )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            task = build_task(TaskChoice.model_validate(record["task"]), tuple(record["classes"]))
            record["data"]["sources"]
            for id_, facts in record["images"].items():
                _check(id_, facts)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path} is damaged ({error!r}); export again, and copy the corrected files there"
            ) from error
        return cls(folder, record, task)

    def entry(self, id_: str) -> Entry:
        """Return an image with the file of its labels."""
        facts = self.record["images"][id_]
        return Entry(id_, Path(facts["image"]), self.folder / facts["file"] if facts["file"] else None)

    def reader(self, entry: Entry) -> DataSource:
        """Return what reads the labels of an image."""
        return reader(self.task, self.folder, image_root(entry.id, entry.path))


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
    facts["digest"]


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
    for id_, facts in export.record["images"].items():
        entry = export.entry(id_)
        if entry.label_path is not None and not entry.label_path.exists():
            deleted += 1
            continue
        try:
            labels = export.reader(entry).read_labels(entry)
            if everything or label_digest(labels) != facts["digest"]:
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
        return []  # all labels are in one file
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
        writer.write(id_, export.reader(entry).read_labels(entry), (height, width), entry.path)
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
