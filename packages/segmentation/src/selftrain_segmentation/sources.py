"""Image folder + mask folder. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.images import read_index_mask
from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_core.sources import find_images
from selftrain_segmentation.config import IndexMasksConfig


class IndexMasks(DataSource):
    """Images whose labels are 8-bit PNG masks of class indices."""

    config: IndexMasksConfig

    def scan(self) -> Iterator[Entry]:
        """Yield the images, with where their masks should be; whether they are there is seen when one is read."""
        for id_, path in find_images(self.config.images, self.config.list):
            yield Entry(id_, path, self.config.masks / f"{id_}.png")

    def read_labels(self, entry: Entry) -> MaskLabels:
        """Return the mask.

        Raises:
            DataError: It is missing or damaged, or a value in it is neither a class index nor 255.
        """
        assert entry.label_path is not None
        classes_HW = read_index_mask(entry.label_path)
        wrong = (classes_HW >= len(self.classes)) & (classes_HW != IGNORE)
        if wrong.any():
            raise DataError(
                f"{entry.label_path} holds the value {int(classes_HW[wrong].max())}; with {len(self.classes)} classes "
                f"values are 0 to {len(self.classes) - 1}, and {IGNORE} for ignore: {', '.join(self.classes)}"
            )
        return MaskLabels(np.ascontiguousarray(classes_HW))
