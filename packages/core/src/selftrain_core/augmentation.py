"""The augmentation that changes nothing, for studies without one and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from selftrain_core.batch import Batch, float_images
from selftrain_core.interfaces import Augmentation


class NoAugmentation(Augmentation):
    """Gives back the batch with floating images."""

    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        """Return nothing: nothing is drawn."""
        return {}

    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        """Return the batch with images in 0..1."""
        return replace(batch, image_B3HW=float_images(batch.image_B3HW))
