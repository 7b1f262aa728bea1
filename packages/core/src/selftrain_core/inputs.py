"""The images that a person names on the command line: files, folders and lists. No torch here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from selftrain_core.errors import DataError
from selftrain_core.images import IMAGE_SUFFIXES
from selftrain_core.sources import read_list

LIST_SUFFIX = ".txt"


def find_inputs(paths: Sequence[Path], leave_out: Path) -> list[tuple[str, Path]]:
    """Return (id, path) of every image that `paths` name, each once.

    The id is the path below the folder that all of `paths` lie in, without its ending; with the ending where two would
    have one id otherwise. An image that a list names and that is not there is returned too: reading it says so.

    Args:
        paths: Image files; folders, which are searched with all folders in them, but for names that begin with a dot;
            text files with a path in each line, relative to the list.
        leave_out: A folder in which no image is sought: where the results go.

    Raises:
        DataError: One of `paths` does not exist, is no image, or holds none; a list cannot be read.
    """
    folders: list[Path] = []
    found: dict[Path, None] = {}
    for path in paths:
        folder, files = _files(_absolute(path), path, leave_out.resolve())
        folders.append(folder)
        found.update(dict.fromkeys(files))
    common = os.path.commonpath(folders)
    names = [os.path.relpath(file, common) for file in found]
    for name in names:
        _refuse_unreadable(name)
    return list(zip(_ids(names), found, strict=True))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  # links stay: their names are the ids


def _files(path: Path, given: Path, leave_out: Path) -> tuple[Path, list[Path]]:
    """Return the folder that the images of one argument lie in, and their paths."""
    if path.is_dir():
        files = list(_below(path, leave_out, ()))
        if not files:
            raise DataError(f"the folder {given} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return path, files
    if path.suffix.lower() == LIST_SUFFIX:
        files = [_absolute(path.parent / line) for line in read_list(path)]
        return Path(os.path.commonpath([file.parent for file in files])), files
    if not path.exists():
        raise DataError(f"{given} does not exist; give images, folders of images, or lists of paths ({LIST_SUFFIX})")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(
            f"{given} is no image: its name ends in none of {', '.join(sorted(IMAGE_SUFFIXES))}, nor in {LIST_SUFFIX} "
            "as a list of paths does"
        )
    return path.parent, [path]


def _below(folder: Path, leave_out: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    real = folder.resolve()
    if real == leave_out or real in above:
        return  # what was written before, or a link to a folder that it lies in
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(Path(entry.path), leave_out, (*above, real))
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield Path(entry.path)


def _ids(names: Sequence[str]) -> list[str]:
    """Return the names without their endings, but for those that would not be distinct."""
    ids = [str(Path(name).with_suffix("")) for name in names]
    while True:
        count = Counter(ids)
        again = [name if count[id_] > 1 else id_ for name, id_ in zip(names, ids, strict=True)]
        if again == ids:
            return ids
        ids = again  # 'a.jpg' of a.jpg and a.png may now be what a.jpg.png was called


def _refuse_unreadable(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"the file {os.fsencode(name)!r} has a name that is not valid UTF-8; rename it") from None
