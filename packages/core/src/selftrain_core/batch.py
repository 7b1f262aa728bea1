"""The batch that every task, augmentation and model sees: fixed shapes, frozen, moved as one.

Shape letters: B = images, H, W = canvas height and width, N = boxes per image (padded).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

HUMAN, PSEUDO = 0, 1
"""Values of `Batch.source_B`: who labelled the image."""


class _TensorGroup:
    """Moves a frozen dataclass of tensors as one; Lightning and the data loader ask for exactly these methods."""

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                changed[each.name] = function(value)
            elif isinstance(value, _TensorGroup):
                changed[each.name] = value._map(function)
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory, from which a GPU copies without waiting."""
        return self._map(Tensor.pin_memory)


_Group = TypeVar("_Group", bound=_TensorGroup)


@dataclass(frozen=True)
class Targets(_TensorGroup):
    """What a task trains against; fields that the task does not use stay None. One image has no B.

    Attributes:
        mask_BHW: uint8 class indices, 255 = ignore.
        weight_BHW: float32 per pixel, 1 = a hard label.
        runners_up_BKHW: uint8 class indices that are trained on beside those of the mask, 255 = none.
        runner_up_weight_BKHW: float32, what each of them weighs.
        boxes_BN4: float32 xyxy on the canvas.
        label_BN: int64; -1 = padding, which may stand anywhere along N; -2 = ignore region.
        weight_BN: float32 per box, 0 for padding.
        class_B: int64 class index of the image; -2 = not known.
        class_weight_B: float32, 1 = a hard label.
        canvas_B2: int64 height and width of the canvas the boxes lie on, for a loss that must know it before any image
            has passed the model. Nothing that happens to an image on its canvas changes it.
    """

    mask_BHW: Tensor | None = None
    weight_BHW: Tensor | None = None
    runners_up_BKHW: Tensor | None = field(default=None, metadata={"absent": 255})
    runner_up_weight_BKHW: Tensor | None = field(default=None, metadata={"absent": 0})
    boxes_BN4: Tensor | None = None
    label_BN: Tensor | None = None
    weight_BN: Tensor | None = None
    class_B: Tensor | None = None
    class_weight_B: Tensor | None = None
    canvas_B2: Tensor | None = None


@dataclass(frozen=True)
class Batch(_TensorGroup):
    """Images with their targets and everything needed to trace them back.

    Attributes:
        image_B3HW: uint8 until the device, then floating in 0..1.
        valid_B2: int64 height and width of the picture, anchored at the canvas' top-left corner.
        id_B: int64 id keys (`selftrain_core.keys.name_key` of the id).
        visit_B: int64 visit numbers.
        original_B2: int64 height and width of the image file's picture.
        matrix_B23: float32, original pixels → canvas.
        source_B: int64, `HUMAN` or `PSEUDO`.
        targets: What to train against.
    """

    image_B3HW: Tensor
    valid_B2: Tensor
    id_B: Tensor
    visit_B: Tensor
    original_B2: Tensor
    matrix_B23: Tensor
    source_B: Tensor
    targets: Targets

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_B3HW)

    def at(self, places: Tensor) -> Self:
        """Return the images at some places, int64 [S]."""
        return self._map(lambda tensor: tensor.index_select(0, places))


def collate(samples: Sequence[Batch]) -> Batch:
    """Return one batch of several one-image batches, whose tensors have no batch axis yet."""
    return _stack(samples)


def _stack(groups: Sequence[_Group]) -> _Group:
    first = groups[0]
    stacked: dict[str, Any] = {}
    for each in fields(first):  # type: ignore[arg-type]
        values = [getattr(group, each.name) for group in groups]
        known = [value for value in values if isinstance(value, Tensor)]
        if known:
            # What only some images have stands in the others' places as nothing at all.
            stacked[each.name] = torch.stack([_or_absent(value, known[0], each) for value in values])
        elif isinstance(values[0], _TensorGroup):
            stacked[each.name] = _stack(values)
    return replace(first, **stacked)  # type: ignore[type-var]


def _or_absent(value: Tensor | None, like: Tensor, each: Field[Any]) -> Tensor:
    return torch.full_like(like, each.metadata["absent"]) if value is None else value


def float_images(image_B3HW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return images as floating point in 0..1; uint8 is divided by 255, floating input only changes type."""
    if image_B3HW.dtype == torch.uint8:
        return image_B3HW.to(dtype) / 255
    return image_B3HW.to(dtype)
