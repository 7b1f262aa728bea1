"""Which images are in the batch of step t: a pure function of (seed, stage, t).

A stream is read in rounds called visits: within a visit every image comes once, in an order drawn anew. Neither the
number of ranks, nor of workers, nor of micro-batches enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selftrain_core.errors import DataError
from selftrain_core.keys import fold, name_key


@dataclass(frozen=True, slots=True)
class Visit:
    """One image in a batch.

    Attributes:
        position: Its place in the stream's list of images.
        number: How often the image was in a batch before.
    """

    position: int
    number: int


@dataclass(frozen=True)
class StreamPlan:
    """The order in which one stream is read.

    Attributes:
        name: The stream's name: ``human``, ``pseudo``, or an extra stream's.
        ids: int64 [n], the images' id keys, n ≥ 1.
        images_per_step: Images this stream adds to each step, over all ranks and micro-batches.
    """

    name: str
    ids: Tensor
    images_per_step: int

    def __post_init__(self) -> None:
        """Refuse an empty stream.

        Raises:
            DataError: The stream holds no image although the batch asks for some.
        """
        if self.images_per_step and not len(self.ids):
            raise DataError(
                f"the stream '{self.name}' holds no image, but each step takes {self.images_per_step} of it"
            )


class Plan:
    """``plan[t]`` is the batch of step `t`: for each stream the images and their visit numbers.

    Args:
        seed: The run's seed.
        stage: The stage's name, such as ``round-1/student``.
        streams: The streams, in the order in which they are concatenated.
    """

    def __init__(self, seed: int, stage: str, streams: Sequence[StreamPlan]) -> None:
        self.streams = tuple(streams)
        self._key = fold(seed, name_key(stage))
        self._orders: dict[tuple[int, int], Tensor] = {}

    def __getitem__(self, step: int) -> Mapping[str, list[Visit]]:
        """Return the images of one step, by stream."""
        return {stream.name: self._visits(index, step) for index, stream in enumerate(self.streams)}

    def share(self, step: int, part: int, num_parts: int) -> Mapping[str, list[Visit]]:
        """Return the part of a step that one micro-batch of one rank takes; the parts together are the step."""
        return {name: visits[part::num_parts] for name, visits in self[step].items()}

    def _visits(self, index: int, step: int) -> list[Visit]:
        stream = self.streams[index]
        start = step * stream.images_per_step
        visits = []
        for place in range(start, start + stream.images_per_step):
            number, offset = divmod(place, len(stream.ids))
            visits.append(Visit(int(self._order(index, number)[offset]), number))
        return visits

    def _order(self, index: int, visit: int) -> Tensor:
        # A dictionary, not functools.cache: the plan is pickled for loaders' workers.
        if (index, visit) not in self._orders:
            if len(self._orders) >= 4 * len(self.streams):
                self._orders.clear()
            stream = self.streams[index]
            draws = fold(self._key, name_key(stream.name), visit, stream.ids)
            self._orders[index, visit] = torch.argsort(draws, stable=True)
        return self._orders[index, visit]
