"""What a folder of people's data holds, whatever its form. No torch here.

Shape letters: C = classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrain_core.data_source import Entry
from selftrain_core.errors import DataError
from selftrain_core.images import read_image

IMAGE_FOLDERS = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures")
PART_NAMES = {
    "labelled": ("labelled", "labeled", "train", "training"),
    "unlabelled": ("unlabelled", "unlabeled", "pool"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
"""What people call the parts: in lists, folders and files of annotations."""
_MOST_SIZES = 50


@dataclass(frozen=True, slots=True)
class Form:
    """A form in which labels come.

    Attributes:
        name: As ``--format`` takes it.
        task: The task that learns from such labels.
        one, many: What a message calls the labels of one image, and of several.
        title: What a message calls the form.
        list_folders: Where lists may lie, beside the folder itself.
    """

    name: str
    task: str
    one: str
    many: str
    title: str
    list_folders: tuple[str, ...] = ("splits", "lists")


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Images that one data source reads.

    Attributes:
        source: Its settings, but for a list.
        entries: The images that have labels.
        part: The part that they play by the name of their file or folder, None where it says none.
        where: The file or folder of the labels, for people.
        told: What to tell people of it.
    """

    source: dict[str, Any]
    entries: tuple[Entry, ...]
    part: str | None
    where: Path
    told: str

    @property
    def ids(self) -> list[str]:
        """The ids of the images."""
        return [entry.id for entry in self.entries]


@dataclass
class DataFolder:
    """What a folder holds.

    Attributes:
        folder: The folder.
        form: That of its labels.
        images: The folders of images.
        sets: The images that have labels; an image is in one set at most.
        classes: Class names in order.
        classes_from: Where the names come from, for people.
        class_file: A JSON file that the configuration may name for them.
        paths: Files of all images by id.
        sizes: (height, width) of some images.
        amounts_C: Pixels, or boxes, of each class in the labels that were read, and last the ignored ones.
        images_C: In how many of these images each class is.
        shown: By id, which classes the labels that were read show, bool [C].
        sides_C: Of boxes: the median √area of each class in pixels of the image, NaN where there is none; else None.
        relative_side: Of boxes: the median √area as a share of the image's longer side; else None.
        boxes_of: By id, how many boxes the labels that were read have.
        usual_boxes: As many boxes as 99 of 100 images to train on have at most; 0 before these are chosen.
        read_seconds: What reading an image with its labels takes.
        warnings: What people should know.
    """

    folder: Path
    form: Form
    images: list[Path]
    sets: list[LabelSet] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    classes_from: str = ""
    class_file: Path | None = None
    paths: dict[str, Path] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    amounts_C: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    images_C: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    shown: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    sides_C: NDArray[np.float64] | None = None
    relative_side: float | None = None
    boxes_of: dict[str, int] = field(default_factory=dict)
    usual_boxes: int = 0
    read_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> list[str]:
        """The images that have labels, in their order."""
        known = {entry.id for each in self.sets for entry in each.entries}
        return [id_ for id_ in self.paths if id_ in known]

    @property
    def size(self) -> tuple[int, int]:
        """The median height and width."""
        height, width = np.median(np.array(self.sizes), axis=0)
        return int(height), int(width)

    def add_images(self, images: Iterable[tuple[str, Path]]) -> None:
        """Take images in.

        Raises:
            DataError: Two files share an id.
        """
        for id_, path in images:
            if not _is_same(self.paths.setdefault(id_, path), path):
                raise DataError(
                    f"{self.paths[id_]} and {path} share the id '{id_}', which is the path below the folder of images; "
                    "rename one"
                )


def _is_same(one: Path, other: Path) -> bool:
    return one == other or one.resolve() == other.resolve()


def image_root(id_: str, path: Path) -> Path:
    """Return the folder below which an image's id is its path."""
    return path.parents[id_.count("/")]


def subfolder(folder: Path, given: str | None, names: Sequence[str], what: str, warnings: list[str]) -> Path:
    """Return the folder within `folder` that a person names, or that has a usual name.

    Args:
        folder: The folder.
        given: What the person says.
        names: The usual names, in small letters; the first that is there is taken.
        what: The option that names it.
        warnings: Told where there are several.

    Raises:
        DataError: It is not there.
    """
    if given is not None:
        if not (folder / given).is_dir():
            raise DataError(f"--{what} {given}: {folder} holds no such folder; it holds: {contents(folder)}")
        return folder / given
    found = subfolders(folder, names)
    if not found:
        raise DataError(
            f"{folder} holds no folder of {what} under a usual name ({', '.join(names)}); it holds: "
            f"{contents(folder)}\n  name it: --{what} FOLDER"
        )
    if len(found) > 1:
        others = ", ".join(each.name for each in found[1:])
        warnings.append(f"{found[0].name} was taken for the {what}; there is also {others}: --{what} takes another")
    return found[0]


def subfolders(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the folders within `folder` that have one of these names, in whatever letters, in the names' order."""
    there = {each.name.lower(): each for each in sorted(folder.iterdir()) if each.is_dir()}
    return [there[name] for name in names if name in there]


def contents(folder: Path) -> str:
    """Return what a folder holds, for people."""
    names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in folder.iterdir())
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "nothing"


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` of `values`, evenly spread."""
    return [values[place] for place in np.linspace(0, len(values) - 1, min(count, len(values))).astype(int)]


def read_spread(found: DataFolder, most: int, read: Callable[[LabelSet, Entry], NDArray[np.bool_]]) -> None:
    """Read the labels of some images, evenly spread; note which classes they show, and what reading one takes.

    Args:
        found: The data.
        most: At most so many images.
        read: Reads and counts the labels of an image, and returns which classes it shows.
    """
    chosen = spread([(each, entry) for each in found.sets for entry in each.entries], most)
    started = time.monotonic()
    for each, entry in chosen:
        found.shown[entry.id] = read(each, entry)
    found.read_seconds += (time.monotonic() - started) / max(1, len(chosen))


def note_sizes(found: DataFolder) -> None:
    """Note the sizes of some images, and what reading one takes.

    Raises:
        DataError: None of them can be read.
    """
    unreadable = []
    started = time.monotonic()
    ids = spread(list(found.paths), _MOST_SIZES)
    for id_ in ids:
        try:
            found.sizes.append(read_image(found.paths[id_]).shape[:2])
        except DataError as error:
            unreadable.append(str(error))
    found.read_seconds += (time.monotonic() - started) / len(ids)
    if unreadable:
        found.warnings.append(f"{len(unreadable)} of {len(ids)} images looked at cannot be read: {unreadable[0]}")
    if not found.sizes:
        folders = ", ".join(map(str, found.images))
        raise DataError(f"no image in {folders} can be read: {unreadable[0]}")
