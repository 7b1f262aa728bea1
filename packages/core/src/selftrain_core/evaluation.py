"""Scoring a model on labelled images, each once, shared among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selftrain_core.data_source import DataSource
from selftrain_core.distributed import rank, world_size
from selftrain_core.errors import DataError
from selftrain_core.index import Index
from selftrain_core.interfaces import Task
from selftrain_core.precision import Precision
from selftrain_core.prediction import cut, predictions
from selftrain_core.samples import HumanLabels, IndexPictures, PictureDataset
from selftrain_core.views import PLAIN_VIEW, View


def evaluate_model(
    model: nn.Module,
    task: Task[Any, Any],
    index: Index,
    sources: Mapping[str, DataSource],
    rows: NDArray[np.int64],
    *,
    canvas: tuple[int, int],
    device: torch.device,
    batch: int,
    workers: int,
    views: Sequence[View] = PLAIN_VIEW,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Return the task's scores of `model` on the images `rows`, measured at the labels' own resolution.

    Args:
        model: On `device`; its mode is as before afterwards.
        task: Predicts and measures.
        index: The run's images.
        sources: Where the labels come from.
        rows: int64 row numbers of the images.
        canvas: (height, width) the model sees.
        device: Where to predict.
        batch: Images in a forward pass.
        workers: Processes that read images.
        views: How the model looks at each image.
        precision: In which the model computes.
        progress: Called with (images done, images in all) of this rank.

    Raises:
        DataError: An image or its labels cannot be read.
    """
    mine = rows[rank() :: world_size()]
    labels = HumanLabels(index, sources)
    metric = task.metric(device)
    dataset = PictureDataset(IndexPictures(index, mine), canvas)
    done = 0
    batches = cut(range(len(mine)), batch)
    for results in predictions(model, task, dataset, batches, device, workers, views, precision):
        for result in results:
            if result.failure:
                raise DataError(result.failure)
            metric.update(result.prediction, labels(int(mine[result.place]))[0])
        done += len(results)
        if progress:
            progress(done, len(mine))
    return metric.compute()
