"""Looking at every image with human labels once, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selftrain_core.errors import DataError
from selftrain_core.geometry import Geometry
from selftrain_core.images import read_image
from selftrain_core.index import Index
from selftrain_core.interfaces import Task
from selftrain_core.labelling import content_digest, missing_classes
from selftrain_core.labels import ScoreStatistics
from selftrain_core.samples import HumanLabels

ROLES_WITH_LABELS = ("labelled", "validation", "test")
IMAGES_PER_REPORT = 100
"""Images between two words on how far the check is."""


def check_labels(
    index: Index,
    labels: HumanLabels,
    task: Task[Any, Any],
    canvas: tuple[int, int],
    *,
    allow_missing_classes: bool,
    progress: Callable[[int, int], None],
) -> ScoreStatistics:
    """Return what people labelled, once every image to train on, to validate and to test with has been read.

    Args:
        index: The run's images.
        labels: Reads their labels.
        task: Fits the labels to the images.
        canvas: (height, width).
        allow_missing_classes: Whether a class may be shown by no labelled image.
        progress: Told how many images of how many have been read.

    Raises:
        DataError: An image or a label cannot be read, a label does not fit its image, an image is in two parts under
            two names, the labels of a part show nothing, or no labelled image shows some class.
    """
    rows = {role: index.rows(role) for role in ROLES_WITH_LABELS}
    total, done = sum(map(len, rows.values())), 0
    seen: dict[str, tuple[str, str]] = {}
    statistics: dict[str, ScoreStatistics] = {}
    for role in ROLES_WITH_LABELS:
        statistics[role] = ScoreStatistics.empty(task.num_classes)
        for row in map(int, rows[role]):
            statistics[role] = statistics[role] + _read(index, labels, task, canvas, role, row, seen)
            done += 1
            if done % IMAGES_PER_REPORT == 0:
                progress(done, total)
        _refuse_nothing(role, statistics[role], task.classes)
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
) -> ScoreStatistics:
    """Return the statistics of the labels of an image, and remember its bytes in `seen`."""
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
    # In pixels of the canvas, as the teacher's are: a large photo says no more than a small one.
    return task.statistics(known, geometry)


def _refuse_nothing(role: str, statistics: ScoreStatistics, classes: tuple[str, ...]) -> None:
    if statistics.images_C.any():
        return
    purpose = "learn from" if role == "labelled" else "measure with"
    raise DataError(
        f"the {statistics.num_images} images of data.{role} show none of the classes {', '.join(classes)}: there is "
        f"nothing to {purpose}\n  look at their label files: they may be all ignored, empty, or those of other images"
    )
