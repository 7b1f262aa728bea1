"""Boxes that people corrected in other tools: what they are told, and what comes back. No torch here.

Shape letters: N, M = boxes of one image, as they were and as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from selftrain_core.correcting import Correcting
from selftrain_core.errors import did_you_mean
from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_detection.annotations import ClassNames, LabelsWithoutRegions
from selftrain_detection.coco_loading import read_coco
from selftrain_detection.source_config import BoxSettings

SAME_PIXELS = 1.0
"""How far a box may be off and still be the same: tools round to whole pixels, or to hundredths of a percent."""
_UPLOADED = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that was uploaded."""

CORRECTING = Correcting(
    files="instances.json: COCO instances of all images; results.json: the same boxes as detections with scores",
    left_open="""\
Boxes that the policy {policy} dropped are not in it. Those that it kept out of the loss are regions to ignore: boxes
under 'ignore_regions' of their image, which other tools do not show and most do not write back.""",
    steps="""\
To correct boxes in CVAT, Label Studio, FiftyOne or any other tool that knows COCO:

1. Make a project of the images and of the classes in classes.json, and import instances.json as COCO ("COCO 1.0" in
   CVAT, COCODetectionDataset in FiftyOne, label-studio-converter import coco for Label Studio).
2. In each image mend or delete what is wrong, and draw what is missing: an image that was changed is taken to show
   nothing but its boxes, and what else the file says to ignore. A region is changed under 'ignore_regions'
   of its image; to take out the last one of all images, leave an empty list there.
3. Export as COCO, and put that file in the place of {folder}/instances.json.

Images are found by their file_name, in whatever folder and order; ids may be others, and scores may be gone. An image
whose boxes are as they were, to a pixel, counts as not changed. An image that is not among the file's images is not to
be used: take it out, or leave it out of the export.""",
)


def said(labels: BoxLabels) -> list[list[float]]:
    """Return of each box and region its class, its corners to a hundredth of a pixel, and 1 for a crowd, else 0.

    The class of a region to ignore is `IGNORE_LABEL`.
    """
    corners_N4 = labels.boxes_N4.astype(np.float64).round(2)
    crowds_N = np.zeros(len(labels)) if labels.crowds_N is None else labels.crowds_N
    rows: list[list[float]] = np.column_stack([labels.labels_N, corners_N4, crowds_N]).tolist()
    return rows


def is_changed(labels: BoxLabels, before: Any) -> bool:
    """Return whether there are other boxes or regions than before, or one has moved by more than `SAME_PIXELS`.

    Args:
        labels: The boxes. Where their file knows of no regions to ignore, those are taken as they were.
        before: What `said` returned of those that were there.

    Raises:
        ValueError: `before` is none of its values.
    """
    before_N6 = _rows(before)
    now_M6 = _rows(said(labels))
    if isinstance(labels, LabelsWithoutRegions):
        before_N6 = before_N6[before_N6[:, 0] != IGNORE_LABEL]
    if len(before_N6) != len(now_M6):
        return True
    is_kind_NM = (before_N6[:, None, [0, 5]] == now_M6[None, :, [0, 5]]).all(2)
    distance_NM = np.abs(before_N6[:, None, 1:5] - now_M6[None, :, 1:5]).max(2)
    distance_NM = np.where(is_kind_NM, distance_NM, np.inf)
    for row in range(len(before_N6)):
        nearest = int(distance_NM[row].argmin())
        if distance_NM[row, nearest] > SAME_PIXELS:
            return True
        distance_NM[:, nearest] = np.inf  # each stands for one
    return False


def _rows(values: Any) -> NDArray[np.float64]:
    """Return what `said` returned as float64 [N, 6].

    Raises:
        ValueError: It is none of its values.
    """
    if values == []:
        return np.zeros((0, 6))
    try:
        rows_N6 = np.array(values, np.float64)
    except TypeError as error:
        raise ValueError(f"{values!r} are no boxes") from error
    if rows_N6.ndim != 2 or rows_N6.shape[1] != 6:
        raise ValueError("there are boxes of which it does not say class, corners and whether they are crowds")
    return rows_N6


def ids_in_file(path: Path, classes: Sequence[str], ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the images that a COCO file has, each with its id there, and what belongs to none, a line each.

    An image is found by its path below the folder of images, else by the end of it, as much of it as both have.

    Args:
        path: The file.
        classes: The ordered class names of the run.
        ids: The images that are sought.

    Raises:
        DataError: The file cannot be used.
    """
    table = read_coco(path, ClassNames(classes, BoxSettings()), drops_bad=False)
    there = [table.id(row) for row in range(len(table))]
    held = {id_: id_ for id_ in set(ids) & set(there)}
    by_name: dict[str, list[str]] = {}
    for id_ in ids:
        if id_ not in held:
            by_name.setdefault(id_.rpartition("/")[2], []).append(id_)
    problems = []
    for other in there:
        if other in held:
            continue
        candidates = _candidates(other, by_name)
        free = [id_ for id_ in candidates if id_ not in held]
        if len(free) == 1:
            held[free[0]] = other
        elif len(candidates) > 1:
            problems.append(f"{path}: the image '{other}' may be {' or '.join(map(repr, candidates[:3]))}; write which")
        else:
            problems.append(f"{path}: the image '{other}' is none that was exported{did_you_mean(other, ids)}")
    return held, problems


def _candidates(other: str, by_name: dict[str, list[str]]) -> list[str]:
    """Return the images that a name in the file may mean."""
    folder, _, name = unquote(other).rpartition("/")
    found = by_name.get(name) or by_name.get(_UPLOADED.sub("", name, count=1), [])
    parts = [part for part in folder.split("/") if part]
    best = [(_common(id_.split("/")[:-1], parts), id_) for id_ in found]
    most = max((count for count, _ in best), default=0)
    return [id_ for count, id_ in best if count == most]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many folders two paths share at their end."""
    count = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
