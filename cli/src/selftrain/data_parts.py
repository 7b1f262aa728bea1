"""Which of a folder's images play which part: from the lists that lie there, else by a hash of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftrain.found_data import PART_NAMES, DataFolder, image_root
from selftrain_core.errors import DataError
from selftrain_core.image_names import without_ending
from selftrain_core.sources import read_list

PARTS = ("labelled", "unlabelled", "validation", "test")
MAX_BOXES = 100
"""Boxes of an image that a task takes by default."""
_SHARES = {"validation": 0.15, "test": 0.2}


@dataclass
class Parts:
    """The ids of each part, and where each comes from.

    Attributes:
        ids: By part.
        lists: The list of a part that lies in the folder; a part that has none gets one beside the configuration.
        notes: How parts were made, for people.
    """

    ids: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def share_out(found: DataFolder) -> Parts:
    """Return the parts of a folder.

    Raises:
        DataError: It has fewer than three images with masks to train on, to validate and to test, or a list names an
            image that is not there.
    """
    parts = Parts()
    for part in PARTS:
        path = _find_list(found, part)
        if path is not None:
            parts.lists[part] = path
            parts.ids[part] = _known(read_list(path), found, path)
    listed = {id_ for ids in parts.ids.values() for id_ in ids}
    many = found.form.many
    for part in PARTS:
        ids = [id_ for each in found.sets if each.part == part for id_ in each.ids if id_ not in listed]
        if part not in parts.ids and ids:
            parts.ids[part] = ids
    taken = {id_ for ids in parts.ids.values() for id_ in ids}
    if "labelled" not in parts.ids:
        parts.ids["labelled"] = [id_ for id_ in found.labelled if id_ not in taken]
    for part, share in _SHARES.items():
        if part not in parts.ids:
            _take(parts, "labelled", part, share, f"with {many}")
    if "unlabelled" not in parts.ids:
        _find_pool(parts, found)
    if not all(parts.ids.values()):
        raise DataError(
            f"{found.folder} holds {len(found.labelled)} images with {many}: too few to train on, to validate and to "
            "test"
        )
    _check(parts, found)
    return parts


def _find_pool(parts: Parts, found: DataFolder) -> None:
    taken, labelled = {id_ for ids in parts.ids.values() for id_ in ids}, set(found.labelled)
    parts.ids["unlabelled"] = [id_ for id_ in found.paths if id_ not in taken | labelled]
    if not parts.ids["unlabelled"]:
        _take(parts, "labelled", "unlabelled", 0.5, f"with {found.form.many}, which stay hidden,")
        found.warnings.append(
            f"there is no image without {_without(found)}, so half of the labelled images play the unlabelled ones: "
            "that shows what self-training is worth, but what helps is more images; add photos without "
            f"{found.form.many}"
        )


def _without(found: DataFolder) -> str:
    return "a mask" if found.form.name == "masks" else f"{found.form.many}"


def sources_of(found: DataFolder, part: str, ids: Sequence[str]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the settings of the sources that read images of a part, but for lists, and which images each reads.

    Args:
        found: The data.
        part: The part: of the unlabelled images no labels are read.
        ids: The images.
    """
    sources: dict[str, tuple[dict[str, Any], list[str]]] = {}
    set_of = {id_: each for each in found.sets for id_ in each.ids}
    for id_ in ids:
        if part == "unlabelled":
            source: dict[str, Any] = {"name": "core/images", "images": str(image_root(id_, found.paths[id_]))}
        else:
            source = set_of[id_].source
        sources.setdefault(str(source), (source, []))[1].append(id_)
    return list(sources.values())


def _find_list(found: DataFolder, part: str) -> Path | None:
    folders = [found.folder, *(found.folder / name for name in found.form.list_folders)]
    places = (folder / f"{name}.txt" for name in PART_NAMES[part] for folder in folders)
    return next((path for path in places if path.is_file()), None)


def _known(names: Sequence[str], found: DataFolder, path: Path) -> list[str]:
    ids = [name if name in found.paths else without_ending(name) for name in names]
    missing = [name for name, id_ in zip(names, ids, strict=True) if id_ not in found.paths]
    if missing:
        raise DataError(
            f"{path} names '{missing[0]}', but {_folders(found)} holds no such image ({len(missing):,} are missing)\n"
            "  take such lines out, or move the list away: images are then shared out anew"
        )
    return ids


def _folders(found: DataFolder) -> str:
    return " or ".join(map(str, found.images))


def _take(parts: Parts, giver: str, part: str, share: float, what: str) -> None:
    """Move a share of one part to another, by a hash of the ids: the same images whenever it is done."""
    ids = sorted(parts.ids[giver], key=_hash)
    count = max(1, round(share * len(ids))) if len(ids) > 1 else 0
    parts.ids[part], parts.ids[giver] = sorted(ids[:count]), sorted(ids[count:])
    parts.lists.pop(giver, None)  # it is longer than what is left of it
    parts.notes.append(f"{part}: {count:,} images {what} chosen by a hash of their names, for want of a list")


def _hash(id_: str) -> bytes:
    return hashlib.blake2b(id_.encode(), digest_size=8).digest()


def _check(parts: Parts, found: DataFolder) -> None:
    labelled = set(found.labelled)
    one, places = found.form.one, " or ".join(dict.fromkeys(str(each.where) for each in found.sets))
    for part in ("labelled", "validation", "test"):
        without = [id_ for id_ in parts.ids[part] if id_ not in labelled]
        if without:
            raise DataError(
                f"{parts.lists.get(part, places)}: '{without[0]}' of the {part} images has no {one} in "
                f"{places} ({len(without):,} have none)\n  add what is missing, or take the images out of the list"
            )
    if len(parts.ids["unlabelled"]) < len(parts.ids["labelled"]):
        found.warnings.append(
            f"fewer unlabelled images ({len(parts.ids['unlabelled']):,}) than labelled ones "
            f"({len(parts.ids['labelled']):,}): self-training lives on many more"
        )
    found.warnings.extend(_rare_classes(found))
    _note_boxes(parts, found)


def _note_boxes(parts: Parts, found: DataFolder) -> None:
    """Note how many boxes the images to train on have, and tell where that is more than tasks take by default."""
    counts = sorted(found.boxes_of[id_] for id_ in parts.ids["labelled"] if id_ in found.boxes_of)
    if not counts:
        return
    # A run refuses more than one image in a hundred without place; where not all were read, half of that is safer.
    spared = len(counts) // (100 if len(counts) == len(parts.ids["labelled"]) else 200)
    found.usual_boxes = counts[-1 - spared]
    if counts[-1] > MAX_BOXES:
        places = max(found.usual_boxes, MAX_BOXES)
        without = "; of the images with more, the smallest boxes are not trained on" if places < counts[-1] else ""
        found.warnings.append(
            f"an image to train on has {counts[-1]:,} boxes, where 99 of 100 have {found.usual_boxes:,} at most: "
            f"task.max_boxes and task.prediction.max_detections are {places:,}{without}; more take more memory"
        )


def _rare_classes(found: DataFolder) -> Iterable[str]:
    what, number = "masks" if found.form.name == "masks" else "images", len(found.shown)
    for name, images in zip(found.classes, found.images_C.tolist(), strict=True):
        if images < 5:
            yield f"the class '{name}' is in {images} of {number} {what}: too few to learn it, or to measure it"
