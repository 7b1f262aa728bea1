"""Looking at a folder of images and a folder of masks: what masks are called, and what their values mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from selftrain.class_files import class_names
from selftrain.found_data import (
    IMAGE_FOLDERS,
    DataFolder,
    Form,
    LabelSet,
    note_sizes,
    read_spread,
    subfolder,
    subfolders,
)
from selftrain_core.config_model import DataSourceChoice
from selftrain_core.data_source import Entry
from selftrain_core.errors import DataError
from selftrain_core.images import IMAGE_SUFFIXES, read_colour_mask, read_index_mask
from selftrain_core.index import build_source
from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_core.sources import find_images

MASKS = Form("masks", "segmentation/semantic", "mask", "masks", "masks", ("splits", "lists", "ImageSets/Segmentation"))
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "segmentationclass", "gt", "ground_truth", "segmentation")
_NO_CLASS = re.compile(r"void|ignore|unlabell?ed", re.IGNORECASE)
_MOST_READ = 400


def has_masks(folder: Path) -> bool:
    """Return whether a folder holds one of masks under a usual name, in which there are images."""
    return any(_is_image(path) for each in subfolders(folder, MASK_FOLDERS) for path in each.rglob("*"))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def look_at_masks(folder: Path, images: str | None, masks: str | None) -> DataFolder:
    """Return what a folder of images and masks holds.

    Args:
        folder: Holds a folder of images and a folder of masks.
        images: The name of the former, where it is none of `IMAGE_FOLDERS`, or there are several.
        masks: The name of the latter.

    Raises:
        DataError: It holds no such folders, no image has a mask, or the masks cannot be understood.
    """
    warnings: list[str] = []
    image_folder = subfolder(folder, images, IMAGE_FOLDERS, "images", warnings)
    mask_folder = subfolder(folder, masks, MASK_FOLDERS, "masks", warnings)
    found = DataFolder(folder, MASKS, [image_folder], warnings=warnings)
    found.add_images(find_images(image_folder, None))
    pattern, entries = _match_masks(found, mask_folder)
    source = _understand_masks(found, mask_folder, pattern, entries[0])
    told = f"{len(entries):,}, {source['name']}, called {pattern}"
    found.sets = [LabelSet(source, tuple(entries), None, mask_folder, told)]
    _count(found)
    return found


def _match_masks(found: DataFolder, folder: Path) -> tuple[str, list[Entry]]:
    """Return how masks are called, ``{id}_mask.png``, and the images that have one."""
    masks = [path for path in folder.rglob("*") if _is_image(path)]
    patterns: Counter[str] = Counter()
    for path in masks:
        name = path.relative_to(folder).as_posix()
        id_ = _image_of(name.removesuffix(path.suffix), found.paths)
        if id_ is not None:
            patterns["{id}" + name.removeprefix(id_)] += 1
    if not patterns:
        shown = ", ".join(sorted(path.name for path in masks)[:3]) or "no image file"
        raise DataError(
            f"no image in {found.images[0]} has a mask in {folder}\n  images are called: "
            f"{', '.join(list(found.paths)[:3])}\n  masks are called: {shown}\n"
            "  a mask is called as its image, or begins with its name and '_' or '-': photo_mask.png"
        )
    pattern, count = patterns.most_common(1)[0]
    if count < len(masks):
        found.warnings.append(f"{len(masks) - count:,} of {len(masks):,} files in {folder} are not '{pattern}'")
    entries = [Entry(id_, path, folder / pattern.replace("{id}", id_)) for id_, path in found.paths.items()]
    return pattern, [entry for entry in entries if entry.label_path is not None and entry.label_path.is_file()]


def _image_of(stem: str, ids: Mapping[str, Path]) -> str | None:
    """Return the id of the image whose mask has that name: the longest that it begins with."""
    while stem not in ids:
        cut = max(stem.rfind("_"), stem.rfind("-"))
        if cut <= 0:
            return None
        stem = stem[:cut]
    return stem


def _understand_masks(found: DataFolder, folder: Path, pattern: str, first: Entry) -> dict[str, Any]:
    """Find out whether masks hold indices or colours and what the classes are called; return the source's settings."""
    base = {"images": str(found.images[0]), "masks": str(folder), "mask_name": pattern}
    assert first.label_path is not None
    try:
        read_index_mask(first.label_path)
    except DataError as error:
        if "colours" not in str(error):
            raise
        return {"name": "segmentation/colour-masks", **base, **_colours(found, base, first.label_path)}
    found.classes, found.classes_from, found.class_file = class_names(found.folder)
    return {"name": "segmentation/index-masks", **base}


def _colours(found: DataFolder, base: Mapping[str, Any], mask: Path) -> dict[str, Any]:
    """Return the settings that say what colours mean, from the first file that is a table of them."""
    for path in sorted([*found.folder.glob("*.csv"), *found.folder.glob("*.txt")]):
        settings = {"colours": str(path)}
        try:
            choice = DataSourceChoice.model_validate({"name": "segmentation/colour-masks", **base, **settings})
        except ValidationError:
            continue  # a list, or anything else
        options: Any = choice.options
        names = list(options.colours)
        ignored = [name for name in names if _NO_CLASS.fullmatch(name)]
        found.classes = tuple(name for name in names if name not in ignored)
        found.classes_from = path.name
        return {**settings, **({"ignore": ignored} if ignored else {})}
    colours = np.unique(read_colour_mask(mask).reshape(-1, 3), axis=0)
    shown = "; ".join(",".join(map(str, colour)) for colour in colours[:6].tolist())
    raise DataError(
        f"{mask} holds colours, but {found.folder} holds no table that says what they mean\n  write one beside the "
        f"masks' folder, classes.csv, with a line name,r,g,b for each class\n  colours in this mask: {shown}"
    )


def _count(found: DataFolder) -> None:
    """Read masks, and note sizes and classes."""
    numbered = tuple(f"class {number}" for number in range(IGNORE))
    reader = build_source(DataSourceChoice.model_validate(found.sets[0].source), found.classes or numbered)
    pixels, images = np.zeros(IGNORE + 1, np.int64), np.zeros(IGNORE + 1, np.int64)

    def read(_: LabelSet, entry: Entry) -> NDArray[np.bool_]:
        labels = reader.read_labels(entry)
        assert isinstance(labels, MaskLabels)
        counted = np.bincount(labels.classes_HW.ravel(), minlength=IGNORE + 1)
        pixels[:] += counted
        images[:] += counted > 0
        return counted > 0

    read_spread(found, _MOST_READ, read)
    if not found.classes:
        num_classes = int(np.flatnonzero(pixels[:IGNORE])[-1]) + 1 if pixels[:IGNORE].any() else 1
        found.classes = numbered[:num_classes]
        found.classes_from = "the values in the masks: give them names"
    num_classes = len(found.classes)
    found.amounts_C = np.append(pixels[:num_classes], pixels[IGNORE])
    found.images_C = images[:num_classes]
    found.shown = {id_: shown_C[:num_classes] for id_, shown_C in found.shown.items()}
    note_sizes(found)
