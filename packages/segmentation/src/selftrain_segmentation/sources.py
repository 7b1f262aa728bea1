"""Image folder + mask folder. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError, did_you_mean
from selftrain_core.images import first_of, read_colour_mask, read_index_mask
from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_core.sources import find_images
from selftrain_segmentation.source_config import ColourMasksConfig, IndexMasksConfig, MaskFolderConfig

_MAX_SHOWN, _MAX_COMPARED = 5, 10_000
_UNKNOWN = -1


class MaskFolder(DataSource):
    """Images whose masks have the same path below another folder."""

    config: MaskFolderConfig

    def scan(self) -> Iterator[Entry]:
        """Yield the images, with where their masks should be; whether they are there is seen when one is read."""
        for id_, path in find_images(self.config.images, self.config.list):
            yield Entry(id_, path, self.config.masks / self.config.mask_name.replace("{id}", id_))

    def mask_path(self, entry: Entry) -> Path:
        """Return where the mask lies.

        Raises:
            DataError: It is not there; the message shows what is there instead.
        """
        assert entry.label_path is not None
        if not entry.label_path.exists():
            raise DataError(f"the mask {entry.label_path} does not exist{self._beside(entry.label_path, entry.id)}")
        return entry.label_path

    def _beside(self, path: Path, id_: str) -> str:
        if not path.parent.is_dir():
            return f"; there is no folder {path.parent}"
        stem = id_.rpartition("/")[2]
        names = sorted(each.name for each in islice(path.parent.iterdir(), _MAX_COMPARED) if stem in each.name)
        if not names:
            return f"; {path.parent} holds no file with '{stem}' in its name"
        setting = self.config.mask_name.rpartition("/")[0]
        pattern = f"{setting}/" * bool(setting) + names[0].replace(stem, "{id}", 1)
        return f"; there is {', '.join(names[:_MAX_SHOWN])}: for that one set mask_name: '{pattern}'"


class IndexMasks(MaskFolder):
    """Images whose labels are masks of class indices."""

    config: IndexMasksConfig

    def read_labels(self, entry: Entry) -> MaskLabels:
        """Return the mask.

        Raises:
            DataError: It is missing or damaged, or a value in it is neither a class index nor 255.
        """
        path = self.mask_path(entry)
        classes_HW = read_index_mask(path)
        wrong = (classes_HW >= len(self.classes)) & (classes_HW != IGNORE)
        if wrong.any():
            raise DataError(
                f"{path} holds the value {int(classes_HW[wrong].max())}; with {len(self.classes)} classes values are "
                f"0 to {len(self.classes) - 1}, and {IGNORE} for ignore: {', '.join(self.classes)}"
            )
        return MaskLabels(classes_HW)


class ColourMasks(MaskFolder):
    """Images whose labels are masks in which each class has a colour.

    Raises:
        DataError: The table has a class that the run does not have.
    """

    config: ColourMasksConfig

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        unknown = [name for name in self.config.class_colours() if name not in self.classes]
        if unknown:
            raise DataError(
                f"colours names {', '.join(map(repr, unknown))}, not among data.classes"
                f"{did_you_mean(unknown[0], self.classes)}; name them under 'ignore', or add them to the classes\n"
                f"  colours: {', '.join(self.config.colours)}\n  data.classes: {', '.join(self.classes)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the table of codes behind when sent to another process."""
        return {key: value for key, value in self.__dict__.items() if key != "_class_of_code"}

    @cached_property
    def _class_of_code(self) -> NDArray[np.int16]:
        # One entry for every colour there is, 32 MB: a mask of 12 megapixels is looked up in tenths of a second.
        table = np.full(1 << 24, _UNKNOWN, np.int16)
        for colour in self.config.ignored_colours():
            table[_code(np.array(colour, np.uint8))] = IGNORE
        for name, colour in self.config.class_colours().items():
            table[_code(np.array(colour, np.uint8))] = self.classes.index(name)
        return table

    def read_labels(self, entry: Entry) -> MaskLabels:
        """Return the classes of the mask's colours. A colour is a class's or it is not: the nearest is never guessed.

        Raises:
            DataError: The mask is missing or damaged, or a colour in it is no class's.
        """
        path = self.mask_path(entry)
        colour_HW3 = read_colour_mask(path)
        classes_HW = self._class_of_code[_code(colour_HW3)]
        unknown = classes_HW == _UNKNOWN
        if unknown.any():
            if self.config.unknown_colour == "error":
                raise DataError(self._explain(path, colour_HW3, unknown))
            classes_HW[unknown] = IGNORE
        return MaskLabels(classes_HW.astype(np.uint8))

    def _explain(self, path: Path, colour_HW3: NDArray[np.uint8], unknown_HW: NDArray[np.bool_]) -> str:
        row, column = first_of(unknown_HW)
        colour = colour_HW3[row, column]
        names = list(self.config.colours)
        distances = [float(np.abs(np.array(self.config.colours[name]) - colour).sum()) for name in names]
        closest = names[int(np.argmin(distances))]
        share = 100 * float(unknown_HW.mean())
        return (
            f"{path} has the colour {colour.tolist()} at column {column}, row {row}, which is no class's; the closest "
            f"is '{closest}' {list(self.config.colours[closest])}. {share:.3g} % of its pixels have such colours. Add "
            "the colour to 'colours' or 'ignore', or set unknown_colour: ignore"
        )


def _code(colour_3: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return 24 bits for each colour, of shape [...]."""
    wide_3 = colour_3.astype(np.int32)
    code: NDArray[np.int32] = (wide_3[..., 0] << 16) | (wide_3[..., 1] << 8) | wide_3[..., 2]
    return code
