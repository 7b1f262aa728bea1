"""Running a model over images, in order, without gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from selftrain_core.batch import float_images
from selftrain_core.interfaces import Task
from selftrain_core.precision import InPrecision, Precision
from selftrain_core.samples import PictureDataset, Pictures, gather_pictures
from selftrain_core.threads import in_threads, shared_out
from selftrain_core.views import PLAIN_VIEW, View


@dataclass(frozen=True)
class Predicted:
    """What came of one image.

    Attributes:
        place: Its place in the dataset.
        prediction: The task's prediction, or None where the image could not be read.
        failure: Why it could not be read.
    """

    place: int
    prediction: Any
    failure: str = ""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode without gradient, and every module back into the mode it had."""
    with _in_evaluation_mode(model), torch.inference_mode():
        yield


@contextmanager
def _in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    in_training = [module for module in model.modules() if module.training]
    if in_training:  # a model that only predicts is spared the round through its hundreds of modules
        model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def predictions(
    model: nn.Module,
    task: Task[Any, Any],
    dataset: PictureDataset,
    batches: Sequence[Sequence[int]],
    device: torch.device,
    workers: int,
    views: Sequence[View] = PLAIN_VIEW,
    precision: Precision = "float32",
) -> Iterator[list[Predicted]]:
    """Yield the predictions of the places in `dataset` of all batches, in order, as many at once as come.

    Args:
        model: On `device`.
        task: Interprets the model's outputs.
        dataset: The images.
        batches: Places in the dataset, a list for as many images as memory has room for at once.
        device: Where to predict.
        workers: Processes that read images.
        views: How the model looks at each image.
        precision: In which the model computes.
    """
    lanes = _lanes(device, max(map(len, batches), default=0))
    if lanes > 1:
        batches = [part for places in batches for part in cut(places, -(-len(places) // lanes))]
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_sampler=cast("Iterable[list[int]]", batches), num_workers=workers, collate_fn=gather_pictures,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    seen = model if precision == "float32" else InPrecision(model, precision)
    dtype = next(model.parameters()).dtype

    def predict(pictures: Pictures) -> list[Predicted]:
        results = [Predicted(place, None, reason) for place, reason in pictures.failures.items()]
        if pictures.batch is not None:
            batch = pictures.batch.to(device, non_blocking=True)
            with torch.inference_mode():
                found = task.predict(seen, replace(batch, image_B3HW=float_images(batch.image_B3HW, dtype)), views)
            results += [Predicted(place, item) for place, item in zip(pictures.places, found, strict=True)]
        return sorted(results, key=lambda result: result.place)

    with _in_evaluation_mode(model), shared_out(lanes):
        yield from map(predict, loader) if lanes == 1 else in_threads(predict, loader, threads=lanes, ahead=lanes)


IMAGES_PER_LANE = 4
"""Fewer in a forward pass cost Python, of which one thread at a time runs, more than they gain."""


def _lanes(device: torch.device, images: int) -> int:
    """Return into how many parts, computed at once, a batch of `images` is cut.

    Threads that share out each layer wait for one another after each, and all for one that had to step back for a
    process that reads images. On a processor they therefore share out the images of a batch.
    """
    return min(torch.get_num_threads(), max(1, images // IMAGES_PER_LANE)) if device.type == "cpu" else 1


def cut(places: Sequence[int], size: int) -> list[Sequence[int]]:
    """Return `places` cut into pieces of `size`; the last may be shorter. Pieces of a range take no memory."""
    return [places[start : start + size] for start in range(0, len(places), size)]
