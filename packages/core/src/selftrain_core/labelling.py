"""Turning unlabelled images into a sealed store of scored predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selftrain_core.geometry import Geometry
from selftrain_core.index import Index
from selftrain_core.interfaces import Task
from selftrain_core.labels import ScoreStatistics
from selftrain_core.prediction import Predicted, cut, predictions
from selftrain_core.progress import Reporter
from selftrain_core.samples import PictureDataset
from selftrain_core.store import EMPTY, LABELLED, LEAK, UNREADABLE, USABLE, read_shard, seal, shard_path, write_shard

ROWS_PER_SHARD = 256


def label(
    folder: Path,
    model: nn.Module,
    task: Task[Any, Any],
    index: Index,
    *,
    canvas: tuple[int, int],
    device: torch.device,
    batch: int,
    workers: int,
    facts: Mapping[str, Any],
    reporter: Reporter,
) -> dict[str, Any]:
    """Return the manifest of a store with the model's predictions on every unlabelled image.

    Shards that are already there are kept, so an interrupted labelling goes on at the first missing one.

    Args:
        folder: The store.
        model: The teacher, on `device`.
        task: Turns predictions into rows.
        index: The run's images.
        canvas: (height, width) the teacher sees.
        device: Where to predict.
        batch: Images in a forward pass.
        workers: Processes that read images.
        facts: Written into the manifest: which teacher, which geometry.
        reporter: Tells people.
    """
    rows = index.rows("unlabelled")
    entries = [index.entry(int(row))[1] for role in ("validation", "test") for row in index.rows(role)]
    held_out = {content_digest(entry.path): entry.id for entry in entries}
    shards = cut(range(len(rows)), ROWS_PER_SHARD)
    missing = [number for number in range(len(shards)) if not shard_path(folder, number).is_file()]
    done = len(rows) - sum(len(shards[number]) for number in missing)
    batches = [places for number in missing for places in cut(shards[number], batch)]
    found = _flat(predictions(model, task, PictureDataset(index, rows, canvas), batches, device, workers))
    for number in missing:
        shard: list[dict[str, Any]] = []
        for place in shards[number]:
            result = next(found)
            assert result.place == place, "predictions come in order"
            shard.append(_row(result, int(rows[place]), index, task, canvas, held_out))
            done += 1
            if done % batch == 0 or done == len(rows):
                reporter.tell("progress", done=done, total=len(rows))
        write_shard(shard_path(folder, number), task.row_schema(), shard)
    return seal(folder, len(shards), _statistics(folder, len(shards), task), task.classes, facts)


def _flat(batches: Iterator[list[Predicted]]) -> Iterator[Predicted]:
    for results in batches:
        yield from results


def _row(
    result: Predicted,
    row: int,
    index: Index,
    task: Task[Any, Any],
    canvas: tuple[int, int],
    held_out: Mapping[str, str],
) -> dict[str, Any]:
    entry = index.entry(row)[1]
    id_ = entry.id
    if result.failure:
        return {"id": id_, "state": UNREADABLE, "reason": result.failure}
    twin = held_out.get(content_digest(entry.path))
    if twin is not None:
        return {"id": id_, "state": LEAK, "reason": f"its bytes equal those of the held-out image '{twin}'"}
    geometry = Geometry.fit(result.prediction.original, canvas)
    holds_something = task.statistics(task.as_labels(result.prediction)).images_C.any()
    return {
        "id": id_,
        "state": LABELLED if holds_something else EMPTY,
        "height": geometry.original[0],
        "width": geometry.original[1],
        "matrix": geometry.matrix_23.ravel().tolist(),
        **task.to_row(result.prediction),
    }


def _statistics(folder: Path, num_shards: int, task: Task[Any, Any]) -> ScoreStatistics:
    # From the shards as they lie, so that an interrupted labelling counts what it did before.
    total = ScoreStatistics.empty(task.num_classes)
    for number in range(num_shards):
        table = read_shard(shard_path(folder, number))
        for batch in table.to_batches():
            for row in batch.to_pylist():
                if row["state"] in USABLE:
                    total = total + task.statistics(task.from_row(row))
    return total


def content_digest(path: Path) -> str:
    """Return what two files share if and only if their bytes are equal."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return f"unreadable {path}"  # equals no other file's; reading the image says what is wrong with it


def missing_classes(statistics: ScoreStatistics, classes: tuple[str, ...]) -> list[str]:
    """Return the classes that no labelled image holds."""
    absent: NDArray[np.bool_] = statistics.images_C == 0
    return [name for name, is_absent in zip(classes, absent, strict=True) if is_absent]
