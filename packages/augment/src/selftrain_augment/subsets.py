"""Doing something to some images of a batch: to them alone, or, where shapes must not follow the data, to all.

Shape letters: B = images, S = those chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subset:
    """Some images of a batch.

    Attributes:
        chosen_B: bool, which.
        places_S: int64, their places; None on devices where shapes must not follow the data: there all images are
            computed, and those not chosen thrown away.
    """

    chosen_B: Tensor
    places_S: Tensor | None

    @staticmethod
    def follows_data(like: Tensor) -> bool:
        """Return whether shapes may follow the data where this tensor lies: XLA compiles anew for each shape."""
        return like.device.type != "xla"

    @classmethod
    def of(cls, chosen_B: Tensor, known: Sequence[bool] | None = None) -> Subset:
        """Return the subset.

        Args:
            chosen_B: bool, which images.
            known: The same, where it has been read from the device already.
        """
        if not cls.follows_data(chosen_B):
            return cls(chosen_B, None)
        places = [place for place, is_chosen in enumerate(chosen_B.tolist() if known is None else known) if is_chosen]
        return cls(chosen_B, torch.tensor(places, dtype=torch.int64, device=chosen_B.device))

    @property
    def is_whole(self) -> bool:
        """Whether it is known that all images are chosen."""
        return self.places_S is not None and len(self.places_S) == len(self.chosen_B)

    @property
    def is_empty(self) -> bool:
        """Whether it is known that no image is chosen."""
        return self.places_S is not None and not len(self.places_S)

    def __call__(self, value_B: Tensor) -> Tensor:
        """Return the chosen images' part of a tensor whose first axis is B: to be read only, for it may be a view."""
        if self.places_S is None or self.is_whole:
            return value_B
        if len(self.places_S) == 1 and value_B.device.type == "cpu":
            return value_B[int(self.places_S)][None]
        return value_B.index_select(0, self.places_S)


def change_where(image_B: Tensor, subset: Subset, changed_S: Tensor) -> Tensor:
    """Return the images with those of the subset replaced; may change `image_B` itself.

    Args:
        image_B: All images.
        subset: Which are replaced.
        changed_S: What replaces them; where shapes must not follow the data, of all images.
    """
    if subset.places_S is None:
        return torch.where(subset.chosen_B.view(-1, *[1] * (image_B.dim() - 1)), changed_S, image_B)
    if subset.is_whole:
        return changed_S
    put(image_B, subset.places_S, changed_S)
    return image_B


def put(value_B: Tensor, places_S: Tensor, value_S: Tensor) -> None:
    """Write `value_S` into `value_B`, at some places of its first axis, int64 [S]."""
    if value_B.device.type != "cpu":
        value_B[places_S] = value_S
        return
    # On a processor an indexed assignment of images takes seven times as long as copying each.
    for place, value in zip(places_S.tolist(), value_S, strict=True):
        value_B[place].copy_(value)
