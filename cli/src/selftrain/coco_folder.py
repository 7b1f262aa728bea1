"""Looking at a folder of images with COCO files of instances: one for all of them, or one for each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftrain.box_folder import TASK, add_unlabelled, count_boxes, no_labels, part_of, without_twins
from selftrain.found_data import IMAGE_FOLDERS, PART_NAMES, DataFolder, Form, LabelSet, spread, subfolders
from selftrain_core.data_source import Entry
from selftrain_core.errors import DataError
from selftrain_core.image_names import is_there, path_below, without_ending
from selftrain_core.json_stream import JsonStream

COCO = Form("coco", TASK, "entry", "boxes", "boxes of COCO files")
_FILE_FOLDERS = ("annotations", "annotation", "labels", *(name for names in PART_NAMES.values() for name in names))
_LISTS = ("images", "annotations", "categories")
_MOST_FILES = 50
"""A folder with more JSON files has one for each image, in some other form."""
_MOST_LOOKED_FOR = 200


def find_coco(folder: Path) -> list[Path]:
    """Return the COCO files in a folder, and in those within it that have a usual name. None is read as JSON."""
    found = []
    for place in (folder, *subfolders(folder, _FILE_FOLDERS)):
        files = sorted(place.glob("*.json"))
        found += [path for path in files[:_MOST_FILES] if len(files) <= _MOST_FILES and _is_coco(path)]
    return found


def _is_coco(path: Path) -> bool:
    missing, before = {f'"{key}"'.encode() for key in _LISTS}, b""
    with path.open("rb") as file:
        while missing and (chunk := file.read(1 << 22)):
            missing = {key for key in missing if key not in before[-20:] + chunk}
            before = chunk
    return not missing


@dataclass(frozen=True, slots=True)
class _File:
    """A COCO file.

    Attributes:
        path: The file.
        names: Paths of its images below their folder.
        classes: The categories in their order.
        used: Those that annotations have.
        num_annotated: How many of its images have annotations.
    """

    path: Path
    names: list[str]
    classes: list[str]
    used: set[str]
    num_annotated: int

    @property
    def part(self) -> str | None:
        """The part that its name stands for, or else that of its folder."""
        return part_of(self.path.stem) or part_of(self.path.parent.name)


@dataclass
class _Content:
    """What matters of a file, while it is read."""

    path: Path
    names: dict[Any, str] = field(default_factory=dict)
    classes: dict[Any, str] = field(default_factory=dict)
    used: set[Any] = field(default_factory=set)
    annotated: set[Any] = field(default_factory=set)

    def read(self) -> None:
        """Read the file; no more than an element of it is in memory beside what matters."""
        readers = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        missing = set(readers)
        with self.path.open(encoding="utf-8-sig") as file:
            stream = JsonStream(file)
            for key in stream.members():
                if key not in readers:
                    stream.value()
                    continue
                missing.discard(key)
                for element in stream.items():
                    readers[key](element)
        if missing:
            raise LookupError(f"it lacks {', '.join(map(repr, sorted(missing)))}")

    def _image(self, image: Any) -> None:
        id_, name = image["id"], image["file_name"]
        try:
            self.names[id_] = path_below(name)
        except ValueError as error:
            raise DataError(f"{self.path}: the image of the id {id_!r} has {error}") from error

    def _annotation(self, annotation: Any) -> None:
        self.annotated.add(annotation["image_id"])
        self.used.add(annotation["category_id"])

    def _category(self, category: Any) -> None:
        self.classes[category["id"]] = str(category["name"])


def _load(path: Path) -> _File:
    content = _Content(path)
    try:
        content.read()
        used = {content.classes[each] for each in content.used}
    except (OSError, ValueError) as error:
        raise DataError(f"the annotations {path} cannot be read: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no COCO file of instances ({error!r}); such a file has 'images' (id, file_name), 'annotations' "
            "(id, image_id, category_id, bbox) and 'categories' (id, name)"
        ) from error
    num_annotated = len(content.annotated & set(content.names))
    classes = list(dict.fromkeys(content.classes.values()))
    return _File(path, list(content.names.values()), classes, used, num_annotated)


def look_at_coco(folder: Path, images: str | None) -> DataFolder:
    """Return what a folder of images and COCO files holds.

    Args:
        folder: The folder.
        images: The name of the folder of images, where it has no usual one.

    Raises:
        DataError: It holds no such file, or none of a file's images is there, or boxes cannot be read.
    """
    if images is not None and not (folder / images).is_dir():
        raise DataError(f"--images {images}: {folder} holds no such folder")
    found = DataFolder(folder, COCO, [])
    files = _chosen([_load(path) for path in find_coco(folder)], found)
    if not files:
        raise no_labels(folder, "COCO file, a JSON with images, annotations and categories")
    found.sets = without_twins(found, [_set(file, folder, images, found) for file in files])
    for each in found.sets:
        found.add_images((entry.id, entry.path) for entry in each.entries)
    add_unlabelled(found)
    used = {name for file in files for name in file.used}
    names = list(dict.fromkeys(name for file in files for name in file.classes))
    found.classes = tuple(name for name in names if name in used)
    found.classes_from = ", ".join(file.path.name for file in files)
    if not found.classes:
        raise DataError(f"{', '.join(str(file.path) for file in files)}: there is not a single annotation")
    if unused := [name for name in names if name not in used]:
        found.warnings.append(f"no box is of the class {', '.join(map(repr, unused))}: left out of the classes")
    count_boxes(found)
    return found


def _chosen(files: list[_File], found: DataFolder) -> list[_File]:
    """Return the files whose names stand for parts, where there are any; else all."""
    with_part = [file for file in files if file.part]
    for file in files:
        if with_part and file not in with_part:
            found.warnings.append(f"{file.path} was left aside: files for the parts are there beside it")
    return with_part or files


def _set(file: _File, folder: Path, images: str | None, found: DataFolder) -> LabelSet:
    root = _root(file, folder, images)
    paths = {name: root / name for name in file.names}
    there = {name: path for name, path in paths.items() if is_there(path.is_file)}
    if len(there) < len(paths):
        gone = next(name for name in paths if name not in there)
        found.warnings.append(
            f"{len(paths) - len(there):,} of the {len(paths):,} images in {file.path} are not in {root}, such as "
            f"'{gone}'"
        )
    if file.num_annotated < 0.5 * len(paths):
        found.warnings.append(
            f"{file.path} has no box of {len(paths) - file.num_annotated:,} of its {len(paths):,} images: they count "
            "as showing none of the classes. If they are not labelled yet, take them out of its 'images'"
        )
    entries = tuple(Entry(without_ending(name), path, file.path) for name, path in sorted(there.items()))
    source = {"name": "detection/coco", "images": str(root), "annotations": str(file.path)}
    return LabelSet(source, entries, file.part, file.path, f"{len(entries):,} images, detection/coco")


def _root(file: _File, folder: Path, images: str | None) -> Path:
    """Return the folder below which a file's images are: that which has most of them."""
    looked_for = spread(file.names, _MOST_LOOKED_FOR) if file.names else []
    places = list(dict.fromkeys(_places(file, folder, images)))
    hits = [sum(is_there((place / name).is_file) for name in looked_for) for place in places]
    count, best = max(((count, -number) for number, count in enumerate(hits)), default=(0, 0))
    if not count:
        tried = "\n    ".join(map(str, places))
        raise DataError(
            f"none of the images that {file.path} lists is there, such as '{(file.names or ['nothing'])[0]}'; looked "
            f"in:\n    {tried}\n  a file_name is the path below the folder of images; name that folder: --images FOLDER"
        )
    return places[-best]


def _places(file: _File, folder: Path, images: str | None) -> Iterator[Path]:
    bases = [folder / images] if images is not None else [*subfolders(folder, IMAGE_FOLDERS), file.path.parent, folder]
    for base in bases:
        yield base
        yield base / file.path.stem.removeprefix("instances_")
        yield from subfolders(base, PART_NAMES[file.part] if file.part else ())
        if base == file.path.parent:
            yield from subfolders(base, IMAGE_FOLDERS)
    if images is None and file.part:
        for each in subfolders(folder, PART_NAMES[file.part]):
            yield from subfolders(each, IMAGE_FOLDERS)
