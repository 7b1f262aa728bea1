"""Turning unlabelled images into a sealed store of scored predictions."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selftrain_core.batch import Batch
from selftrain_core.distributed import gather_objects, rank, world_size
from selftrain_core.geometry import Geometry
from selftrain_core.index import Index
from selftrain_core.interfaces import Policy, Task
from selftrain_core.labels import HISTOGRAM_BINS, KEEP, ScoreStatistics
from selftrain_core.precision import Precision
from selftrain_core.prediction import Predicted, cut, predictions
from selftrain_core.progress import Reporter
from selftrain_core.samples import IndexPictures, PictureDataset, PictureList
from selftrain_core.store import EMPTY, LABELLED, LEAK, UNREADABLE, open_shard, seal, shard_path, write_shard
from selftrain_core.threads import in_threads
from selftrain_core.views import View

ROWS_PER_SHARD = 256

_STATISTICS = "statistics"
"""Where a shard's metadata keep the statistics of its images, so that nobody need decode them again to count."""


def write_shards(
    folder: Path,
    model: nn.Module,
    task: Task[Any, Any],
    index: Index,
    *,
    canvas: tuple[int, int],
    device: torch.device,
    batch: int,
    workers: int,
    views: Sequence[View],
    top_k: int,
    reporter: Reporter,
    precision: Precision = "float32",
) -> None:
    """Write the shards of a store with the model's predictions on every unlabelled image.

    Shards that are already there are kept, so an interrupted labelling goes on at the missing ones. The ranks share
    them out, and return once all are there.

    Args:
        folder: The store.
        model: The teacher, on `device`.
        task: Turns predictions into rows.
        index: The run's images.
        canvas: (height, width) the teacher sees.
        device: Where to predict.
        batch: Images in a forward pass.
        workers: Processes that read images.
        views: How the teacher looks at each image.
        top_k: Classes to keep for each element of a prediction.
        reporter: Tells people.
        precision: In which the model computes.

    Raises:
        StoreError: A shard that is there is damaged.
        RunError: The disk is full or the folder is not writable.
    """
    rows = index.rows("unlabelled")
    shards = cut(range(len(rows)), ROWS_PER_SHARD)
    missing = _missing(folder, len(shards))
    mine = missing[rank() :: world_size()]
    batches = [places for number in mine for places in cut(shards[number], batch)]
    dataset = PoolDataset(IndexPictures(index, rows), canvas, held_out(index))
    writer = _ShardWriter(folder, task, dataset.pictures, canvas, top_k, [(n, len(shards[n])) for n in mine])
    before = len(rows) - sum(len(shards[number]) for number in missing)
    whole = own = elsewhere = 0
    found = predictions(model, task, dataset, batches, device, workers, views, precision)
    # Rows are made while a GPU computes. On a processor both want the same cores, and two pools of threads do less.
    made = (writer.add(results) for results in found) if device.type == "cpu" else in_threads(writer.add, found)
    with closing(made) as counts:
        for turn in range(-(-len(missing) // world_size())):
            whole += len(shards[mine[turn]]) if turn < len(mine) else 0
            while own < whole:
                own += next(counts)
                reporter.tell("progress", done=before + elsewhere + own, total=len(rows))
            # After each shard: no rank is to wait for another longer than a process group has patience.
            elsewhere = sum(gather_objects(own)) - own


def seal_store(folder: Path, task: Task[Any, Any], index: Index, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Seal a store whose shards have all been written, and return its manifest.

    Args:
        folder: The store.
        task: That of its predictions.
        index: The run's images.
        facts: Written into the manifest: which teacher, which geometry.

    Raises:
        StoreError: A shard is missing or damaged.
        RunError: The disk is full or the folder is not writable.
    """
    num_shards = -(-len(index.rows("unlabelled")) // ROWS_PER_SHARD)
    total = ScoreStatistics.empty(task.num_classes)
    for number in range(num_shards):
        kept = _kept_statistics(shard_path(folder, number))
        assert kept is not None, "a shard without statistics is written anew"
        total = total + kept
    return seal(folder, num_shards, total, task.classes, facts)


def _missing(folder: Path, num_shards: int) -> list[int]:
    paths = [shard_path(folder, number) for number in range(num_shards)]
    missing = [n for n, path in enumerate(paths) if not path.is_file() or _kept_statistics(path) is None]
    # As rank 0 sees it, before any rank has written one: who looked later would share out others.
    agreed: list[int] = gather_objects(missing)[0]
    return agreed


def _kept_statistics(path: Path) -> ScoreStatistics | None:
    text = (open_shard(path).schema.metadata or {}).get(_STATISTICS.encode())
    return None if text is None else ScoreStatistics.from_json(json.loads(text))


def held_out(index: Index) -> dict[str, str]:
    """Return the ids of the validation and test images by `content_digest`."""
    entries = (index.entry(int(row))[1] for role in ("validation", "test") for row in index.rows(role))
    return {content_digest(entry.path): entry.id for entry in entries}


class Leak(str):
    """Why an image that can be read is not labelled."""

    __slots__ = ()


class PoolDataset(PictureDataset):
    """The pool's images; one whose bytes equal those of a held-out image gives that as its reason.

    Args:
        pictures: Id and file of each image.
        canvas: (height, width).
        held_out: Ids of the validation and test images by `content_digest`.
    """

    def __init__(self, pictures: PictureList, canvas: tuple[int, int], held_out: Mapping[str, str]) -> None:
        super().__init__(pictures, canvas)
        self.held_out = held_out

    def __getitem__(self, place: int) -> tuple[int, Batch | str]:
        """Return a place in `pictures` with its picture or the reason why there is none."""
        found = super().__getitem__(place)
        if isinstance(found[1], str):
            return found
        # Here, in a worker, which has just read the file: the system still holds it in memory.
        twin = self.held_out.get(content_digest(self.pictures[place][1]))
        return found if twin is None else (place, Leak(f"its bytes equal those of the held-out image '{twin}'"))


class _ShardWriter:
    """Makes rows of predictions, and writes each shard once it is whole.

    Args:
        folder: The store.
        task: Turns predictions into rows.
        pictures: Ids by place.
        canvas: (height, width) the teacher sees.
        top_k: Classes to keep for each element of a prediction.
        shards: Number and rows of each shard, in the order in which predictions come.
    """

    def __init__(
        self,
        folder: Path,
        task: Task[Any, Any],
        pictures: PictureList,
        canvas: tuple[int, int],
        top_k: int,
        shards: Sequence[tuple[int, int]],
    ) -> None:
        self._folder, self._task, self._pictures, self._canvas, self._top_k = folder, task, pictures, canvas, top_k
        self._shards = deque(shards)
        self._begin()

    def _begin(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._statistics = ScoreStatistics.empty(self._task.num_classes)

    def add(self, results: Sequence[Predicted]) -> int:
        """Return the number of `results`, which are all of one shard."""
        with torch.inference_mode():  # in which they were made
            self._rows += [self._row(result) for result in results]
        number, size = self._shards[0]
        if len(self._rows) == size:
            metadata = {_STATISTICS: json.dumps(self._statistics.to_json())}
            write_shard(shard_path(self._folder, number), self._task.row_schema(), self._rows, metadata)
            self._shards.popleft()
            self._begin()
        return len(results)

    def _row(self, result: Predicted) -> dict[str, Any]:
        id_ = self._pictures[result.place][0]
        if result.failure:
            state = LEAK if isinstance(result.failure, Leak) else UNREADABLE
            return {"id": id_, "state": state, "reason": str(result.failure)}
        geometry = Geometry.fit(result.prediction.original, self._canvas)
        labels = self._task.as_labels(result.prediction, self._top_k)
        statistics = self._task.statistics(labels)
        self._statistics = self._statistics + statistics
        return {
            "id": id_,
            "state": LABELLED if statistics.images_C.any() else EMPTY,
            "height": geometry.original[0],
            "width": geometry.original[1],
            "matrix": geometry.matrix_23.ravel().tolist(),
            **self._task.to_row(labels),
        }


def content_digest(path: Path) -> str:
    """Return what two files share if and only if their bytes are equal."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return f"unreadable {path}"  # equals no other file's; reading the image says what is wrong with it


def kept_shares(policy: Policy, statistics: ScoreStatistics) -> NDArray[np.float64]:
    """Return the share of each class that a policy keeps of predictions; not a number where there is nothing of it.

    Args:
        policy: Fitted.
        statistics: Of the predictions: exact to a histogram's bin, 1/64.
    """
    histogram_CS = statistics.histogram_CS
    # Scores are counted under the lower edge of their bin: so they are judged.
    score_CS = np.broadcast_to(np.arange(HISTOGRAM_BINS, dtype=np.float32) / HISTOGRAM_BINS, histogram_CS.shape)
    class_CS = np.broadcast_to(np.arange(len(histogram_CS))[:, None], histogram_CS.shape)
    is_kept_CS = policy(np.ascontiguousarray(score_CS), np.ascontiguousarray(class_CS)).actions == KEEP
    with np.errstate(invalid="ignore"):
        share_C: NDArray[np.float64] = (histogram_CS * is_kept_CS).sum(1) / histogram_CS.sum(1)
    return share_C


def missing_classes(statistics: ScoreStatistics, classes: tuple[str, ...]) -> list[str]:
    """Return the classes that no labelled image holds."""
    absent: NDArray[np.bool_] = statistics.images_C == 0
    return [name for name, is_absent in zip(classes, absent, strict=True) if is_absent]
