"""Image folder + COCO file of instances. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np

from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError, did_you_mean
from selftrain_core.image_names import is_there
from selftrain_core.labels import BoxLabels
from selftrain_core.sources import read_list
from selftrain_detection.annotations import ClassNames, LabelsWithoutRegions, RawBoxes, checked, size_of
from selftrain_detection.coco_loading import read_coco
from selftrain_detection.coco_table import CocoTable
from selftrain_detection.source_config import CocoConfig

_MOST_COMPARED = 2000


class CocoSource(DataSource):
    """The images that a COCO file lists, with the boxes it has of them.

    What the source holds of the file is a few arrays; they are sent to other processes as they are. Crowds stand for
    many things of their class; `ignore_regions` of an image, a list of boxes, are regions to ignore. Segmentations and
    scores are passed over.
    """

    config: CocoConfig

    @cached_property
    def _table(self) -> CocoTable:
        names = ClassNames(self.classes, self.config)
        return read_coco(self.config.annotations, names, drops_bad=self.config.bad_boxes == "drop")

    def scan(self) -> Iterator[Entry]:
        """Yield the images that the file lists in the order of their ids, or those of them that the list names.

        Raises:
            DataError: The folder, the file or the list cannot be used, or an image does not exist.
        """
        if not self.config.images.is_dir():
            raise DataError(f"the image folder {self.config.images} does not exist")
        table = self._table
        rows = range(len(table)) if self.config.list is None else self._listed(self.config.list)
        for row in rows:
            if self.config.unannotated == "skip" and not table.is_annotated_M[row]:
                continue
            path = self.config.images / table.file(row)
            if not is_there(path.is_file):
                raise DataError(self._missing(table.file(row)))
            yield Entry(table.id(row), path, self.config.annotations)

    def _listed(self, path: Path) -> Iterator[int]:
        seen: set[int] = set()
        for line in read_list(path):
            row = self._row(line)
            if row is None:
                raise DataError(self._not_listed(path, line))
            if row in seen:
                raise DataError(f"{path} names '{self._table.id(row)}' twice, once as '{line}'")
            seen.add(row)
            yield row

    def _row(self, line: str) -> int | None:
        """Return the image that a line of a list means; one that ends as its file does is taken for that file."""
        row = self._table.row(line)
        if row is not None:
            return row
        row = self._table.row(line.rpartition(".")[0])
        return row if row is not None and self._table.file(row) == line else None

    def _not_listed(self, path: Path, line: str) -> str:
        known = [self._table.id(row) for row in range(min(len(self._table), _MOST_COMPARED))]
        text = f"{path} names '{line}', which {self.config.annotations} does not list{did_you_mean(line, known)}"
        parent, _, name = line.rpartition("/")
        folder = self.config.images / parent
        if ".." not in line.split("/") and is_there(folder.is_dir) and any(folder.glob(f"{_literal(name)}*")):
            text += (
                f"; {self.config.images} holds it, but without annotations: add it to the file's images, or take it "
            )
            text += "out of the list"
        return text

    def _missing(self, file: str) -> str:
        folder = self.config.images
        text = f"{self.config.annotations} lists the image '{file}', but {folder} holds no such file"
        name = file.rpartition("/")[2]
        if is_there((folder.parent / file).is_file):
            return f"{text}; it is below {folder.parent}: set images to that"
        if name != file and is_there((folder / name).is_file):
            return f"{text}; there is '{name}': a file_name is the path below the folder"
        if "\\" in file:
            return f"{text}; write its folders with / in place of \\"
        return text

    def read_labels(self, entry: Entry) -> BoxLabels:
        """Return the boxes of an image.

        Raises:
            DataError: The file does not list the image, says another size, or has a bad box of it.
        """
        return self._read(entry)[0]

    def remarks(self, entry: Entry | None) -> list[str]:
        """Return which boxes of an image are left out or clipped, or which annotations belong to no image."""
        return list(self._table.remarks) if entry is None else self._read(entry)[1]

    def _read(self, entry: Entry) -> tuple[BoxLabels, list[str]]:
        table, file = self._table, self.config.annotations
        row = table.row(entry.id)
        if row is None:
            raise DataError(f"{file} does not list the image '{entry.id}'")
        if self.config.unannotated == "error" and not table.is_annotated_M[row]:
            raise DataError(
                f"{file} has no annotation of '{entry.id}'; set unannotated: negative if such images show none of the "
                "classes, or unannotated: skip to pass them over"
            )
        height, width = table.sizes_M2[row].tolist()
        size = size_of(entry, (height, width), file)
        start, end = table.first[row : row + 2].tolist()
        xywh_N4 = table.boxes_N4[start:end]
        corners_N4 = np.concatenate([xywh_N4[:, :2], xywh_N4[:, :2] + xywh_N4[:, 2:]], 1)
        raw = RawBoxes(
            corners_N4,
            table.labels_N[start:end],
            lambda n: table.described(start + n),
            table.crowds_N[start:end],
            table.areas_N[start:end],
        )
        labels, remarks = checked(raw, size, file, entry.id, self.config)
        if not table.knows_regions:
            labels = LabelsWithoutRegions(*(getattr(labels, each.name) for each in fields(labels)))
        return labels, remarks


def _literal(name: str) -> str:
    """Return a name for `glob`, which is to mean nothing but itself."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
