"""Looking at every image with human labels once, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from selftrain_core.errors import DataError
from selftrain_core.geometry import Geometry
from selftrain_core.images import read_image
from selftrain_core.index import Index
from selftrain_core.interfaces import Task
from selftrain_core.labelling import content_digest, missing_classes
from selftrain_core.labels import Labels, ScoreStatistics
from selftrain_core.samples import HumanLabels

ROLES_WITH_LABELS = ("labelled", "validation", "test")
IMAGES_PER_REPORT = 100
"""Images between two words on how far the check is."""
REMARKS_SHOWN = 10
"""Remarks of one part that are told word by word; the others are counted."""
MOST_OVERFLOWING = 0.01
"""The share of the labelled images whose labels may find no place in their targets; more is an error."""


def check_labels(
    index: Index,
    labels: HumanLabels,
    task: Task[Any, Any],
    canvas: tuple[int, int],
    *,
    allow_missing_classes: bool,
    progress: Callable[[int, int], None],
    remark: Callable[[str], None],
) -> ScoreStatistics:
    """Return what people labelled, once every image to train on, to validate and to test with has been read.

    Args:
        index: The run's images.
        labels: Reads their labels.
        task: Fits the labels to the images.
        canvas: (height, width).
        allow_missing_classes: Whether a class may be shown by no labelled image.
        progress: Told how many images of how many have been read.
        remark: Told, of each part at most once, what was left out of its labels or changed in them.

    Raises:
        DataError: An image or a label cannot be read, a label does not fit its image, an image is in two parts under
            two names, the labels of a part show nothing, no labelled image shows some class, or more than
            `MOST_OVERFLOWING` of the labelled images have labels that find no place in their targets.
    """
    rows = {role: index.rows(role) for role in ROLES_WITH_LABELS}
    total, done = sum(map(len, rows.values())), 0
    seen: dict[str, tuple[str, str]] = {}
    statistics: dict[str, ScoreStatistics] = {}
    for role in ROLES_WITH_LABELS:
        statistics[role] = ScoreStatistics.empty(task.num_classes)
        notes = _Notes(role, index, labels, task)
        for row in map(int, rows[role]):
            known, geometry = _read(index, labels, task, canvas, role, row, seen)
            # In pixels of the canvas, as the teacher's are: a large photo says no more than a small one.
            statistics[role] = statistics[role] + task.statistics(known, geometry)
            notes.add(row, known)
            done += 1
            if done % IMAGES_PER_REPORT == 0:
                progress(done, total)
        if text := notes.text():
            remark(text)
        notes.refuse_overflow()
        _refuse_nothing(role, statistics[role], task.classes)
        if role != "labelled" and (unmeasured := missing_classes(statistics[role], task.classes)):
            remark(f"data.{role} shows no {', '.join(unmeasured)}: its scores say nothing of that")
    labelled = statistics["labelled"]
    absent = missing_classes(labelled, task.classes)
    if absent and not allow_missing_classes:
        raise DataError(
            f"no labelled image shows: {', '.join(absent)}\n  what they do show: "
            f"{', '.join(name for name in task.classes if name not in absent)}\n"
            "  check the order of data.classes, label such images, or set data.allow_missing_classes: true"
        )
    return labelled


def _read(
    index: Index,
    labels: HumanLabels,
    task: Task[Any, Any],
    canvas: tuple[int, int],
    role: str,
    row: int,
    seen: dict[str, tuple[str, str]],
) -> tuple[Labels, Geometry]:
    """Return the labels of an image and how it lies on the canvas, and remember its bytes in `seen`."""
    entry = index.entry(row)[1]
    try:
        known, _ = labels(row)
        height, width = read_image(entry.path).shape[:2]
        geometry = Geometry.fit((height, width), canvas)
        task.to_targets(known, None, geometry)
    except DataError as error:
        files = " and ".join(str(path) for path in (entry.path, entry.label_path) if path)
        remedy = f"('{entry.id}' of data.{role}, {files}; take it out of its list, or mend it)"
        raise DataError(f"{error}\n  {remedy}") from error
    first, twin = seen.setdefault(content_digest(entry.path), (role, entry.id))
    if first != role:
        raise DataError(f"'{entry.id}' of data.{role} and '{twin}' of data.{first} are the same picture; take one out")
    return known, geometry


class _Notes:
    """What is to be said of one part's labels.

    Args:
        role: The part.
        index: The run's images.
        labels: Reads their labels.
        task: Knows how many of them find place.
    """

    def __init__(self, role: str, index: Index, labels: HumanLabels, task: Task[Any, Any]) -> None:
        self._role, self._index, self._labels, self._task = role, index, labels, task
        self._images = 0
        self._sources: set[str] = set()
        self._lines: list[str] = []
        self._count = self._images_with_remarks = 0
        self._overflow: list[tuple[int, str]] = []

    def add(self, row: int, known: Labels) -> None:
        """Look at the labels of one image."""
        name, entry = self._index.entry(row)
        source = self._labels.sources[name]
        self._images += 1
        if name not in self._sources:
            self._sources.add(name)
            self._extend(source.remarks(None))
        found = source.remarks(entry)
        self._images_with_remarks += bool(found)
        self._extend(f"'{entry.id}': {line}" for line in found)
        if overflow := self._task.overflow(known):
            self._overflow.append((overflow, entry.id))

    def _extend(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._count += 1
            if len(self._lines) < REMARKS_SHOWN:
                self._lines.append(line)

    def text(self) -> str:
        """Return what to tell people, empty where there is nothing."""
        parts = []
        if self._count:
            # None, where what was left out belongs to no image of the part.
            of = f" of {self._images_with_remarks:,} of {self._images:,} images" if self._images_with_remarks else ""
            parts.append(f"data.{self._role}: labels{of} were left out or changed")
            parts += [f"  {line}" for line in self._lines]
            if more := self._count - len(self._lines):
                parts.append(f"  and {more:,} more")
        if self._overflow and self._is_taught and not self._overflows:
            parts.append(f"{self._overflowing()}; what finds none is not trained on{self._advice()}")
        return "\n".join(parts)

    def refuse_overflow(self) -> None:
        """Check that the labels of nearly all images to learn from find place.

        Raises:
            DataError: They do not.
        """
        if self._is_taught and self._overflows:
            raise DataError(f"{self._overflowing()}{self._advice()}")

    @property
    def _is_taught(self) -> bool:
        return self._role == "labelled"  # the others' labels are measured with as they are, not fitted into targets

    @property
    def _overflows(self) -> bool:
        return len(self._overflow) > MOST_OVERFLOWING * self._images

    def _overflowing(self) -> str:
        worst, id_ = max(self._overflow)
        return (
            f"{len(self._overflow):,} of {self._images:,} images of data.{self._role} have more labels than their "
            f"targets have places, '{id_}' by {worst:,}"
        )

    def _advice(self) -> str:
        advice = self._task.overflow_advice(max(self._overflow)[0])
        return f"\n  {advice}" if advice else ""


def _refuse_nothing(role: str, statistics: ScoreStatistics, classes: tuple[str, ...]) -> None:
    if statistics.images_C.any():
        return
    purpose = "learn from" if role == "labelled" else "measure with"
    raise DataError(
        f"the {statistics.num_images} images of data.{role} show none of the classes {', '.join(classes)}: there is "
        f"nothing to {purpose}\n  look at their label files: they may be all ignored, of crowds, empty, or those "
        "of other images"
    )
