"""What folders of boxes have in common, whichever form they are in: where things lie, and what they hold.

Shape letters: N = boxes, C = classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from selftrain.found_data import (
    IMAGE_FOLDERS,
    PART_NAMES,
    DataFolder,
    LabelSet,
    contents,
    image_root,
    note_sizes,
    read_spread,
    subfolders,
)
from selftrain_core.config_model import DataSourceChoice
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.images import IMAGE_SUFFIXES, image_size
from selftrain_core.index import build_source
from selftrain_core.labels import BoxLabels
from selftrain_core.sources import find_images

TASK = "detection/retinanet"
_MOST_READ = 2000
_MOST_LOOKED_AT = 50
"""Files that are opened to see whether a folder holds annotations."""


def part_of(name: str) -> str | None:
    """Return the part that a name stands for: ``instances_train2017`` is to train on."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    return next((part for part, names in PART_NAMES.items() if words & set(names)), None)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of images, the folder of their labels, and the part that they play by the name of theirs."""

    images: Path
    labels: Path
    part: str | None


def find_places(
    folder: Path, images: str | None, names: Sequence[str], suffix: str, is_label: Callable[[Path], bool]
) -> list[Place]:
    """Return where images and a label file for each of them lie: in one place, else in a folder for each part.

    Args:
        folder: The folder.
        images: The name of the folder of images, where a person gives it.
        names: What folders of labels are called.
        suffix: Of the label files.
        is_label: Tells a label file from others with this suffix.
    """

    def place_in(within: Path, part: str | None) -> Place | None:
        given = [within / images] if images is not None and (within / images).is_dir() else []
        for image_folder in given or subfolders(within, IMAGE_FOLDERS) or [within]:
            if image_folder == within and not any(each.suffix.lower() in IMAGE_SUFFIXES for each in within.iterdir()):
                continue
            for labels in (*subfolders(within, names), image_folder):
                files = labels.glob(f"*{suffix}") if labels == within else labels.rglob(f"*{suffix}")
                if any(map(is_label, islice(files, _MOST_LOOKED_AT))):
                    return Place(image_folder, labels, part)
        return None

    whole = place_in(folder, None)
    if whole is not None:
        return [whole]
    parts = [(part, each) for part, called in PART_NAMES.items() for each in subfolders(folder, called)]
    return [place for part, each in parts if (place := place_in(each, part)) is not None]


def sets_of_place(found: DataFolder, place: Place, source: dict[str, Any], suffix: str) -> list[LabelSet]:
    """Return the images of a place that have labels, in sets; note all images.

    Images in folders called as parts are, such as ``images/train``, are a set for each part.

    Args:
        found: The data.
        place: The place.
        source: Settings of the source that reads it.
        suffix: Of the label files.
    """
    images = list(find_images(place.images, None))
    found.add_images(images)
    entries = [Entry(id_, path, place.labels / f"{id_}{suffix}") for id_, path in images]
    labelled = [entry for entry in entries if entry.label_path is not None and entry.label_path.is_file()]
    by_part: dict[str | None, list[Entry]] = {}
    for entry in labelled:
        first, slash, _ = entry.id.partition("/")
        by_part.setdefault(part_of(first) if slash and place.part is None else place.part, []).append(entry)
    if None in by_part:
        by_part = {None: labelled} if labelled else {}
    return [
        LabelSet(source, tuple(members), part, place.labels, f"{len(members):,} images, {source['name']}")
        for part, members in by_part.items()
    ]


def add_unlabelled(found: DataFolder) -> None:
    """Note the images that lie beside those with labels."""
    known = set(found.paths.values())
    roots = dict.fromkeys(image_root(entry.id, entry.path) for each in found.sets for entry in each.entries)
    tops = {id_.partition("/")[0] for id_ in found.paths}
    for root in roots:
        # Where the folder itself is the images' root, it holds other things too.
        inside = (
            (id_, path)
            for id_, path in find_images(root, None)
            if root != found.folder or id_ in found.paths or ("/" in id_ and id_.partition("/")[0] in tops)
        )
        found.add_images((id_, path) for id_, path in inside if path not in known)
        if root not in found.images:
            found.images.append(root)


def without_twins(found: DataFolder, sets: Iterable[LabelSet]) -> list[LabelSet]:
    """Return the sets without images that an earlier one has; one that has no other is left out, and told."""
    seen: set[Path] = set()
    kept: list[LabelSet] = []
    for each in sets:
        own = tuple(entry for entry in each.entries if entry.path not in seen)
        seen |= {entry.path for entry in own}
        if len(own) < len(each.entries):
            twins = len(each.entries) - len(own)
            found.warnings.append(f"{twins:,} images of {each.where} ({each.part or 'no part'}) are in another set too")
        if own:
            kept.append(replace(each, entries=own))
    return kept


def source_choice(settings: dict[str, Any]) -> DataSourceChoice:
    """Return a source from its settings.

    Raises:
        DataError: They, or a file that they name, are wrong.
    """
    try:
        return DataSourceChoice.model_validate(settings)
    except ValidationError as error:
        raise DataError("; ".join(each["msg"] for each in error.errors())) from error


class _Reader:
    """Reads the boxes of a set; where some are bad, without those.

    Args:
        each: The set.
        classes: The class names.
    """

    def __init__(self, each: LabelSet, classes: tuple[str, ...]) -> None:
        self.source, self.lenient = (
            build_source(source_choice({**each.source, **settings}), classes)
            for settings in ({}, {"bad_boxes": "drop"})
        )
        self.bad: list[str] = []

    def read(self, entry: Entry) -> BoxLabels:
        """Return the boxes of an image.

        Raises:
            DataError: They cannot be used, even without the bad ones.
        """
        try:
            return _boxes(self.source, entry)
        except DataError as error:
            labels = _boxes(self.lenient, entry)
            self.bad.append(str(error))
            return labels


def _boxes(source: DataSource, entry: Entry) -> BoxLabels:
    labels = source.read_labels(entry)
    assert isinstance(labels, BoxLabels)
    return labels


def count_boxes(found: DataFolder) -> None:
    """Read boxes, and note sizes and classes.

    Raises:
        DataError: Labels cannot be read, or hold no box.
    """
    num_classes = len(found.classes)
    readers = {id(each): _Reader(each, found.classes) for each in found.sets}
    labels_N, sides_N, relative_N, ignored = [], [], [], 0

    def read(each: LabelSet, entry: Entry) -> NDArray[np.bool_]:
        nonlocal ignored
        labels = readers[id(each)].read(entry)
        found.boxes_of[entry.id] = len(labels)
        is_box = labels.labels_N >= 0 if labels.crowds_N is None else (labels.labels_N >= 0) & ~labels.crowds_N
        ignored += int((~is_box).sum())
        sides = np.sqrt(np.prod(labels.boxes_N4[is_box, 2:] - labels.boxes_N4[is_box, :2], 1, dtype=np.float64))
        labels_N.append(labels.labels_N[is_box])
        sides_N.append(sides)
        relative_N.append(sides / max(image_size(entry.path)))
        shown_C = np.zeros(num_classes, np.bool_)
        shown_C[labels.labels_N[is_box]] = True
        return shown_C

    read_spread(found, _MOST_READ, read)
    for place, each in enumerate(found.sets):
        if bad := readers[id(each)].bad:
            found.sets[place] = replace(each, source={**each.source, "bad_boxes": "drop"})
            found.warnings.append(f"{len(bad):,} images have bad boxes, which are left out (bad_boxes: drop): {bad[0]}")
    classes, sides = np.concatenate(labels_N), np.concatenate(sides_N)
    if not len(classes):
        raise DataError(
            f"the labels of {len(found.shown):,} images in {found.sets[0].where} hold no box of the classes "
            f"{', '.join(found.classes[:10])}: there is nothing to learn from"
        )
    found.amounts_C = np.append(np.bincount(classes, minlength=num_classes), ignored)
    found.images_C = np.array(list(found.shown.values())).sum(0)
    found.sides_C = np.array(
        [np.median(own) if len(own := sides[classes == c]) else np.nan for c in range(num_classes)]
    )
    found.relative_side = float(np.median(np.concatenate(relative_N)))
    note_sizes(found)


def no_labels(folder: Path, what: str) -> DataError:
    """Return the error that a folder does not hold what it was said to."""
    return DataError(f"--format: {folder} holds no {what}; it holds: {contents(folder)}")
