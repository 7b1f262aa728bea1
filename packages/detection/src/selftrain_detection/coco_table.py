"""A COCO file as a few arrays: of a hundred thousand images and a million boxes, tens of bytes each. No torch here.

Shape letters: M = images, N = boxes and regions of all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REGION = -1
"""The code of what is no annotation: a region to ignore."""


@dataclass(frozen=True, slots=True)
class CocoTable:
    """What a file says, in the order of the images' ids: sorted by their UTF-8 bytes.

    Attributes:
        ids_M: Bytes of fixed width: the path of the image, without ending.
        files_M: Bytes of fixed width: the path of the image.
        sizes_M2: int32, height and width, not positive where the file does not say.
        is_annotated_M: bool, whether the file has an annotation of the image, be it left out or not.
        first: int64, the place of each image's first box, and the end.
        boxes_N4: float64, x, y, width, height as in the file.
        labels_N: int64, class indices of the run, `IGNORE_LABEL` for a region.
        crowds_N: bool.
        areas_N: float64, NaN where the file gives none.
        codes_N: int64, the annotations' ids; see `Ids`.
        ids: The names of the codes.
        odd: By place, what the file has instead of a box of four numbers.
        remarks: What was left out that belongs to no image.
        knows_regions: Whether an image of the file has a list of regions to ignore, be it empty.
    """

    ids_M: NDArray[np.bytes_]
    files_M: NDArray[np.bytes_]
    sizes_M2: NDArray[np.int32]
    is_annotated_M: NDArray[np.bool_]
    first: NDArray[np.int64]
    boxes_N4: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    crowds_N: NDArray[np.bool_]
    areas_N: NDArray[np.float64]
    codes_N: NDArray[np.int64]
    ids: Ids
    odd: Mapping[int, str]
    remarks: tuple[str, ...]
    knows_regions: bool

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids_M)

    def row(self, id_: str) -> int | None:
        """Return the row of an image by its id, None where the file does not list it."""
        encoded = id_.encode("utf-8", "surrogateescape")
        if len(encoded) > self.ids_M.dtype.itemsize:
            return None
        # In the table's own type: of any other, the search would first convert the whole table.
        wanted = np.array(encoded, self.ids_M.dtype)
        row = int(np.searchsorted(self.ids_M, wanted))
        return row if row < len(self) and self.ids_M[row] == wanted else None

    def id(self, row: int) -> str:
        """Return the id of an image."""
        return str(self.ids_M[row].decode())

    def file(self, row: int) -> str:
        """Return the path of an image below the folder."""
        return str(self.files_M[row].decode())

    def described(self, place: int) -> str:
        """Return what a message calls a box."""
        values = self.odd.get(place) or f"[{', '.join(f'{value:.7g}' for value in self.boxes_N4[place])}]"
        code = int(self.codes_N[place])
        what = "the ignore region" if code == REGION else f"annotation {self.ids.name(code)} with the bbox"
        return f"{what} {values} (x, y, width, height)"


class Ids:
    """Codes of ids, which are numbers or texts: even numbers stand for numbers, odd ones for texts."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def code(self, value: Any) -> int:
        """Return the code of an id.

        Raises:
            ValueError: It is neither a whole number nor a text.
        """
        if type(value) is int and -(1 << 61) < value < 1 << 61:
            return value * 2
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            return int(value) * 2
        if isinstance(value, str):
            return self._places.setdefault(value, len(self._places)) * 2 + 1
        raise ValueError(f"the id {value!r}; ids are whole numbers or texts")

    def name(self, code: int) -> str:
        """Return an id as people see it in the file."""
        return repr(list(self._places)[code // 2]) if code % 2 else str(code // 2)
