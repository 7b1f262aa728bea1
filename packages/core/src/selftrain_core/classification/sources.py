"""Images that each have a class: in a folder of its name, or in a list. No torch here."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import Field

from selftrain_core.classification.class_list import read_classes
from selftrain_core.config_model import NOT_IDENTITY, DataPath
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.labels import ClassLabels
from selftrain_core.sources import ImageFolderConfig, find_images


class ClassFoldersConfig(ImageFolderConfig):
    """A folder with a folder of images for each class, which has the class's name."""

    images: DataPath = Field(description="The folder of the class folders, in which folders are searched too.")


class ClassFolders(DataSource):
    """Images whose class is the first folder of their id: ``cat/001`` shows a cat."""

    config: ClassFoldersConfig

    def __init__(self, config: ClassFoldersConfig, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        # As folders are called on a disk that writes é as two characters.
        self._indices = {_composed(name): index for index, name in enumerate(self.classes)}

    def scan(self) -> Iterator[Entry]:
        """Yield the images in the class folders, or those the list names.

        Raises:
            DataError: A folder is no class, a class has no folder, or an image lies in no class folder.
        """
        if self.config.images.is_dir():
            self._refuse_other_folders()
        for id_, path in find_images(self.config.images, self.config.list):
            self._index(id_)
            yield Entry(id_, path)

    def read_labels(self, entry: Entry) -> ClassLabels:
        """Return the class whose folder the image lies in."""
        return _labels(self._index(entry.id))

    def _index(self, id_: str) -> int:
        name, slash, _ = id_.partition("/")
        index = self._indices.get(_composed(name)) if slash else None
        if index is None:
            raise DataError(
                f"the image '{id_}' lies in no class folder of {self.config.images}; move it into one of: "
                f"{', '.join(self.classes)}"
            )
        return index

    def _refuse_other_folders(self) -> None:
        folder = self.config.images
        try:
            names = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
        except OSError as error:
            raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
        there = {_composed(name) for name in names}
        no_class = [name for name in names if _composed(name) not in self._indices]
        no_folder = [name for name in self.classes if _composed(name) not in there]
        if no_class or no_folder:
            differences = [
                f"  {what}: {', '.join(those)}\n"
                for what, those in (("folders that are no class", no_class), ("classes without a folder", no_folder))
                if those
            ]
            raise DataError(
                f"the folders in {folder} are not the classes\n{''.join(differences)}"
                f"  all folders: {', '.join(names) or 'none'}\n  all classes: {', '.join(self.classes)}\n"
                "  rename the folders, move them elsewhere, or change the setting classes; a class without images "
                "needs an empty folder"
            )


class ClassListConfig(ImageFolderConfig):
    """A folder of images and a file that says of each its class."""

    labels: DataPath = Field(
        description="A CSV file whose first line names the columns, id and class among them. An id is as in a list; a "
        "class that is left empty is not known."
    )
    list: DataPath | None = Field(
        default=None,
        description="A text file with one image id per line; without it, all that labels names are used.",
        json_schema_extra=NOT_IDENTITY,
    )


class ClassList(DataSource):
    """Images whose class stands in a file."""

    config: ClassListConfig

    def scan(self) -> Iterator[Entry]:
        """Yield the images that the file names, or those the list names.

        Raises:
            DataError: The file cannot be used, or names an image that is not there.
        """
        missing = dict.fromkeys(() if self.config.list else self._indices)
        for id_, path in find_images(self.config.images, self.config.list):
            name = self._name(id_, path)
            if name is not None or self.config.list:
                missing.pop(name or "", None)
                yield Entry(id_, path, self.config.labels)
        if missing:
            raise DataError(
                f"{self.config.labels} names '{next(iter(missing))}', but {self.config.images} holds no such image; "
                "names are paths below it, such as 'folder/name'"
            )

    def read_labels(self, entry: Entry) -> ClassLabels:
        """Return the class of an image.

        Raises:
            DataError: The file has no line for it.
        """
        name = self._name(entry.id, entry.path)
        if name is None:
            raise DataError(
                f"{self.config.labels} has no line for the image '{entry.id}'; add one, or take it out of its list"
            )
        return _labels(self._indices[name])

    @cached_property
    def _indices(self) -> dict[str, int]:
        return read_classes(self.config.labels, self.classes)

    def _name(self, id_: str, path: Path) -> str | None:
        """Return what the file calls an image, with or without ending; None where it does not name it."""
        return next((name for name in (id_, f"{id_}{path.suffix}") if name in self._indices), None)


def _labels(index: int) -> ClassLabels:
    return ClassLabels(np.array([index], np.int64))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
