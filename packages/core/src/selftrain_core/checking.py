"""Looking at every image once, before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrain_core.errors import DataError, SelftrainError
from selftrain_core.files import write_text
from selftrain_core.geometry import Geometry
from selftrain_core.images import read_image
from selftrain_core.index import Index
from selftrain_core.interfaces import Task
from selftrain_core.labelling import content_digest, held_out, missing_classes
from selftrain_core.labels import Labels, ScoreStatistics
from selftrain_core.samples import HumanLabels

CHECKED = "checked.json"
"""In a stage's folder: which images were looked at before it."""
ROLES_WITH_LABELS = ("labelled", "validation", "test")
IMAGES_PER_REPORT = 100
"""Images between two words on how far the check is."""
REMARKS_SHOWN = 10
"""Remarks of one part that are told word by word; the others are counted."""
MOST_OVERFLOWING = 0.01
"""The share of the labelled images whose labels may find no place in their targets; more is an error."""


@contextmanager
def unless_checked(path: Path, images: Mapping[str, Any]) -> Iterator[bool]:
    """Give whether images have to be looked at, and remember them in `path` once that went well.

    Args:
        path: Holds which images were looked at before.
        images: What identifies them, as JSON values.
    """
    text = json.dumps(images)
    is_to_do = not path.exists() or path.read_text(encoding="utf-8") != text
    yield is_to_do
    if is_to_do:
        write_text(path, text)


def check_labels(
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
        labels: Reads the labels of the run's images.
        task: Fits the labels to the images.
        canvas: (height, width).
        allow_missing_classes: Whether a class may be shown by no labelled image.
        progress: Told how many images of how many have been read.
        remark: Told, of each part at most once, what was left out of its labels or changed in them.

    Raises:
        DataError: An image or a label cannot be read, a label does not fit its image or the task, an image is in two
            parts under two names, the labels of a part show nothing, no labelled image shows some class, or more than
            `MOST_OVERFLOWING` of the labelled images have labels that find no place in their targets.
    """
    rows = {role: labels.index.rows(role) for role in ROLES_WITH_LABELS}
    total, done = sum(map(len, rows.values())), 0
    seen: dict[str, tuple[str, str]] = {}
    statistics: dict[str, ScoreStatistics] = {}
    for role in ROLES_WITH_LABELS:
        part = _Part(f"data.{role}", labels, task, canvas, is_taught=role == "labelled")
        statistics[role] = part.read(rows[role], seen, progress, done, total)
        done += len(rows[role])
        part.judge(statistics[role], remark)
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


def check_joint(
    name: str,
    labels: HumanLabels,
    task: Task[Any, Any],
    canvas: tuple[int, int],
    held_out_by: Index,
    *,
    progress: Callable[[int, int], None],
    remark: Callable[[str], None],
) -> None:
    """Read every image of a joint stream.

    Args:
        name: Of the stream.
        labels: Reads the labels of its images.
        task: That of the stream.
        canvas: (height, width).
        held_out_by: The run's images, whose validation and test ones are not to be among them.
        progress: As of `check_labels`.
        remark: As of `check_labels`; told of classes that no image shows, too.

    Raises:
        DataError: As `check_labels`, but for classes that no image shows.
    """
    part = _Part(f"joint.{name}.labelled", labels, task, canvas, is_taught=True)
    seen = {digest: ("data.validation or data.test", id_) for digest, id_ in held_out(held_out_by).items()}
    rows = labels.index.rows("labelled")
    statistics = part.read(rows, seen, progress, 0, len(rows))
    part.judge(statistics, remark)
    if absent := missing_classes(statistics, task.classes):
        remark(f"joint.{name}.labelled shows no {', '.join(absent)}: no such class is learnt there")


def unusable_images(
    index: Index, rows: NDArray[np.int64], held_out_by: Index, progress: Callable[[int, int], None]
) -> list[dict[str, str]]:
    """Return the ids of images that cannot be learnt from without labels, each with the reason.

    Args:
        index: The images.
        rows: Which of them to look at.
        held_out_by: The run's images; a picture whose bytes equal those of a validation or test image cannot be used.
        progress: As of `check_labels`.
    """
    others, found = held_out(held_out_by), []
    for done, row in enumerate(map(int, rows), start=1):
        entry = index.entry(row)[1]
        try:
            read_image(entry.path)
            twin = others.get(content_digest(entry.path))
            reason = None if twin is None else f"its bytes equal those of the held-out image '{twin}'"
        except SelftrainError as error:
            reason = str(error)
        if reason is not None:
            found.append({"id": entry.id, "reason": reason})
        if done % IMAGES_PER_REPORT == 0:
            progress(done, len(rows))
    return found


class _Part:
    """The images of one part, and what is to be said of their labels.

    Args:
        setting: Which images they are: ``data.labelled``.
        labels: Reads theirs, and those of other images.
        task: Fits the labels to the images.
        canvas: (height, width).
        is_taught: Whether they are learnt from: others' labels are measured with as they are, not fitted into targets.
    """

    def __init__(
        self,
        setting: str,
        labels: HumanLabels,
        task: Task[Any, Any],
        canvas: tuple[int, int],
        *,
        is_taught: bool,
    ) -> None:
        self._setting, self._labels, self._task, self._canvas = setting, labels, task, canvas
        self._is_taught = is_taught
        self._images = 0
        self._sources: set[str] = set()
        self._lines: list[str] = []
        self._count = self._images_with_remarks = 0
        self._overflow: list[tuple[int, str]] = []

    def read(
        self,
        rows: NDArray[np.int64],
        seen: dict[str, tuple[str, str]],
        progress: Callable[[int, int], None],
        before: int,
        total: int,
    ) -> ScoreStatistics:
        """Return the statistics of the labels.

        Args:
            rows: Of the part's images.
            seen: Part and id by the bytes of images; theirs are added.
            progress: As of `check_labels`.
            before: Images that were read before, of other parts.
            total: Images of all parts.

        Raises:
            DataError: An image or its label cannot be used, or its bytes are those of an image of another part.
        """
        statistics = ScoreStatistics.empty(self._task.num_classes)
        for done, row in enumerate(map(int, rows), start=before + 1):
            known, geometry = self._read(row, seen)
            # In pixels of the canvas, as the teacher's are: a large photo says no more than a small one.
            statistics = statistics + self._task.statistics(known, geometry)
            self._add(row, known)
            if done % IMAGES_PER_REPORT == 0:
                progress(done, total)
        return statistics

    def judge(self, statistics: ScoreStatistics, remark: Callable[[str], None]) -> None:
        """Tell what was left out of the labels or changed in them.

        Args:
            statistics: What `read` gave.
            remark: Told.

        Raises:
            DataError: Too many labels find no place in their targets, or nothing is shown by any.
        """
        if text := self._text():
            remark(text)
        if self._is_taught and self._overflows:
            raise DataError(f"{self._overflowing()}{self._advice()}")
        self._refuse_nothing(statistics)

    def _read(self, row: int, seen: dict[str, tuple[str, str]]) -> tuple[Labels, Geometry]:
        """Return the labels of an image and how it lies on the canvas, and remember its bytes in `seen`."""
        entry = self._labels.index.entry(row)[1]
        try:
            known, _ = self._labels(row)
            self._refuse_other_kind(known)
            height, width = read_image(entry.path).shape[:2]
            geometry = Geometry.fit((height, width), self._canvas)
            self._task.to_targets(known, None, geometry)
        except DataError as error:
            files = " and ".join(str(path) for path in (entry.path, entry.label_path) if path)
            remedy = f"('{entry.id}' of {self._setting}, {files}; take it out of its list, or mend it)"
            raise DataError(f"{error}\n  {remedy}") from error
        first, twin = seen.setdefault(content_digest(entry.path), (self._setting, entry.id))
        if first != self._setting:
            raise DataError(
                f"'{entry.id}' of {self._setting} and '{twin}' of {first} are the same picture; take one out"
            )
        return known, geometry

    def _refuse_other_kind(self, known: Labels) -> None:
        if not isinstance(known, self._task.label_type):
            raise DataError(
                f"its data source gives {known.KIND}, but the task learns from {self._task.label_type.KIND}; choose "
                "another source or another task: selftrain plugins"
            )

    def _add(self, row: int, known: Labels) -> None:
        name, entry = self._labels.index.entry(row)
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

    def _text(self) -> str:
        parts = []
        if self._count:
            # None, where what was left out belongs to no image of the part.
            of = f" of {self._images_with_remarks:,} of {self._images:,} images" if self._images_with_remarks else ""
            parts.append(f"{self._setting}: labels{of} were left out or changed")
            parts += [f"  {line}" for line in self._lines]
            if more := self._count - len(self._lines):
                parts.append(f"  and {more:,} more")
        if self._overflow and self._is_taught and not self._overflows:
            parts.append(f"{self._overflowing()}; what finds none is not trained on{self._advice()}")
        return "\n".join(parts)

    @property
    def _overflows(self) -> bool:
        return len(self._overflow) > MOST_OVERFLOWING * self._images

    def _overflowing(self) -> str:
        worst, id_ = max(self._overflow)
        return (
            f"{len(self._overflow):,} of {self._images:,} images of {self._setting} have more labels than their "
            f"targets have places, '{id_}' by {worst:,}"
        )

    def _advice(self) -> str:
        advice = self._task.overflow_advice(max(self._overflow)[0])
        return f"\n  {advice}" if advice else ""

    def _refuse_nothing(self, statistics: ScoreStatistics) -> None:
        if statistics.images_C.any():
            return
        purpose = "learn from" if self._is_taught else "measure with"
        raise DataError(
            f"the {statistics.num_images} images of {self._setting} show none of the classes "
            f"{', '.join(self._task.classes)}: there is nothing to {purpose}\n  look at their label files: they may be "
            "all ignored, of crowds, empty, or those of other images"
        )
