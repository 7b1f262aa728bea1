"""Names of image files as files of labels give them: paths below a folder, and the ids that they stand for."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

_MOST_CHARACTERS, _MOST_IN_PART = 4096, 255
"""What file systems take."""


def path_below(name: Any) -> str:
    """Return the path of an image below its folder, without parts that mean nothing.

    Raises:
        ValueError: It is none, leads out of the folder, or is longer than a file system takes.
    """
    if not isinstance(name, str) or not name or "\0" in name or not _is_text(name):
        raise ValueError(f"the file_name {_shown(name)}, which is no path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts:
        raise ValueError(
            f"the file_name {_shown(name)}, which leads out of the folder 'images'; it is to be a path below it"
        )
    longest = max(map(len, parts))
    if len(name) > _MOST_CHARACTERS or longest > _MOST_IN_PART:
        raise ValueError(
            f"the file_name {_shown(name)} of {len(name):,} characters, {longest:,} in one part; a path has no more "
            f"than {_MOST_CHARACTERS:,}, and {_MOST_IN_PART} between slashes"
        )
    return "/".join(parts)


def without_ending(file: str) -> str:
    """Return the path of a file without the ending of its name; a name that begins with its only dot has none."""
    folder, slash, name = file.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return folder + slash + (stem if dot and stem else name)


def is_there(check: Callable[[], bool]) -> bool:
    """Return what a check such as `Path.is_file` says; what has a longer name than a file system takes is not there.

    Raises:
        OSError: The check failed for another reason.
    """
    try:
        return check()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _shown(name: Any) -> str:
    return repr(name) if not isinstance(name, str) or len(name) <= 100 else f"{name[:100]!r}…"
