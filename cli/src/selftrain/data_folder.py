"""Finding out in which form a folder keeps its labels, and looking at it as that form wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selftrain.coco_folder import COCO, find_coco, look_at_coco
from selftrain.found_data import PART_NAMES, DataFolder, Form, subfolders
from selftrain.mask_folder import MASKS, has_masks, look_at_masks
from selftrain.voc_folder import VOC, find_voc, look_at_voc
from selftrain.yolo_folder import YOLO, find_yolo, look_at_yolo
from selftrain_core.errors import DataError
from selftrain_core.sources import find_images

FORMS: dict[str, Form] = {form.name: form for form in (MASKS, COCO, VOC, YOLO)}
"""The forms there are; where a folder holds several, the first is taken."""
_IS_THERE: dict[str, Callable[[Path, str | None], bool]] = {
    "masks": lambda folder, _: has_masks(folder),
    "coco": lambda folder, _: bool(find_coco(folder)),
    "voc": lambda folder, images: bool(find_voc(folder, images)),
    "yolo": lambda folder, images: bool(find_yolo(folder, images)),
}
_BOX_READERS = {"coco": look_at_coco, "voc": look_at_voc, "yolo": look_at_yolo}


def look_at(folder: Path, images: str | None = None, masks: str | None = None, form: str | None = None) -> DataFolder:
    """Return what `folder` holds.

    Args:
        folder: Holds images, and labels of some of them.
        images: The name of the folder of images, where it has no usual one, or there are several.
        masks: The name of the folder of masks.
        form: The name of one of `FORMS`; None takes what is there.

    Raises:
        DataError: It holds no images with labels, or what it holds cannot be understood.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder; give one that holds a folder of images and a folder of masks, or boxes"
        )
    folder = folder.absolute()
    if masks is not None and form not in (None, "masks"):
        raise DataError(f"--masks {masks} goes with --format masks, not with --format {form}")
    warning, chosen = None, form or "masks"
    if form is None and masks is None:
        there = forms_in(folder, images)
        if not there:
            return _explained(folder, images)
        chosen = there[0]
        others = " or ".join(f"{FORMS[name].title} (--format {name})" for name in there[1:])
        if others:
            warning = f"the {FORMS[chosen].title} were taken; there are also {others}"
    found = look_at_masks(folder, images, masks) if chosen == "masks" else _BOX_READERS[chosen](folder, images)
    _add_pools(found)
    if warning:
        found.warnings.insert(0, warning)
    return found


def forms_in(folder: Path, images: str | None = None) -> list[str]:
    """Return the names of the `FORMS` in which a folder holds labels.

    Args:
        folder: The folder.
        images: The name of the folder of images in it, where it has no usual one.
    """
    return [name for name, is_there in _IS_THERE.items() if is_there(folder, images)]


def _add_pools(found: DataFolder) -> None:
    """Note the images of folders called as the unlabelled part is, in the folder and beside the images."""
    beside = (each.parent for each in found.images if each != found.folder and each.is_relative_to(found.folder))
    for place in dict.fromkeys((found.folder, *beside)):
        for pool in subfolders(place, PART_NAMES["unlabelled"]):
            if not any(pool.is_relative_to(each) for each in found.images):
                found.images.append(pool)
                found.add_images(find_images(pool, None))


def _explained(folder: Path, images: str | None) -> DataFolder:
    """Say what is missing.

    Raises:
        DataError: Always: the folder holds no labels, or no images.
    """
    try:
        return look_at_masks(folder, images, None)
    except DataError as error:
        raise DataError(
            f"{error}\n  nor does it hold boxes: no COCO file (annotations/*.json or *.json), no folder of Pascal VOC "
            "files (Annotations/*.xml), no YOLO files (data.yaml, or labels/*.txt)"
        ) from error
