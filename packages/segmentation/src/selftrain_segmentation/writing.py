"""Class maps as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from selftrain_core.errors import RunError
from selftrain_core.files import replacing
from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_core.legend import palette
from selftrain_segmentation.drawing import IGNORE_RGB


class MaskWriter:
    """Writes class maps as palette PNGs, which show colours to people and class indices to programs.

    Args:
        folder: Where they go: the mask of the image ``a/b`` is ``a/b.png``.
        num_classes: Number of classes; 255 stands for a pixel of none.
    """

    def __init__(self, folder: Path, num_classes: int) -> None:
        self.folder = folder
        colours_N3 = np.zeros((256, 3), np.uint8)
        colours_N3[:num_classes] = palette(num_classes)
        colours_N3[IGNORE] = IGNORE_RGB
        self._palette = colours_N3.ravel().tolist()

    def write(self, id_: str, labels: MaskLabels, original: tuple[int, int], image: Path) -> Path:
        """Write one map, and return where.

        Args:
            id_: The image's id.
            labels: At any resolution; the file has that of the image, nearest pixel.
            original: (height, width) of the image.
            image: Its file, which nothing depends on.

        Raises:
            RunError: The disk is full, the folder is not writable, or the id leads out of it.
        """
        path = self.folder / f"{id_}.png"
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise RunError(f"the name '{id_}' leads out of the folder {self.folder}; nothing was written for it")
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(labels.classes_HW)
        if labels.classes_HW.shape != original:
            mask = mask.resize((original[1], original[0]), Image.Resampling.NEAREST)
        mask.putpalette(self._palette)
        with replacing(path) as temporary:
            mask.save(temporary, format="PNG")
        return path

    def close(self) -> None:
        """Do nothing: every map is a file of its own."""
