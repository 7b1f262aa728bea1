"""Pseudo labels out of a store, as files that people and other tools can read and correct."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selftrain_core.config import DataConfig
from selftrain_core.config_model import DataSourceChoice, PolicyChoice
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError, RunError, StoreError
from selftrain_core.files import replacing, write_json, write_text, writing_in
from selftrain_core.index import build_source
from selftrain_core.interfaces import Task
from selftrain_core.store import read_shard, shard_path
from selftrain_core.stored_labels import StoredLabels

EXPORTED = "export.json"
"""What was exported: of each image its file, the file of its labels, and what they say."""
LIST, CLASSES, README, PARQUET = "list.txt", "classes.json", "README.txt", "labels.parquet"
SCHEMA = 1

_README = """\
Labels that a teacher predicted, {count:,} images, written by `selftrain labels export`.

{files:<14}{holds}
{classes:<14}the class names, in the order of their indices, which count from 0
{list:<14}the ids
{exported:<14}what was exported; `selftrain labels import` reads it

{left_open}

{steps}

Then say

    selftrain labels import {folder} -o corrected

which checks what has been changed and makes a labelled set of it. The store that this came from is not touched.
"""


def export_parquet(labels: StoredLabels, folder: Path, ids: Sequence[str] | None, limit: int | None) -> dict[str, Any]:
    """Return what was written: one Parquet file with the rows of the store, scores included, and no policy applied.

    Args:
        labels: The store.
        folder: Where it goes.
        ids: Images to take; None takes all, those that cannot be used too, with their reasons.
        limit: At most so many.

    Raises:
        DataError: The store does not hold one of `ids`.
        RunError: `folder` is not empty, or cannot be written to.
    """
    if ids is not None:
        _refuse_unknown(ids, labels)
    count = 0
    with _new_folder(folder), replacing(folder / PARQUET) as temporary:
        shards = range(len(labels.manifest["shards"]))
        schema = (read_shard(shard_path(labels.folder, 0)) if shards else pa.table({})).schema
        facts = {"classes": list(labels.classes), "teacher": labels.manifest["teacher"]}
        with pq.ParquetWriter(temporary, schema.with_metadata({"selftrain": json.dumps(facts)})) as writer:
            for number in shards:
                table = read_shard(shard_path(labels.folder, number))
                if ids is not None:
                    table = table.filter(pc.is_in(table.column("id"), pa.array(ids, pa.string())))
                table = table if limit is None else table.slice(0, limit - count)
                writer.write_table(table)
                count += table.num_rows
    return {"schema": SCHEMA, "folder": str(folder), "images": count, "files": PARQUET}


def export_labels(
    labels: StoredLabels, folder: Path, choice: PolicyChoice, ids: Sequence[str] | None, limit: int | None
) -> dict[str, Any]:
    """Return what was written: for each image its labels as a file, with what the policy does not keep left open.

    Args:
        labels: The store, within its run.
        folder: Where they go.
        choice: The policy.
        ids: Images to take; None takes all that can be used.
        limit: At most so many.

    Raises:
        DataError: The store does not hold one of `ids`, or it cannot be used.
        StoreError: The store lies in no run, so that it is not known where the images are.
        RunError: `folder` is not empty, or cannot be written to.
    """
    index, config, policy, task = labels.index, labels.config, labels.fitted(choice), labels.task
    if index is None or config is None:
        raise StoreError(f"{labels.folder} lies in no run, so it is not known where its images are; give the run")
    usable = labels.store.usable_ids()
    if ids is not None:
        _refuse_unknown(ids, labels, usable)
    chosen = list(islice(sorted(usable) if ids is None else ids, limit))
    wanted = set(chosen)
    entries = (index.entry(int(row))[1] for row in index.rows("unlabelled"))
    paths = {entry.id: entry.path for entry in entries if entry.id in wanted}
    if wanted - paths.keys():
        raise StoreError(f"{index.path} does not list the image '{min(wanted - paths.keys())}' of {labels.folder}")
    with _new_folder(folder):
        files: dict[str, Path | None] = {}
        writer = task.writer(folder / task.label_files)
        for id_ in chosen:
            row = labels.store.row(id_)
            scored = task.from_row(row)
            kept = task.apply(scored, task.decide(scored, policy))
            files[id_] = writer.write(id_, kept, (row["height"], row["width"]), paths[id_])
        writer.close()
        write_text(folder / LIST, "".join(f"{id_}\n" for id_ in chosen))
        write_json(folder / CLASSES, {"classes": list(labels.classes)})
        write_text(
            folder / README,
            _README.format(
                count=len(chosen), files=f"{task.label_files}/", holds=task.correcting.files, classes=CLASSES,
                list=LIST, exported=EXPORTED, left_open=task.correcting.left_open.format(policy=choice.name),
                steps=task.correcting.steps.format(folder=folder / task.label_files), folder=folder,
            ),
        )  # fmt: skip
        images = dict(_described(task, folder, chosen, paths, files))
        write_json(folder / EXPORTED, {**_head(labels, config.data, choice), "images": images})
    return {"schema": SCHEMA, "folder": str(folder), "images": len(chosen), "files": task.label_files}


def _head(labels: StoredLabels, data: DataConfig, choice: PolicyChoice) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "store": str(labels.folder),
        "task": labels.manifest["teacher"]["task"],
        "classes": list(labels.classes),
        "policy": choice.model_dump(mode="json"),
        "data": {"sources": list(data.sources), "labelled": data.labelled, "unlabelled": data.unlabelled},
    }


def _described(
    task: Task[Any, Any], folder: Path, ids: Sequence[str], paths: dict[str, Path], files: dict[str, Path | None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    source = None
    for id_ in ids:
        # Read back: what matters is what the file says, not what was in memory.
        source = source or reader(task, folder, image_root(id_, paths[id_]))
        file = files[id_]
        said = source.read_labels(Entry(id_, paths[id_], file))
        yield (
            id_,
            {
                "image": str(paths[id_]),
                "file": file and str(file.relative_to(folder)),
                "said": task.said(said),
            },
        )


def reader(task: Task[Any, Any], folder: Path, images: Path) -> DataSource:
    """Return what reads the labels that were exported to `folder`."""
    settings = task.written_source(images, folder / task.label_files, folder / LIST)
    return build_source(DataSourceChoice.model_validate(settings), task.classes)


def image_root(id_: str, path: Path) -> Path:
    """Return the folder below which an image's id is its path."""
    return path.parents[id_.count("/")]


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Make a folder to write to.

    Raises:
        RunError: It is not empty, or cannot be written to.
    """
    refuse_full_folder(folder)
    with writing_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield


def refuse_full_folder(folder: Path) -> None:
    """Let nothing be written among other files.

    Raises:
        RunError: The folder holds something, or is a file.
    """
    if folder.is_file():
        raise RunError(f"{folder} is a file; give a new or an empty folder with -o")
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"the folder {folder} is not empty; nothing was written there\n  give a new one with -o")


def _refuse_unknown(ids: Sequence[str], labels: StoredLabels, usable: set[str] | None = None) -> None:
    known = labels.store.usable_ids() if usable is None else usable
    known |= set() if usable is not None else {failure["id"] for failure in labels.store.failures()}
    unknown = [id_ for id_ in ids if id_ not in known]
    if unknown:
        what = "holds no" if usable is None else "holds no usable"
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        shown = ", ".join(f"'{id_}'" for id_ in unknown[:5])
        raise DataError(f"{labels.folder} {what} image {shown}{more}; `selftrain labels stats` shows what it holds")
