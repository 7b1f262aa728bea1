"""What the sources of boxes share: from the boxes and class names in a file to labels that fit their image. No torch.

Shape letters: N = boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrain_core.data_source import Entry
from selftrain_core.errors import DataError, did_you_mean
from selftrain_core.images import image_size
from selftrain_core.labels import BoxLabels
from selftrain_detection.source_config import BoxSettings

LEFT_OUT = -1
"""The class index of a box whose class the settings leave out."""

_SILENT_PIXELS = 1.0
"""How far a box may stick out of its image without a word: as far as rounding moves it, or counting from 1."""
_MOST_NAMES = 100


@dataclass(frozen=True, slots=True)
class RawBoxes:
    """The boxes of one image as its file has them, unchecked.

    Attributes:
        corners_N4: float64, xyxy in pixels of the image, half-open; whatever the file says, NaN where it says nothing.
        labels_N: int64, class indices of the run, or `IGNORE_LABEL`.
        crowds_N: bool, or None: nowhere.
        areas_N: float64, NaN where the file gives none, or None: nowhere.
        describe: What a message calls box number n, with the numbers that the file has.
    """

    corners_N4: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    describe: Callable[[int], str]
    crowds_N: NDArray[np.bool_] | None = None
    areas_N: NDArray[np.float64] | None = None


class LabelsWithoutRegions(BoxLabels):
    """Labels from a file that knows of no regions to ignore: that there is none says nothing of the image."""

    __slots__ = ()


def checked(
    raw: RawBoxes, size: tuple[int, int], file: Path, id_: str, settings: BoxSettings
) -> tuple[BoxLabels, list[str]]:
    """Return the labels of an image, clipped to it, and what was clipped or left out, a line each.

    Args:
        raw: What the file says.
        size: (height, width) of the image.
        file: The file, for messages.
        id_: The image's id, for messages.
        settings: What to do with bad boxes.

    Raises:
        DataError: A box is bad, and `settings` do not say that such are left out.
    """
    height, width = size
    is_finite_N = np.logical_and.reduce(np.isfinite(raw.corners_N4), 1)
    corners_N4 = np.where(is_finite_N[:, None], raw.corners_N4, 0)
    clipped_N4 = np.clip(corners_N4, 0, np.array([width, height] * 2, np.float64))
    boxes_N4 = clipped_N4.astype(np.float32)
    is_good_N = is_finite_N & np.logical_and.reduce(boxes_N4[:, 2:] > boxes_N4[:, :2], 1)
    overhang_N = np.abs(clipped_N4 - corners_N4).max(1, initial=0)
    remarks: list[str] = []
    for n in np.flatnonzero(~is_good_N | (overhang_N > _SILENT_PIXELS)).tolist():
        if is_good_N[n]:
            remarks.append(f"{raw.describe(n)} sticks out of the image, {_pixels(size)}, and is clipped to it")
            continue
        reason = _what_is_wrong(raw.corners_N4[n], is_finite=bool(is_finite_N[n]), size=size)
        if settings.bad_boxes == "error":
            raise DataError(
                f"{file}: {raw.describe(n)} of '{id_}' {reason}; mend it, or set bad_boxes: drop to leave such out"
            )
        remarks.append(f"{raw.describe(n)} {reason}, and is left out")
    remarks += _odd_areas(raw, is_good_N)
    crowds_N = None if raw.crowds_N is None or not raw.crowds_N[is_good_N].any() else raw.crowds_N[is_good_N]
    areas_N = None if raw.areas_N is None else _areas(raw.areas_N[is_good_N], boxes_N4[is_good_N])
    return BoxLabels(boxes_N4[is_good_N], raw.labels_N[is_good_N], None, crowds_N, areas_N), remarks


def _odd_areas(raw: RawBoxes, is_good_N: NDArray[np.bool_]) -> list[str]:
    """Return that areas are taken as those of the boxes: one line, since tools that write none write 0 everywhere."""
    if raw.areas_N is None:
        return []
    odd = np.flatnonzero(is_good_N & ~np.isnan(raw.areas_N) & ~_is_area(raw.areas_N)).tolist()
    if not odd:
        return []
    others = f", and so are {len(odd) - 1:,} others" if len(odd) > 1 else ""
    return [f"area {raw.areas_N[odd[0]]:g} of {raw.describe(odd[0])} is taken as that of its box{others}"]


def _is_area(given_N: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(given_N) & (given_N > 0)


def _areas(given_N: NDArray[np.float64], boxes_N4: NDArray[np.float32]) -> NDArray[np.float32] | None:
    is_given_N = _is_area(given_N)
    if not is_given_N.any():
        return None
    sides_N2 = (boxes_N4[:, 2:] - boxes_N4[:, :2]).astype(np.float64)
    return np.where(is_given_N, given_N, sides_N2.prod(1)).astype(np.float32)


def _what_is_wrong(corners_4: NDArray[np.float64], *, is_finite: bool, size: tuple[int, int]) -> str:
    left, top, right, bottom = corners_4
    if not is_finite:
        return "is not made of four finite numbers"
    if right < left or bottom < top:
        return "is inside out: it ends before it begins"
    if right == left or bottom == top:
        return "has no area"
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        return f"lies outside of the image, {_pixels(size)}"
    return f"has no area within the image, {_pixels(size)}"


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]} pixels"


def no_boxes() -> BoxLabels:
    """Return the labels of an image that shows none of the classes."""
    return BoxLabels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def missing_file(file: Path, id_: str, folder: Path) -> DataError:
    """Return the error that the file of an image's annotations is not there.

    Args:
        file: The file.
        id_: The image's id.
        folder: The folder below which such files are.
    """
    if not folder.is_dir():
        return DataError(f"the annotations {file} do not exist; there is no folder {folder}")
    return DataError(
        f"the annotations {file} do not exist; add them, or set unannotated: negative if images without them, as "
        f"'{id_}', show none of the classes, or unannotated: skip to pass them over"
    )


def numbers(values: Iterable[float]) -> str:
    """Return numbers as people read them."""
    return f"[{', '.join(f'{value:.7g}' for value in values)}]"


def size_of(entry: Entry, said: tuple[int, int], file: Path) -> tuple[int, int]:
    """Return (height, width) of an image after its EXIF rotation.

    Args:
        entry: The image.
        said: What its annotations say; not positive where they do not.
        file: The file of its annotations, for messages.

    Raises:
        DataError: The image cannot be read, or its annotations say another size.
    """
    size = image_size(entry.path)
    if min(said) <= 0 or said == size:
        return size
    turned = ""
    if said == size[::-1]:
        turned = (
            "; its boxes may be those of the image before its EXIF rotation: annotate it again in a tool that turns "
            "it, or take the tag out of the file"
        )
    raise DataError(
        f"{file} says that '{entry.id}' is {_pixels(said)}, but {entry.path} is {_pixels(size)} (width×height, after "
        f"its EXIF rotation): the boxes are not those of this file{turned}"
    )


class ClassNames:
    """From the class names in files to places in the run's list.

    Args:
        classes: The ordered class names of the run.
        settings: Which names are left out, and which stand for others.

    Raises:
        DataError: The settings call a class by a name that the run does not have.
    """

    def __init__(self, classes: Sequence[str], settings: BoxSettings) -> None:
        self._classes = tuple(classes)
        self._places = {name: place for place, name in enumerate(classes)}
        for name, new in settings.classes_as.items():
            if new not in self._places:
                raise DataError(
                    f"classes_as calls '{name}' '{new}', not among data.classes{did_you_mean(new, classes)}\n"
                    f"  data.classes: {_listed(classes)}"
                )
            self._places[name] = self._places[new]
        for name in settings.ignore_classes:
            self._places[name] = LEFT_OUT

    def index(self, name: str) -> int | None:
        """Return the place of a file's class in the run's list, `LEFT_OUT`, or None where the run does not have it."""
        return self._places.get(name)

    def refuse_strangers(self, names: Collection[str], file: Path) -> None:
        """Check that a file that names classes has one that the run has, and that is not left out.

        Raises:
            DataError: It has none.
        """
        if names and not any(self._places.get(name, LEFT_OUT) >= 0 for name in names):
            if left_out := [name for name in names if name in self._classes]:
                raise DataError(
                    f"{file} has no class of data.classes but those that ignore_classes leaves out: "
                    f"{_listed(left_out)}; take one out of ignore_classes\n{self._both(names)}"
                )
            raise DataError(
                f"{file} has no class of data.classes; rename its classes by classes_as: {{its name: yours}}, or "
                f"correct data.classes\n{self._both(names)}"
            )

    def stranger(self, unknown: Sequence[str], names: Iterable[str], file: Path, what: str) -> DataError:
        """Return the error that there are boxes of classes that the run does not have.

        Args:
            unknown: The classes.
            names: All that the file names.
            file: The file.
            what: What has the class: ``"annotation 7 is"``.
        """
        meant = did_you_mean(unknown[0], self._classes)
        new = meant.split("'")[1] if meant else "NAME"  # whatever stands there is soon pasted
        return DataError(
            f"{file}: {what} of the class {', '.join(map(repr, unknown))}, not among data.classes{meant}; add it to "
            f"data.classes, leave it out by ignore_classes: [{', '.join(unknown)}], or rename it by "
            f"classes_as: {{{unknown[0]}: {new}}}\n{self._both(names)}"
        )

    def _both(self, names: Iterable[str]) -> str:
        return f"  its classes: {_listed(names)}\n  data.classes: {_listed(self._classes)}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
