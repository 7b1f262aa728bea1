"""Image folder + text files of YOLO. No torch here.

Shape letters: N = boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.images import image_size
from selftrain_core.labels import BoxLabels
from selftrain_core.sources import find_images
from selftrain_detection.annotations import LEFT_OUT, ClassNames, RawBoxes, checked, missing_file, no_boxes, numbers
from selftrain_detection.source_config import YoloConfig
from selftrain_detection.yolo_data import read_data_file

_FORM = "a line is 'class x y width height', or 'class x y x y x y …' of a polygon, in shares of the image"
_LARGEST_SHARE = 2.0
"""Beyond this a number cannot be a share of the image, however sloppy."""


class YoloSource(DataSource):
    """Images whose boxes are lines of a text file, in shares of the image; of a polygon, the box around it.

    Raises:
        DataError: No class of the files is the run's, or the settings call a class by a name that the run does not
            have.
    """

    config: YoloConfig

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        self._names = ClassNames(classes, self.config)
        self._names.refuse_strangers(list(self.config.names.values()), self.config.data or Path("names"))

    @cached_property
    def _images(self) -> Path:
        if self.config.images is not None:
            return self.config.images
        assert self.config.data is not None
        try:
            return read_data_file(self.config.data).folder(self.config.split)
        except ValueError as error:
            raise DataError(str(error)) from error

    def scan(self) -> Iterator[Entry]:
        """Yield the images, with where their files should be; what is in those is seen when one is read."""
        for id_, path in find_images(self._images, self.config.list):
            file = self._file(id_)
            if self.config.unannotated != "skip" or file.is_file():
                yield Entry(id_, path, file)

    def _file(self, id_: str) -> Path:
        if self.config.labels is not None:
            return self.config.labels / f"{id_}.txt"
        return _beside(self._images / f"{id_}.txt")

    def read_labels(self, entry: Entry) -> BoxLabels:
        """Return the boxes of an image.

        Raises:
            DataError: The file or a line of it cannot be used, there is no folder for it, or a box is bad.
        """
        return self._read(entry)[0]

    def remarks(self, entry: Entry | None) -> list[str]:
        """Return which boxes of an image are left out or clipped."""
        return [] if entry is None else self._read(entry)[1]

    def _read(self, entry: Entry) -> tuple[BoxLabels, list[str]]:
        file = entry.label_path
        assert file is not None
        try:
            text = file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            folder = self.config.labels or _beside(self._images)
            if self.config.unannotated == "negative" and folder.is_dir():
                return no_boxes(), []
            raise missing_file(file, entry.id, folder) from None
        except OSError as error:
            raise DataError(f"the annotations {file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"the annotations {file} cannot be read: it is no text ({error.reason})") from error
        height, width = image_size(entry.path)
        lines = [
            _Line(line, f"{file}, line {number}", number)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
        labels = [self._label(line, file) for line in lines]
        kept = [line for line, label in zip(lines, labels, strict=True) if label != LEFT_OUT]
        raw = RawBoxes(
            np.array([line.corners for line in kept], np.float64).reshape(-1, 4) * [width, height, width, height],
            np.array([label for label in labels if label != LEFT_OUT], np.int64),
            lambda n: f"line {kept[n].number}, {kept[n].what} {numbers(kept[n].values)},",
        )
        return checked(raw, (height, width), file, entry.id, self.config)

    def _label(self, line: _Line, file: Path) -> int:
        names = self.config.names
        if line.category not in names:
            known = ", ".join(f"{number} ({name})" for number, name in list(names.items())[:50])
            raise DataError(f"{line.place} has the class {line.category}, which 'names' does not have: {known}")
        label = self._names.index(names[line.category])
        if label is None:
            raise self._names.stranger([names[line.category]], names.values(), file, f"line {line.number} is")
        return label


class _Line:
    """One line.

    Args:
        text: The line.
        place: Where it stands, for messages.
        number: Its number, from 1.

    Raises:
        DataError: It is neither a box nor a polygon.
    """

    def __init__(self, text: str, place: str, number: int) -> None:
        self.place, self.number = place, number
        cells = text.split()
        try:
            first, *values = map(float, cells)
        except ValueError:
            raise DataError(f"{place}: '{text.strip()[:80]}' is not made of numbers; {_FORM}") from None
        if not first.is_integer() or first < 0:
            raise DataError(f"{place} has the class {cells[0]}; classes are the numbers 0, 1, … of 'names'")
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            hint = "; six are a prediction with its score, not a label" if len(cells) == 6 else ""
            raise DataError(f"{place} has {len(cells)} numbers{hint}; {_FORM}")
        if any(abs(value) > _LARGEST_SHARE for value in values if np.isfinite(value)):
            largest = max((value for value in values if np.isfinite(value)), key=abs)
            raise DataError(f"{place} has the number {largest:g}, which is no share of the image, 0 to 1; {_FORM}")
        self.category, self.values = int(first), values
        if len(values) == 4:
            x, y, width, height = values
            self.corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            self.what = "the box"
        else:
            across, down = np.array(values).reshape(-1, 2).T  # of NaN, their extremes are NaN
            self.corners = [float(each) for each in (across.min(), down.min(), across.max(), down.max())]
            self.what = "the polygon"


def _beside(path: Path) -> Path:
    """Return the path with its last folder 'images' called 'labels', as YOLO's tools find the files of an image."""
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)
