"""The image-folder source, and the finding of files that other folder sources share. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from selftrain_core.config_model import NOT_IDENTITY, DataPath, StrictModel
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.images import IMAGE_SUFFIXES
from selftrain_core.labels import Labels


class ImageFolderConfig(StrictModel):
    """A folder of images, all of it or those a list names."""

    images: DataPath = Field(description="The folder; folders within it are searched too.")
    list: DataPath | None = Field(
        default=None,
        description="A text file with one image id per line: the path below the folder, without ending.",
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
    """Yield (id, path) of the images below `folder`, in order of id; only those that the list names, if there is one.

    Raises:
        DataError: The folder or list is missing, an id is listed twice or not found, or two files share an id.
    """
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            id_ = path.relative_to(folder).with_suffix("").as_posix()
            if id_ in found:
                raise DataError(f"{found[id_]} and {path} share the id '{id_}'; rename one")
            found[id_] = path
    if not found:
        raise DataError(f"the folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    for id_ in found if list_path is None else read_list(list_path):
        if id_ not in found:
            is_suffixed = id_.rpartition(".")[0] in found
            hint = "; names are written without the ending" if is_suffixed else ""
            raise DataError(f"{list_path} names '{id_}', but {folder} holds no such image{hint}")
        yield id_, found[id_]


def read_list(path: Path) -> list[str]:
    """Return the ids in a text file, one per line; empty lines are passed over.

    Raises:
        DataError: The file is missing or empty, or names an id twice.
    """
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read: {error}") from error
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise DataError(f"{path} names '{id_}' twice")
        seen.add(id_)
    if not ids:
        raise DataError(f"the list {path} is empty")
    return ids
