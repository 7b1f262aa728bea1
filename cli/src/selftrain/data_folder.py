"""Looking at a folder of images and masks as people keep them: what is what, and what it holds. No torch here."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from selftrain_core.config_model import DataSourceChoice
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.images import IMAGE_SUFFIXES, read_colour_mask, read_image, read_index_mask
from selftrain_core.index import build_source
from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_core.sources import find_images

IMAGE_FOLDERS = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "segmentationclass", "gt", "ground_truth", "segmentation")
CLASS_FILES = ("classes.json", "classes.txt", "class_names.txt", "labels.txt", "names.txt")
_NO_CLASS = re.compile(r"void|ignore|unlabell?ed", re.IGNORECASE)
_MOST_READ = 400
_MOST_SIZES = 50


@dataclass
class DataFolder:
    """What a folder holds.

    Attributes:
        folder: The folder.
        images: The folder of images.
        masks: The folder of masks.
        source: Settings of the data source that reads images and masks, but for a list.
        classes: Class names in order.
        classes_from: Where the names come from, for people.
        class_file: A JSON file that the configuration may name for them.
        paths: Files of all images by id.
        masked: Ids of the images that have a mask.
        sizes: (height, width) of some images.
        pixels_C: Pixels of each class in the masks that were read, and last the ignored ones.
        images_C: In how many of these masks each class is.
        num_read: How many masks were read.
        read_seconds: What reading an image with its mask takes.
        warnings: What people should know.
    """

    folder: Path
    images: Path
    masks: Path
    source: dict[str, Any]
    classes: tuple[str, ...] = ()
    classes_from: str = ""
    class_file: Path | None = None
    paths: dict[str, Path] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pixels_C: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    images_C: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    num_read: int = 0
    read_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """The median height and width."""
        height, width = np.median(np.array(self.sizes), axis=0)
        return int(height), int(width)


def look_at(folder: Path, images: str | None = None, masks: str | None = None) -> DataFolder:
    """Return what `folder` holds.

    Args:
        folder: Holds a folder of images and a folder of masks.
        images: The name of the former, where it is none of `IMAGE_FOLDERS`, or there are several.
        masks: The name of the latter.

    Raises:
        DataError: It holds no such folders, no image has a mask, or the masks cannot be understood.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one that holds a folder of images and a folder of masks")
    folder = folder.absolute()
    warnings: list[str] = []
    image_folder = _subfolder(folder, images, IMAGE_FOLDERS, "images", warnings)
    mask_folder = _subfolder(folder, masks, MASK_FOLDERS, "masks", warnings)
    found = DataFolder(folder, image_folder, mask_folder, {}, warnings=warnings)
    found.paths = dict(find_images(image_folder, None))
    pattern = _match_masks(found)
    _understand_masks(found, pattern)
    _count(found)
    return found


def _subfolder(folder: Path, given: str | None, names: Sequence[str], what: str, warnings: list[str]) -> Path:
    if given is not None:
        if not (folder / given).is_dir():
            raise DataError(f"--{what} {given}: {folder} holds no such folder; it holds: {_contents(folder)}")
        return folder / given
    there = {each.name.lower(): each for each in sorted(folder.iterdir()) if each.is_dir()}
    found = [there[name] for name in names if name in there]
    if not found:
        raise DataError(
            f"{folder} holds no folder of {what} under a usual name ({', '.join(names)}); it holds: "
            f"{_contents(folder)}\n  name it: --{what} FOLDER"
        )
    if len(found) > 1:
        others = ", ".join(each.name for each in found[1:])
        warnings.append(f"{found[0].name} was taken for the {what}; there is also {others}: --{what} takes another")
    return found[0]


def _contents(folder: Path) -> str:
    names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in folder.iterdir())
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "nothing"


def _match_masks(found: DataFolder) -> str:
    """Note which images have a mask, and return how masks are called: ``{id}_mask.png``."""
    masks = [path for path in found.masks.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    patterns: Counter[str] = Counter()
    for path in masks:
        name = path.relative_to(found.masks).as_posix()
        id_ = _image_of(name.removesuffix(path.suffix), found.paths)
        if id_ is not None:
            patterns["{id}" + name.removeprefix(id_)] += 1
    if not patterns:
        shown = ", ".join(sorted(path.name for path in masks)[:3]) or "no image file"
        raise DataError(
            f"no image in {found.images} has a mask in {found.masks}\n  images are called: "
            f"{', '.join(list(found.paths)[:3])}\n  masks are called: {shown}\n"
            "  a mask is called as its image, or begins with its name and '_' or '-': photo_mask.png"
        )
    pattern, count = patterns.most_common(1)[0]
    if count < len(masks):
        found.warnings.append(f"{len(masks) - count:,} of {len(masks):,} files in {found.masks} are not '{pattern}'")
    found.masked = [id_ for id_ in found.paths if (found.masks / pattern.replace("{id}", id_)).is_file()]
    return pattern


def _image_of(stem: str, ids: Mapping[str, Path]) -> str | None:
    """Return the id of the image whose mask has that name: the longest that it begins with."""
    while stem not in ids:
        cut = max(stem.rfind("_"), stem.rfind("-"))
        if cut <= 0:
            return None
        stem = stem[:cut]
    return stem


def _understand_masks(found: DataFolder, pattern: str) -> None:
    """Find out whether masks hold indices or colours, and what the classes are called."""
    base = {"images": str(found.images), "masks": str(found.masks), "mask_name": pattern}
    first = found.masks / pattern.replace("{id}", found.masked[0])
    try:
        read_index_mask(first)
    except DataError as error:
        if "colours" not in str(error):
            raise
        found.source = {"name": "segmentation/colour-masks", **base, **_colours(found, base, first)}
        return
    found.source = {"name": "segmentation/index-masks", **base}
    found.classes, found.classes_from, found.class_file = _class_names(found.folder)


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


def _class_names(folder: Path) -> tuple[tuple[str, ...], str, Path | None]:
    for name in CLASS_FILES:
        path = folder / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8-sig")
        try:
            names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}") from error
        names = names.get("classes") if isinstance(names, dict) else names
        names = [each for each in names or [] if each]
        if not names or not all(isinstance(each, str) for each in names) or len(set(names)) < len(names):
            raise DataError(f"{path} holds no list of distinct class names")
        return tuple(names), name, path if path.suffix == ".json" else None
    return (), "", None


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` of `values`, evenly spread."""
    return [values[place] for place in np.linspace(0, len(values) - 1, min(count, len(values))).astype(int)]


def _count(found: DataFolder) -> None:
    """Read masks, and note sizes and classes."""
    numbered = tuple(f"class {number}" for number in range(IGNORE))
    reader = build_source(DataSourceChoice.model_validate(found.source), found.classes or numbered)
    pixels, images = np.zeros(IGNORE + 1, np.int64), np.zeros(IGNORE + 1, np.int64)
    chosen = spread(found.masked, _MOST_READ)
    for classes_HW in _masks(reader, found, chosen):
        counted = np.bincount(classes_HW.ravel(), minlength=IGNORE + 1)
        pixels, images = pixels + counted, images + (counted > 0)
    found.num_read = len(chosen)
    if not found.classes:
        num_classes = int(np.flatnonzero(pixels[:IGNORE])[-1]) + 1 if pixels[:IGNORE].any() else 1
        found.classes = numbered[:num_classes]
        found.classes_from = "the values in the masks: give them names"
    num_classes = len(found.classes)
    found.pixels_C = np.append(pixels[:num_classes], pixels[IGNORE])
    found.images_C = images[:num_classes]
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
        raise DataError(f"no image in {found.images} can be read: {unreadable[0]}")


def _masks(reader: DataSource, found: DataFolder, ids: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    started = time.monotonic()
    for id_ in ids:
        name = str(found.source["mask_name"]).replace("{id}", id_)
        labels = reader.read_labels(Entry(id_, found.paths[id_], found.masks / name))
        assert isinstance(labels, MaskLabels)
        yield labels.classes_HW
    found.read_seconds += (time.monotonic() - started) / len(ids)
