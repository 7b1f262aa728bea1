"""From the index and a label provider to batches of fixed shape. Runs in the loader's worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from selftrain_core.batch import HUMAN, PSEUDO, Batch, Targets, collate
from selftrain_core.data_source import DataSource
from selftrain_core.errors import DataError, SelftrainError, StoreError
from selftrain_core.geometry import Geometry, image_on_canvas
from selftrain_core.images import read_picture
from selftrain_core.index import Index
from selftrain_core.interfaces import Policy, Task
from selftrain_core.keys import name_key
from selftrain_core.labels import KEEP, Decisions, Labels
from selftrain_core.plan import Plan
from selftrain_core.store import PseudoLabelStore


class Labeller(Protocol):
    """Says what is known of an image in the index."""

    @property
    def source(self) -> int:
        """`HUMAN` or `PSEUDO`."""

    def __call__(self, row: int) -> tuple[Labels, Decisions | None]:
        """Return the labels of an image, and what the policy decided of them."""


@dataclass(frozen=True)
class HumanLabels:
    """Labels that people made, read through the data sources."""

    index: Index
    sources: Mapping[str, DataSource]
    source: int = HUMAN

    def __call__(self, row: int) -> tuple[Labels, None]:
        """Return the labels of an image."""
        name, entry = self.index.entry(row)
        return self.sources[name].read_labels(entry), None


@dataclass(frozen=True)
class PseudoLabels:
    """A teacher's predictions, read from its store and judged by the policy."""

    index: Index
    store: PseudoLabelStore
    task: Task[Any, Any]
    policy: Policy
    source: int = PSEUDO

    def __call__(self, row: int) -> tuple[Labels, Decisions]:
        """Return the predictions on an image and the decisions on them."""
        id_ = self.index.entry(row)[1].id
        columns = self.store.row(id_)
        try:
            labels: Labels = self.task.from_row(columns)
        except Exception as error:  # damaged columns make decoders stumble in ways of their own
            raise StoreError(
                f"the labels of '{id_}' in {self.store.folder} are damaged: {error}\n"
                "  delete that folder and run the same command: it is made again"
            ) from error
        return labels, self.task.decide(labels, self.policy)


def rows_with_labels(rows: NDArray[np.int64], labeller: PseudoLabels) -> NDArray[np.int64]:
    """Return those of `rows` of whose predictions the policy keeps something.

    Raises:
        DataError: It keeps nothing of any.
    """
    is_kept = np.array([bool((labeller(int(row))[1].actions == KEEP).any()) for row in rows], np.bool_)
    if not is_kept.any():
        raise DataError(
            f"the policy keeps nothing of what the teacher saw in {len(rows):,} images, and student.negatives is "
            "false: there is nothing to learn from\n  lower the policy's threshold, train the teacher for longer, or "
            "set student.negatives: true"
        )
    return rows[is_kept]


@dataclass(frozen=True)
class Stream:
    """A named flow of images into the batch.

    Attributes:
        name: ``human`` or ``pseudo``; an extra stream has its own.
        rows: int64, row numbers in the index.
        images_per_step: Images it adds to each step.
        labeller: Where its labels come from.
    """

    name: str
    rows: NDArray[np.int64]
    images_per_step: int
    labeller: Labeller

    def ids(self, index: Index) -> torch.Tensor:
        """Return the id keys of its images, int64 [n]."""
        return torch.tensor([name_key(id_) for id_ in index.ids(self.rows)], dtype=torch.int64)


class Reads(Protocol):
    """What a stream's images are made into samples with: a task, or nothing where they have no labels."""

    def to_targets(self, labels: Any, decisions: Decisions | None, geometry: Geometry) -> Targets:
        """Return the targets of one image."""


@dataclass(frozen=True)
class Group:
    """Streams whose images go through a model together.

    Attributes:
        index: Their images.
        streams: Concatenated in this order into one forward pass.
        task: Builds the targets.
        canvas: (height, width).
    """

    index: Index
    streams: tuple[Stream, ...]
    task: Reads
    canvas: tuple[int, int]


class StepDataset(Dataset[list[Batch] | SelftrainError]):
    """``dataset[t]`` is this rank's micro-batches of step t. An error is returned, not raised: see `raised`.

    Args:
        index: The run's images.
        streams: Concatenated in this order into one forward pass.
        plan: Which images come when.
        task: Builds the targets.
        canvas: (height, width).
        rank: This process's rank.
        ranks: Number of ranks.
        micro_batches: Parts into which each rank cuts its share.
        steps: Number of steps.
        joint: Streams with forward passes of their own; their micro-batches come behind the others, group by group.
    """

    def __init__(
        self,
        index: Index,
        streams: Sequence[Stream],
        plan: Plan,
        task: Reads,
        canvas: tuple[int, int],
        steps: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        micro_batches: int = 1,
        joint: Sequence[Group] = (),
    ) -> None:
        self.streams, self.plan = tuple(streams), plan
        self.groups = (Group(index, self.streams, task, canvas), *joint)
        self.rank, self.ranks, self.micro_batches, self.steps = rank, ranks, micro_batches, steps

    def fingerprint(self) -> str:
        """Return a digest of which images the streams hold; ranks whose fingerprints differ must not train together."""
        hashed = hashlib.sha256()
        for group in self.groups:
            for stream in group.streams:
                hashed.update(f"{stream.name} {stream.images_per_step} {list(group.index.ids(stream.rows))}".encode())
        return hashed.hexdigest()

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.steps

    def __getitem__(self, step: int) -> list[Batch] | SelftrainError:
        """Return the micro-batches of a step, or the error that stopped one of its images."""
        parts = self.ranks * self.micro_batches
        try:
            first = self.rank * self.micro_batches
            numbers = range(first, first + self.micro_batches)
            return [self._part(group, step, number, parts) for group in self.groups for number in numbers]
        except SelftrainError as error:
            return error

    def _part(self, group: Group, step: int, part: int, parts: int) -> Batch:
        share = self.plan.share(step, part, parts)
        return collate(
            [
                _sample(group, int(stream.rows[visit.position]), visit.number, stream.labeller)
                for stream in group.streams
                for visit in share[stream.name]
            ]
        )


def _sample(group: Group, row: int, visit: int, labeller: Labeller) -> Batch:
    entry = group.index.entry(row)[1]
    labels, decisions = labeller(row)
    try:
        return one_image(
            read_picture(entry.path),
            group.canvas,
            entry.id,
            visit=visit,
            source=labeller.source,
            targets=lambda geometry: group.task.to_targets(labels, decisions, geometry),
        )
    except SelftrainError as error:
        raise type(error)(f"{error}\n  (image '{entry.id}'; take it out of its list, or mend it)") from error


@dataclass(frozen=True)
class Pictures:
    """One forward pass without labels: the images that could be read, and the reasons of those that could not."""

    batch: Batch | None
    places: list[int]
    failures: dict[int, str]


class PictureList(Protocol):
    """Ids and files of images; a list of pairs is one."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, place: int, /) -> tuple[str, Path]:
        """Return id and file of the image at a place."""


@dataclass(frozen=True)
class IndexPictures:
    """Ids and files of the images of some rows of the index, read one at a time."""

    index: Index
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, place: int, /) -> tuple[str, Path]:
        """Return id and file of the image at a place."""
        entry = self.index.entry(int(self.rows[place]))[1]
        return entry.id, entry.path


class PictureDataset(Dataset[tuple[int, Batch | str]]):
    """Images alone, on their canvas, for prediction; an unreadable one gives its reason instead.

    Args:
        pictures: Id and file of each image.
        canvas: (height, width).
    """

    def __init__(self, pictures: PictureList, canvas: tuple[int, int]) -> None:
        self.pictures, self.canvas = pictures, canvas

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pictures)

    def __getitem__(self, place: int) -> tuple[int, Batch | str]:
        """Return a place in `pictures` with its picture or the reason why there is none."""
        id_, path = self.pictures[place]
        try:
            return place, one_picture(path, id_, self.canvas)
        except SelftrainError as error:
            return place, str(error)


def _no_targets(geometry: Geometry) -> Targets:
    return Targets()


def one_picture(path: Path, id_: str, canvas: tuple[int, int]) -> Batch:
    """Return an image on its canvas without targets and without a batch axis.

    Raises:
        DataError: The image cannot be read.
    """
    return one_image(read_picture(path), canvas, id_)


def gather_pictures(items: Sequence[tuple[int, Batch | str]]) -> Pictures:
    """Return one batch of what `PictureDataset` gave."""
    good = [(place, item) for place, item in items if isinstance(item, Batch)]
    failures = {place: item for place, item in items if isinstance(item, str)}
    return Pictures(collate([item for _, item in good]) if good else None, [place for place, _ in good], failures)


def raised(item: list[Batch] | SelftrainError) -> list[Batch]:
    """Return the micro-batches, or raise the error that came in their place.

    A loader wraps an exception of its workers in a page of traceback; an error that is an item keeps its own words.
    """
    if isinstance(item, SelftrainError):
        raise item
    return item


def one_image(
    image: Image.Image,
    canvas: tuple[int, int],
    id_: str,
    *,
    visit: int = 0,
    source: int = HUMAN,
    targets: Callable[[Geometry], Targets] = _no_targets,
) -> Batch:
    """Return an image on its canvas, without a batch axis.

    Args:
        image: Of mode RGB.
        canvas: (height, width).
        id_: The image's id.
        visit: How often it was in a batch before.
        source: `HUMAN` or `PSEUDO`.
        targets: Gives the targets, once it is known how the image lies.
    """
    geometry = Geometry.fit((image.height, image.width), canvas)
    return Batch(
        image_B3HW=torch.from_numpy(image_on_canvas(image, geometry)).permute(2, 0, 1),
        valid_B2=torch.tensor(geometry.valid),
        id_B=torch.tensor(name_key(id_)),
        visit_B=torch.tensor(visit),
        original_B2=torch.tensor(geometry.original),
        matrix_B23=torch.from_numpy(geometry.matrix_23).float(),
        source_B=torch.tensor(source),
        targets=targets(geometry),
    )
