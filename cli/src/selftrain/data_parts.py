"""Which of a folder's images play which part: from the lists that lie there, else by a hash of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selftrain.data_folder import DataFolder
from selftrain_core.errors import DataError
from selftrain_core.sources import read_list

PARTS = ("labelled", "unlabelled", "validation", "test")
LIST_NAMES = {
    "labelled": ("labelled", "labeled", "train"),
    "unlabelled": ("unlabelled", "unlabeled", "pool"),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}
_LIST_FOLDERS = ("", "splits", "lists", "ImageSets/Segmentation")
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
        path = _find_list(found.folder, part)
        if path is not None:
            parts.lists[part] = path
            parts.ids[part] = _known(read_list(path), found, path)
    listed = {id_ for ids in parts.ids.values() for id_ in ids}
    if "labelled" not in parts.ids:
        parts.ids["labelled"] = [id_ for id_ in found.masked if id_ not in listed]
    for part, share in _SHARES.items():
        if part not in parts.ids:
            _take(parts, "labelled", part, share, "with masks")
    if "unlabelled" not in parts.ids:
        taken, masked = {id_ for ids in parts.ids.values() for id_ in ids}, set(found.masked)
        parts.ids["unlabelled"] = [id_ for id_ in found.paths if id_ not in taken | masked]
        if not parts.ids["unlabelled"]:
            _take(parts, "labelled", "unlabelled", 0.5, "with masks, which stay hidden,")
            found.warnings.append(
                "there is no image without a mask, so half of the labelled images play the unlabelled ones: that shows "
                "what self-training is worth, but what helps is more images; add photos without masks"
            )
    if not all(parts.ids.values()):
        raise DataError(
            f"{found.folder} holds {len(found.masked)} images with masks: too few to train on, to validate and to test"
        )
    _check(parts, found)
    return parts


def _find_list(folder: Path, part: str) -> Path | None:
    places = (folder / place / f"{name}.txt" for name in LIST_NAMES[part] for place in _LIST_FOLDERS)
    return next((path for path in places if path.is_file()), None)


def _known(names: Sequence[str], found: DataFolder, path: Path) -> list[str]:
    ids = [name if name in found.paths else str(Path(name).with_suffix("")) for name in names]
    missing = [name for name, id_ in zip(names, ids, strict=True) if id_ not in found.paths]
    if missing:
        raise DataError(
            f"{path} names '{missing[0]}', but {found.images} holds no such image ({len(missing):,} are missing)\n"
            "  take such lines out, or move the list away: images are then shared out anew"
        )
    return ids


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
    masked = set(found.masked)
    for part in ("labelled", "validation", "test"):
        without = [id_ for id_ in parts.ids[part] if id_ not in masked]
        if without:
            raise DataError(
                f"{parts.lists.get(part, found.masks)}: '{without[0]}' of the {part} images has no mask in "
                f"{found.masks} ({len(without):,} have none)\n  add the masks, or take the images out of the list"
            )
    if len(parts.ids["unlabelled"]) < len(parts.ids["labelled"]):
        found.warnings.append(
            f"fewer unlabelled images ({len(parts.ids['unlabelled']):,}) than labelled ones "
            f"({len(parts.ids['labelled']):,}): self-training lives on many more"
        )
    found.warnings.extend(_rare_classes(found))


def _rare_classes(found: DataFolder) -> Iterable[str]:
    for name, images in zip(found.classes, found.images_C.tolist(), strict=True):
        if images < 5:
            yield f"the class '{name}' is in {images} of {found.num_read} masks: too few to learn it, or to measure it"
