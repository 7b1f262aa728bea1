"""Image folder + folder of Pascal VOC XML files. No torch here.

Shape letters: N = boxes.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET  # `parse_xml` refuses what could expand
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.labels import BoxLabels
from selftrain_core.sources import find_images
from selftrain_core.xml_files import parse_xml
from selftrain_detection.annotations import (
    LEFT_OUT,
    ClassNames,
    RawBoxes,
    checked,
    missing_file,
    no_boxes,
    numbers,
    size_of,
)
from selftrain_detection.source_config import VocConfig

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocSource(DataSource):
    """Images whose boxes are in an XML file of the same path below another folder.

    Raises:
        DataError: The settings call a class by a name that the run does not have.
    """

    config: VocConfig

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        self._names = ClassNames(classes, self.config)

    def scan(self) -> Iterator[Entry]:
        """Yield the images, with where their files should be; what is in those is seen when one is read."""
        for id_, path in find_images(self.config.images, self.config.list):
            entry = Entry(id_, path, self.config.annotations / f"{id_}.xml")
            if self.config.unannotated != "skip" or _file_of(entry).is_file():
                yield entry

    def read_labels(self, entry: Entry) -> BoxLabels:
        """Return the boxes of an image; a difficult one is a crowd of its class, which neither helps nor harms.

        Raises:
            DataError: The file is missing or malformed, says another size, or has a bad box.
        """
        return self._read(entry)[0]

    def remarks(self, entry: Entry | None) -> list[str]:
        """Return which boxes of an image are left out or clipped."""
        return [] if entry is None else self._read(entry)[1]

    def _read(self, entry: Entry) -> tuple[BoxLabels, list[str]]:
        file = _file_of(entry)
        if not file.exists():
            if self.config.unannotated == "negative":
                return no_boxes(), []
            raise missing_file(file, entry.id, self.config.annotations)
        root = _parse(file)
        height, width = (_number(root, f"size/{name}", file, "the file") or 0 for name in ("height", "width"))
        size = size_of(entry, (int(height), int(width)), file)
        objects = [_Object(element, number, file) for number, element in enumerate(root.findall("object"), 1)]
        kept = [each for each in objects if self._label(each, objects, file) != LEFT_OUT]
        if self.config.difficult == "drop":
            kept = [each for each in kept if not each.is_difficult]
        first = self.config.first_pixel
        # The last pixel belongs to the box, so it ends one further.
        offset_4 = np.array([-first, -first, 1 - first, 1 - first], np.float64)
        raw = RawBoxes(
            np.array([each.corners for each in kept], np.float64).reshape(-1, 4) + offset_4,
            np.array([self._label(each, objects, file) for each in kept], np.int64),
            lambda n: f"{kept[n].called} with the bndbox {numbers(kept[n].corners)} (xmin, ymin, xmax, ymax)",
            np.array([each.is_difficult and self.config.difficult == "ignore" for each in kept], np.bool_),
        )
        return checked(raw, size, file, entry.id, self.config)

    def _label(self, one: _Object, objects: Sequence[_Object], file: Path) -> int:
        label = self._names.index(one.name)
        if label is None:
            names = dict.fromkeys(each.name for each in objects)
            raise self._names.stranger([one.name], names, file, f"object {one.number} is")
        return label


class _Object:
    """One object of a file, whose fields are there.

    Args:
        element: The object.
        number: Its place in the file, from 1.
        file: The file.

    Raises:
        DataError: A field is missing, or no number.
    """

    def __init__(self, element: ET.Element, number: int, file: Path) -> None:
        self.number = number
        self.name = (element.findtext("name") or "").strip()
        self.called = f"object {number} ('{self.name}')"
        if not self.name:
            raise DataError(f"{file}: object {number} has no name; {_FORM}")
        corners = [_number(element, f"bndbox/{name}", file, self.called) for name in _CORNERS]
        if None in corners:
            raise DataError(f"{file}: {self.called} has no bndbox/{_CORNERS[corners.index(None)]}; {_FORM}")
        self.corners = [value for value in corners if value is not None]
        difficult = _number(element, "difficult", file, self.called)
        if difficult not in (None, 0, 1):
            raise DataError(f"{file}: {self.called} has difficult {difficult:g}, which is neither 0 nor 1")
        self.is_difficult = difficult == 1


_FORM = "an object of a Pascal VOC file has name and bndbox (xmin, ymin, xmax, ymax)"


def _file_of(entry: Entry) -> Path:
    assert entry.label_path is not None
    return entry.label_path


def _parse(file: Path) -> ET.Element:
    try:
        root = parse_xml(file.read_bytes())
    except OSError as error:
        raise DataError(f"the annotations {file} cannot be read: {error.strerror}") from error
    except ET.ParseError as error:
        raise DataError(f"the annotations {file} cannot be read: it is no XML ({error})") from error
    except (ValueError, LookupError) as error:  # of an encoding that is not known
        raise DataError(f"the annotations {file} cannot be read: {error}") from error
    if root.tag != "annotation":
        raise DataError(f"{file} is no Pascal VOC file: its root is <{root.tag[:50]}>, not <annotation>")
    return root


def _number(element: ET.Element, path: str, file: Path, called: str) -> float | None:
    text = element.findtext(path)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{file}: {path} of {called} is '{text.strip()[:50]}', which is no finite number")
    return number
