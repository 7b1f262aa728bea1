"""Looking at a folder of images with YOLO files: a data.yaml, or a text file for each image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from selftrain.box_folder import (
    TASK,
    Place,
    count_boxes,
    find_places,
    no_labels,
    part_of,
    sets_of_place,
    source_choice,
    without_twins,
)
from selftrain.class_files import CLASS_FILES, class_names
from selftrain.found_data import DataFolder, Form, LabelSet, image_root
from selftrain_core.errors import DataError
from selftrain_core.index import build_source

YOLO = Form("yolo", TASK, "text file", "boxes", "boxes of YOLO files")
_LABEL_FOLDERS = ("labels", "label", "annotations", "txt")
_PARTS = ("train", "val", "valid", "test")
_LINE = re.compile(rb"\s*\d+(\s+[-+.\deE]+){4,}\s*")
_HEAD = 2000


def find_yolo(folder: Path, images: str | None) -> list[Path | Place]:
    """Return the data file of a folder, else where images and text files of boxes lie in it."""
    if images is None:
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            if _is_data_file(path):
                return [path]
    return list(find_places(folder, images, _LABEL_FOLDERS, ".txt", _is_yolo))


def _is_data_file(path: Path) -> bool:
    try:
        values = _read_yaml(path)
    except DataError:
        return False
    return isinstance(values, Mapping) and "names" in values and any(values.get(part) for part in _PARTS)


def _read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise DataError(f"{path} cannot be read: its values are nested too deeply") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _is_yolo(path: Path) -> bool:
    if path.name in CLASS_FILES:
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD).strip().splitlines()
    return bool(head) and _LINE.fullmatch(head[0]) is not None


def look_at_yolo(folder: Path, images: str | None) -> DataFolder:
    """Return what a folder of images and YOLO files holds.

    Args:
        folder: The folder.
        images: The name of the folder of images, where no data file says it and it has no usual name.

    Raises:
        DataError: It holds no such files, or they cannot be read.
    """
    found = DataFolder(folder, YOLO, [])
    places = find_yolo(folder, images)
    if not places:
        if images is None and (folder / "data.yaml").is_file():
            _read_yaml(folder / "data.yaml")  # what is wrong with it is what people want to know
        raise no_labels(folder, "data.yaml of YOLO, nor text files of boxes with images")
    sets: list[LabelSet] = []
    for place in places:
        if isinstance(place, Place):
            sets += _sets_of_place(found, place)
        else:
            sets += _sets_of_data_file(found, place)
    found.sets = without_twins(found, sets)
    if not found.sets:
        raise DataError(f"no image in {', '.join(map(str, found.images))} has a text file of its name with boxes")
    without = len(found.paths) - len(found.labelled)
    if without:
        found.warnings.append(
            f"{without:,} images have no text file, and are taken for unlabelled ones; an empty file says that an "
            "image shows none of the classes"
        )
    count_boxes(found)
    return found


def _sets_of_data_file(found: DataFolder, path: Path) -> Iterator[LabelSet]:
    values = _read_yaml(path)
    parts = [part for part in _PARTS if values.get(part)]
    failures = []
    for part in parts:
        source = {"name": "detection/yolo", "data": str(path), "split": part}
        choice = source_choice(source)
        options: Any = choice.options
        found.classes, found.classes_from = tuple(dict.fromkeys(options.names.values())), path.name
        try:
            entries = sorted(build_source(choice, found.classes).scan(), key=lambda entry: entry.id)
        except DataError as error:
            failures.append(str(error))
            continue
        found.images.append(image_root(entries[0].id, entries[0].path))
        found.add_images((entry.id, entry.path) for entry in entries)
        labelled = tuple(entry for entry in entries if entry.label_path is not None and entry.label_path.is_file())
        told = f"{len(labelled):,} images, detection/yolo"
        yield LabelSet(source, labelled, part_of(part), path, told)
    if len(failures) == len(parts):
        raise DataError(failures[0])
    found.warnings += failures


def _sets_of_place(found: DataFolder, place: Place) -> list[LabelSet]:
    found.images.append(place.images)
    source: dict[str, Any] = {"name": "detection/yolo", "images": str(place.images), "labels": str(place.labels)}
    sets = sets_of_place(found, place, source, ".txt")
    if not found.classes:
        for folder in dict.fromkeys((found.folder, place.labels, place.labels.parent)):
            found.classes, found.classes_from, found.class_file = class_names(folder)
            if found.classes:
                break
    if not found.classes:
        files = [entry.label_path for each in sets for entry in each.entries]
        number = max((_largest(file) for file in files if file), default=0)
        found.classes = tuple(f"class {number}" for number in range(number + 1))
        found.classes_from = "the numbers in the text files: give them names"
    source["names"] = list(found.classes)  # one mapping for all sets of the place
    return sets


def _largest(path: Path) -> int:
    lines = path.read_bytes().splitlines()
    return max((int(line.split()[0]) for line in lines if _LINE.fullmatch(line)), default=0)
