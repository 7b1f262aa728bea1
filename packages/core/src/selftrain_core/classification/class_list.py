"""A file that says of each image its class: written for people, read as their labels. No torch here."""

from __future__ import annotations

import csv
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from selftrain_core.errors import DataError, did_you_mean
from selftrain_core.files import replacing, writing_in
from selftrain_core.labels import IGNORE_LABEL, ClassLabels

LABELS = "labels.csv"
"""The file that `ClassWriter` writes."""
_ID, _CLASS, _SCORE = "id", "class", "score"
_DELIMITERS = ",;\t"
"""What spreadsheets put between columns."""
_MEMORY_BYTES = 1 << 20
"""What is kept in memory before it goes to the disk."""


class ClassWriter:
    """Writes ``labels.csv`` with the columns ``id``, ``class`` and ``score``; nothing is there before `close`.

    A class that is not known is left empty, and so is a score.

    Args:
        folder: Where it goes; it is made.
        classes: Ordered class names.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder = folder
        self.classes = tuple(classes)
        with writing_in(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lines = tempfile.SpooledTemporaryFile(  # noqa: SIM115  # closed with the writer
            _MEMORY_BYTES, mode="w+", encoding="utf-8", newline="", dir=str(folder)
        )
        weakref.finalize(self, self._lines.close)
        self._table = csv.writer(self._lines, lineterminator="\n")
        self._table.writerow((_ID, _CLASS, _SCORE))

    def write(self, id_: str, labels: ClassLabels, original: tuple[int, int], image: Path) -> None:
        """Add one image.

        Args:
            id_: The image's id.
            labels: Its class.
            original: (height, width) of the image, which nothing depends on.
            image: Its file, which nothing depends on.

        Raises:
            RunError: The disk is full.
        """
        index = int(labels.class_1[0])
        name = "" if index == IGNORE_LABEL else self.classes[index]
        score = str(labels.score_1[0]) if name and labels.score_1 is not None else ""
        with writing_in(self.folder):
            self._table.writerow((id_, name, score))

    def close(self) -> None:
        """Write the file.

        Raises:
            RunError: The disk is full or the folder is not writable.
        """
        with replacing(self.folder / LABELS) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            self._lines.seek(0)
            shutil.copyfileobj(self._lines, file)


def read_classes(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """Return the class index of each id in a file, `IGNORE_LABEL` where its class is left empty.

    Columns are separated by commas, semicolons or tabs, as in the first line, which names them; those that are neither
    ``id`` nor ``class`` are passed over.

    Args:
        path: The file.
        classes: Ordered class names.

    Raises:
        DataError: The file cannot be read, lacks a column, names an id twice, or names a class that there is not.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _table(path, file, classes)
    except OSError as error:
        raise DataError(f"the labels {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the labels {path} cannot be read: it is no text in UTF-8 ({error.reason})") from error
    except csv.Error as error:
        raise DataError(f"the labels {path} cannot be read: {error}") from error


def _table(path: Path, lines: Iterator[str], classes: Sequence[str]) -> dict[str, int]:
    first = next(lines, "")
    reader = csv.DictReader(chain([first], lines), delimiter=max(_DELIMITERS, key=first.count))
    columns = list(reader.fieldnames or ())
    if _ID not in columns or _CLASS not in columns:
        raise DataError(
            f"the first line of {path} is to name the columns '{_ID}' and '{_CLASS}'; it names: "
            f"{', '.join(columns) or 'nothing'}"
        )
    indices = {name: index for index, name in enumerate(classes)}
    found: dict[str, int] = {}
    for row in reader:
        where, id_, name = f"{path}, line {reader.line_num}", row[_ID], row[_CLASS] or ""
        if not id_:
            raise DataError(f"{where}: there is no id")
        if id_ in found:
            raise DataError(f"{where}: '{id_}' is there twice; an image has one class")
        if name and name not in indices:
            raise DataError(
                f"{where}: '{name}' is no class{did_you_mean(name, classes)}; classes: {', '.join(classes)}"
            )
        found[id_] = indices[name] if name else IGNORE_LABEL
    return found
