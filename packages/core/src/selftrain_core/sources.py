"""The image-folder source, and the finding of files that other folder sources share. No torch here."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from selftrain_core.config_model import NOT_IDENTITY, DataPath, StrictModel
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError, did_you_mean
from selftrain_core.images import IMAGE_SUFFIXES
from selftrain_core.labels import Labels

_MOST_COMPARED = 2000
"""Names among which the closest to a misspelt one is sought."""


class ImageFolderConfig(StrictModel):
    """A folder of images, all of it or those a list names."""

    images: DataPath = Field(description="The folder; folders within it are searched too.")
    list: DataPath | None = Field(
        default=None,
        description="A text file with one image id per line: the path below the folder, with or without ending.",
        json_schema_extra=NOT_IDENTITY,
    )


class ImageFolder(DataSource):
    """Images without labels, for the unlabelled pool."""

    config: ImageFolderConfig

    def scan(self) -> Iterator[Entry]:
        """Yield the images of the folder, or those the list names."""
        for id_, path in find_images(self.config.images, self.config.list):
            yield Entry(id_, path)

    def read_labels(self, entry: Entry) -> Labels:
        """Refuse: there are none.

        Raises:
            DataError: Always.
        """
        raise DataError(
            f"'{entry.id}' comes from a 'core/images' source, which has no labels; use it for data.unlabelled only"
        )


def find_images(folder: Path, list_path: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield (id, path) of the images below `folder`: all in the order of their ids, or those a list names in its order.

    Files and folders whose names begin with a dot are passed over; folders that are links are followed. What has an
    image's ending is an image, be it readable or not. No more names are in memory than one folder holds, or the list.

    Args:
        folder: The folder; an id is the path below it, without ending.
        list_path: A text file of ids; one that ends as its image's file does is taken for that file.

    Raises:
        DataError: The folder or list is missing, an id is listed twice or not found, or two files share an id.
    """
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist")
    if list_path is not None:
        yield from _listed(folder, list_path)
        return
    is_empty = True
    for id_, path in _below(str(folder), "", ()):
        is_empty = False
        yield id_, Path(path)
    if is_empty:
        raise DataError(f"the folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")


def _below(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
    with _reading(folder):
        status = Path(folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return  # a link to a folder that it lies in
    # With its slash a folder's name sorts as the ids below it do.
    names = [f"{name}/" if is_folder else name for name, is_folder in _contents(folder)]
    names.sort(key=lambda name: name if name.endswith("/") else _split(name)[0])
    before, stem_before = "", ""
    for name in names:
        if name.endswith("/"):
            yield from _below(f"{folder}/{name[:-1]}", f"{prefix}{name}", (*above, here))
            continue
        stem = _split(name)[0]
        if stem == stem_before:
            raise DataError(_shared_id(folder, before, name, f"{prefix}{stem}"))
        before, stem_before = name, stem
        yield f"{prefix}{stem}", f"{folder}/{name}"


def _contents(folder: str) -> Iterator[tuple[str, bool]]:
    """Yield the names of the folders and images in a folder, and which of them are folders."""
    with _reading(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_folder = _is_folder(entry)
            if is_folder or _split(entry.name)[1].lower() in IMAGE_SUFFIXES:
                _refuse_unreadable_name(folder, entry.name)
                yield entry.name, is_folder


@contextmanager
def _reading(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads nowhere; reading the image says so


def _split(name: str) -> tuple[str, str]:
    return os.path.splitext(name)  # noqa: PTH122  # ten times as fast as a path's stem and suffix


def _refuse_unreadable_name(folder: str, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"the folder {folder} holds a file whose name is not valid UTF-8, {os.fsencode(name)!r}; rename it"
        ) from None


def _shared_id(folder: str, first: str, second: str, id_: str) -> str:
    first, second = sorted((first, second))
    return (
        f"{folder}/{first} and {folder}/{second} share the id '{id_}'; rename one, or name the one that is meant, with "
        "its ending, in a list"
    )


def _listed(folder: Path, list_path: Path) -> Iterator[tuple[str, Path]]:
    lines = read_list(list_path)
    by_parent: dict[str, list[str]] = {}
    for line in lines:
        by_parent.setdefault(line.rpartition("/")[0], []).append(line)
    found: dict[str, str] = {}  # name of the file by line
    for parent, wanted in by_parent.items():
        found.update(_wanted(folder, parent, wanted))
    seen: set[str] = set()
    for line in lines:
        if line not in found:
            raise DataError(f"{list_path} names '{line}', but {folder} holds no such image{_hint(folder, line)}")
        parent, slash, _ = line.rpartition("/")
        id_ = f"{parent}{slash}{_split(found[line])[0]}"
        if id_ in seen:
            raise DataError(f"{list_path} names '{id_}' twice, once as '{line}'")
        seen.add(id_)
        yield id_, Path(f"{folder}/{parent}{slash}{found[line]}")


def _wanted(folder: Path, parent: str, lines: list[str]) -> dict[str, str]:
    """Return, by line, the names of the files that lines of one folder mean."""
    place = folder / parent
    if not _is_below(parent) or not place.is_dir():
        return {}
    wanted = {line.rpartition("/")[2]: line for line in lines}
    by_stem: dict[str, str] = {}
    by_name: dict[str, str] = {}
    for name, is_folder in _contents(str(place)):
        if is_folder:
            continue
        if name in wanted:
            by_name[wanted[name]] = name
        line = wanted.get(_split(name)[0])
        if line in by_stem:
            raise DataError(_shared_id(str(place), by_stem[line], name, line))
        if line is not None:
            by_stem[line] = name
    return {**by_name, **by_stem}  # a file called 'a.jpg.png' goes before 'a.jpg'


def _is_below(path: str) -> bool:
    return not path or all(part and not part.startswith(".") for part in path.split("/"))


def _hint(folder: Path, line: str) -> str:
    parent, slash, name = line.rpartition("/")
    place = folder / parent
    if not _is_below(line) or not place.is_dir():
        return f"; names are paths below {folder}, such as 'folder/name'"
    stems = {_split(each)[0]: each for each, is_folder in _contents(str(place)) if not is_folder}
    stem, suffix = _split(name)
    if suffix and stem in stems:
        return f"; '{parent}{slash}{stem}' is there as {stems[stem]}"
    if unicodedata.normalize("NFC", name) in {unicodedata.normalize("NFC", each) for each in stems}:
        return "; there is one whose name looks the same, but is written with other Unicode characters: rename it"
    return did_you_mean(name, list(stems)[:_MOST_COMPARED])


def read_list(path: Path) -> list[str]:
    """Return the ids in a text file, one per line; empty lines are passed over.

    Raises:
        DataError: The file is missing or empty, or names an id twice.
    """
    ids: dict[str, None] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in map(str.strip, file):
                if line in ids:
                    raise DataError(f"{path} names '{line}' twice")
                if line:
                    ids[line] = None
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the list {path} cannot be read: it is no text in UTF-8 ({error.reason})") from error
    if not ids:
        raise DataError(f"the list {path} is empty; it is to name an image in each line")
    return list(ids)
