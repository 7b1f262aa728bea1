"""Running a model over images, in order, without gradient."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from selftrain_core.batch import float_images
from selftrain_core.interfaces import Task
from selftrain_core.precision import InPrecision, Precision
from selftrain_core.samples import PictureDataset, gather_pictures
from selftrain_core.views import PLAIN_VIEW, View

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


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
    in_training = [module for module in model.modules() if module.training]
    if in_training:  # a model that only predicts is spared the round through its hundreds of modules
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True


def predictions(
    model: nn.Module,
    task: Task[Any, Any],
    dataset: PictureDataset,
    batches: Iterable[Sequence[int]],
    device: torch.device,
    workers: int,
    views: Sequence[View] = PLAIN_VIEW,
    precision: Precision = "float32",
) -> Iterator[list[Predicted]]:
    """Yield the predictions of each batch of places in `dataset`, in order.

    Args:
        model: On `device`.
        task: Interprets the model's outputs.
        dataset: The images.
        batches: Places in the dataset, a list per forward pass.
        device: Where to predict.
        workers: Processes that read images.
        views: How the model looks at each image.
        precision: In which the model computes.
    """
    seen = model if precision == "float32" else InPrecision(model, precision)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_sampler=cast("Iterable[list[int]]", batches), num_workers=workers, collate_fn=gather_pictures,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    dtype = next(model.parameters()).dtype
    for pictures in loader:
        results = [Predicted(place, None, reason) for place, reason in pictures.failures.items()]
        if pictures.batch is not None:
            batch = pictures.batch.to(device, non_blocking=True)
            with evaluating(model):
                found = task.predict(seen, replace(batch, image_B3HW=float_images(batch.image_B3HW, dtype)), views)
            results += [Predicted(place, item) for place, item in zip(pictures.places, found, strict=True)]
        yield sorted(results, key=lambda result: result.place)


def cut(places: Sequence[int], size: int) -> list[Sequence[int]]:
    """Return `places` cut into pieces of `size`; the last may be shorter. Pieces of a range take no memory."""
    return [places[start : start + size] for start in range(0, len(places), size)]


def in_thread(function: Callable[[ItemT], ResultT], items: Iterable[ItemT], ahead: int = 1) -> Generator[ResultT]:
    """Yield ``function(item)`` of each item in order, computed in another thread while the next items come.

    Closed early, it drops what has not begun, and waits for what has.

    Args:
        function: Never runs twice at once.
        items: Taken in this thread.
        ahead: Items that may wait.
    """
    thread = ThreadPoolExecutor(1)
    waiting: deque[Future[ResultT]] = deque()
    try:
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)
