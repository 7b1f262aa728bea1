"""Looking at a folder of images with Pascal VOC files: an XML file for each image."""

from __future__ import annotations

import xml.etree.ElementTree as ET  # `parse_xml` refuses what could expand
from pathlib import Path

from selftrain.box_folder import TASK, Place, count_boxes, find_places, no_labels, sets_of_place, without_twins
from selftrain.class_files import class_names
from selftrain.found_data import DataFolder, Form
from selftrain_core.errors import DataError
from selftrain_core.xml_files import parse_xml

VOC = Form("voc", TASK, "XML file", "boxes", "boxes of Pascal VOC files", ("splits", "lists", "ImageSets/Main"))
_LABEL_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")
_HEAD = 2000


def find_voc(folder: Path, images: str | None) -> list[Place]:
    """Return where images and Pascal VOC files lie in a folder."""
    return find_places(folder, images, _LABEL_FOLDERS, ".xml", _is_voc)


def _is_voc(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return any("<annotation".encode(encoding) in head for encoding in ("utf-8", "utf-16-le", "utf-16-be"))


def look_at_voc(folder: Path, images: str | None) -> DataFolder:
    """Return what a folder of images and Pascal VOC files holds.

    Args:
        folder: The folder.
        images: The name of the folder of images, where it has no usual one.

    Raises:
        DataError: It holds no such files, or they cannot be read.
    """
    places = find_voc(folder, images)
    if not places:
        raise no_labels(folder, "folder of Pascal VOC files (*.xml) with images")
    found = DataFolder(folder, VOC, [place.images for place in places])
    sets = []
    for place in places:
        source = {"name": "detection/voc", "images": str(place.images), "annotations": str(place.labels)}
        sets += sets_of_place(found, place, source, ".xml")
    found.sets = without_twins(found, sets)
    if not found.sets:
        raise DataError(f"no image in {places[0].images} has an XML file of its name in {places[0].labels}")
    found.classes, found.classes_from, found.class_file = class_names(folder)
    if not found.classes:
        files = [entry.label_path for each in found.sets for entry in each.entries]
        found.classes = tuple(sorted({name for file in files if file for name in _names(file)}))
        found.classes_from = "the XML files, in alphabetical order"
    if not found.classes:
        raise DataError(f"no XML file in {places[0].labels} has an object with a name")
    count_boxes(found)
    return found


def _names(path: Path) -> list[str]:
    """Return the names of a file's objects; of one that cannot be read, none: reading its boxes says what is wrong."""
    try:
        root = parse_xml(path.read_bytes())
    except (OSError, ET.ParseError, ValueError, LookupError):
        return []
    return [name for each in root.findall("object") if (name := (each.findtext("name") or "").strip())]
