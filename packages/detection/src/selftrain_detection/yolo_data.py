"""Reading a YOLO data file: where its images are, and what its classes are called."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selftrain_core.image_names import is_there

_SHOWN = reprlib.Repr()
"""Shows values of a file: with its anchors, a few hundred bytes can stand for gigabytes of text."""
_SHOWN.maxlevel, _SHOWN.maxlist, _SHOWN.maxdict = 2, 8, 8
_SHOWN.maxstring = _SHOWN.maxother = 100


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file (data.yaml).

    Attributes:
        path: The file.
        names: The classes by number.
        root: The folder below which the parts are.
        parts: What the file says of each part that may be asked for: ``train``, ``val``, ``test`` and others.
    """

    path: Path
    names: dict[int, str]
    root: Path
    parts: Mapping[str, Any]

    def folder(self, part: str) -> Path:
        """Return the folder of a part's images.

        Raises:
            ValueError: The file does not name the part, names several folders or a list, or the folder is not there.
        """
        if not self.parts.get(part):
            there = ", ".join(name for name, value in self.parts.items() if value) or "none"
            raise ValueError(f"{self.path} does not say where the images of '{part}' are; parts it has: {there}")
        place = self.parts[part]
        if not isinstance(place, str):
            raise ValueError(
                f"{self.path} gives several folders as '{part}', {_SHOWN.repr(place)}; make a source of each, with "
                "'images' and 'names'"
            )
        tried = [self.root / place]
        if place.startswith("../"):
            # Exports write a path from a folder that is not there: one beside the file is meant.
            tried.append(self.root / place[3:])
        for folder in tried:
            if is_there(folder.is_dir):
                return folder.resolve()
            if is_there(folder.is_file):
                raise ValueError(
                    f"{self.path} gives a list of files as '{part}', {folder}; give 'images', the folder below which "
                    "they are, 'names', and 'list' with their paths below that folder"
                )
        raise ValueError(f"{self.path} says that '{part}' is in {place}, but there is no folder {tried[-1].resolve()}")


def read_data_file(path: Path) -> DataFile:
    """Return what a data file says.

    Raises:
        ValueError: It cannot be read, is no YAML, lacks the names, or has another number of them than it says.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            values = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: its values are nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that there is not
        raise ValueError(f"{path} cannot be read: it is no YAML ({error})") from error
    if not isinstance(values, Mapping) or not values.get("names"):
        raise ValueError(
            f"{path} lacks the names of the classes; a data file has 'names', and 'train', 'val' or 'test'"
        )
    given = values["names"]
    names = by_number(dict(enumerate(given)) if isinstance(given, list) else given, f"{path}: names")
    if values.get("nc", len(names)) != len(names):
        raise ValueError(f"{path} says that there are nc: {_SHOWN.repr(values['nc'])} classes, and names {len(names)}")
    # Relative to the file, not to the folder in which a command was started.
    root = path.parent / _folder(values.get("path") or "", path)
    known = ("path", "names", "nc", "download")
    parts = {str(key): value for key, value in values.items() if key not in known and isinstance(value, (str, list))}
    return DataFile(path, names, root if is_there(root.is_dir) else path.parent, parts)


def _folder(value: Any, path: Path) -> Path:
    """Return the folder that a data file gives as ``path``."""
    if not isinstance(value, str):
        raise ValueError(f"{path}: path is to be a folder; it is {_SHOWN.repr(value)}")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: path is {_SHOWN.repr(value)}, the folder of somebody not known here") from error


def by_number(names: Any, what: str) -> dict[int, str]:
    """Return the classes by number.

    Raises:
        ValueError: They are no such mapping.
    """
    usable = isinstance(names, Mapping) and all(
        isinstance(number, int) and number >= 0 and isinstance(name, str) and name for number, name in names.items()
    )
    if not usable or not names:
        raise ValueError(
            f"{what} is to be a list of class names, or their names by number 0, 1, …; it is {_SHOWN.repr(names)}"
        )
    return dict(sorted(names.items()))
