"""Boxes as COCO files.

Shape letters: N = boxes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from selftrain_core.errors import RunError
from selftrain_core.files import replacing, writing_in
from selftrain_core.labels import BoxLabels

INSTANCES, RESULTS = "instances.json", "results.json"
_MEMORY_BYTES = 1 << 20
"""Of each list, what is kept in memory before it goes to the disk."""


def xywh(boxes_N4: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return boxes as COCO has them, x, y, width, height, in the fewest digits that give the same float32 xyxy back.

    What reads them computes x + width in float64, as Python does, and rounds to float32.
    """
    start_N2, end_N2 = _short(boxes_N4[:, :2]), boxes_N4[:, 2:]
    side_N2 = _short((_short(end_N2) - start_N2).astype(np.float32))
    is_same_N2 = (start_N2 + side_N2).astype(np.float32) == end_N2
    side_N2 = np.where(is_same_N2, side_N2, end_N2.astype(np.float64) - start_N2)
    return np.concatenate([start_N2, side_N2], 1)


def areas(labels: BoxLabels) -> NDArray[np.float32]:
    """Return the areas that an evaluation tells small from large by: those of the boxes where no others are known."""
    if labels.areas_N is not None:
        return labels.areas_N
    width_N, height_N = (labels.boxes_N4[:, 2:].astype(np.float64) - labels.boxes_N4[:, :2]).T
    found: NDArray[np.float32] = (width_N * height_N).astype(np.float32)
    return found


def _short(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the float64 whose shortest decimal is also that of the float32: 0.1, not 0.10000000149."""
    return values.astype(np.str_).astype(np.float64)


class BoxWriter:
    """Writes the boxes of all images into one COCO file, ``instances.json``, and scored ones into ``results.json`` too.

    ``instances.json`` has the images with ids from 1 in the order they were given, the classes as categories with ids
    from 1 in their order, and the boxes as annotations. Beyond COCO's own keys, an annotation has ``score`` where its
    box has one, and an image has ``ignore_regions``, a list of ``[x, y, width, height]``, where regions are to be
    ignored whatever they hold: COCO knows a crowd only of one class. The data source ``detection/coco`` reads them as
    boxes of the label −2; to other tools they are not there. ``results.json`` is the list that COCO's tools take as
    detections; it is written if any image had scores.

    Coordinates, areas and scores read back as the same float32. The order of the boxes is kept but for regions to
    ignore, which come last and lose their scores and areas. Areas that were not known are those of the boxes.

    What is written grows on the disk, not in memory, and is whole or absent: nothing is there before `close`.

    Args:
        folder: Where the files go; it is made.
        classes: Ordered class names.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder = folder
        self.classes = tuple(classes)
        self._count = 0
        self._is_scored = False
        self._stack = ExitStack()
        weakref.finalize(self, self._stack.close)
        with writing_in(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._images, self._annotations, self._results = (_Spool(folder, self._stack) for _ in range(3))

    def write(self, id_: str, labels: BoxLabels, original: tuple[int, int], image: Path) -> None:
        """Add one image; its boxes go into the file of all images.

        Args:
            id_: The image's id.
            labels: In the pixels of the image.
            original: (height, width) of the image.
            image: Its file; ``file_name`` is the id with its ending.

        Raises:
            RunError: The disk is full, or the id leads out of a folder of images.
        """
        name = PurePosixPath(f"{id_}{image.suffix}")
        if name.is_absolute() or ".." in name.parts:
            raise RunError(f"the name '{id_}' leads out of the folder of images; nothing was written for it")
        self._count += 1
        is_region_N = labels.labels_N < 0
        boxes_N4 = xywh(labels.boxes_N4)
        about = {"id": self._count, "file_name": str(name), "width": int(original[1]), "height": int(original[0])}
        if is_region_N.any():
            about["ignore_regions"] = boxes_N4[is_region_N].tolist()
        with writing_in(self.folder):
            self._images.add([about])
            self._add_boxes(labels, boxes_N4, ~is_region_N)

    def _add_boxes(self, labels: BoxLabels, boxes_N4: NDArray[np.float64], is_box_N: NDArray[np.bool_]) -> None:
        crowds_N = np.zeros(len(labels), np.bool_) if labels.crowds_N is None else labels.crowds_N
        columns = {
            "category_id": (labels.labels_N + 1)[is_box_N].tolist(),
            "bbox": boxes_N4[is_box_N].tolist(),
            "area": _short(areas(labels)[is_box_N]).tolist(),
            "iscrowd": crowds_N.astype(np.int64)[is_box_N].tolist(),
        }
        if labels.scores_N is not None:
            self._is_scored = True
            columns["score"] = _short(labels.scores_N[is_box_N]).tolist()
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        first = self._annotations.length + 1
        self._annotations.add({"id": first + n, "image_id": self._count, **row} for n, row in enumerate(rows))
        if labels.scores_N is not None:
            keys = ("category_id", "bbox", "score")
            self._results.add({"image_id": self._count, **{key: row[key] for key in keys}} for row in rows)

    def close(self) -> None:
        """Write the files.

        Raises:
            RunError: The disk is full or the folder is not writable.
        """
        categories = [{"id": number, "name": name} for number, name in enumerate(self.classes, 1)]
        with self._stack:
            with replacing(self.folder / INSTANCES) as temporary, temporary.open("wb") as file:
                file.write(b'{\n"categories": ' + _line(categories) + b',\n"images": ')
                self._images.copy_to(file)
                file.write(b',\n"annotations": ')
                self._annotations.copy_to(file)
                file.write(b"\n}\n")
            if self._is_scored:
                with replacing(self.folder / RESULTS) as temporary, temporary.open("wb") as file:
                    self._results.copy_to(file)
                    file.write(b"\n")


class _Spool:
    """A JSON list that grows in a nameless file, which is gone with this process whatever happens.

    Args:
        folder: On whose disk the file lies once it is large.
        stack: Closes it.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.length = 0
        # The stack is what closes it.
        file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115
        self._file = stack.enter_context(file)

    def add(self, values: Iterable[Any]) -> None:
        for value in values:
            self._file.write((b",\n" if self.length else b"\n") + _line(value))
            self.length += 1

    def copy_to(self, file: IO[bytes]) -> None:
        file.write(b"[")
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, _MEMORY_BYTES)
        file.write(b"\n]")


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
