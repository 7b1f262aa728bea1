"""Files that are whole or absent: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selftrain_core.errors import RunError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `RunError` where the file `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {explain(error)}") from error


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Raise `RunError` where something in `folder`, or the folder itself, cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or folder} cannot be written: {explain(error)}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it replaces `path`, on failure it is removed.

    Raises:
        RunError: The disk is full or the folder is not writable. `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {explain(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Raises:
        RunError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write `text`, atomically.

    Raises:
        RunError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file.

    Raises:
        RunError: The disk is full or the file is not writable.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {explain(error)}") from error


def explain(error: Exception) -> str:
    """Return what went wrong with a file, and what to do where the disk is full."""
    reason = getattr(error, "strerror", None) or str(error)
    # Libraries that write for themselves keep the number only in their text.
    in_words = re.search(r"os error (\d+)", str(error))
    number = int(in_words[1]) if in_words else getattr(error, "errno", None)
    if number not in _NO_SPACE:
        return reason
    return f"{reason}\n  nothing finished is lost: free some space, and the same command goes on"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
