"""Augment-S1: horizontal flip, scale jitter and crop, the standard augmentation of the paper (§3.1).

Shape letters: B = images, H, W = canvas height and width, N = boxes per image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selftrain_augment.config import S1Config
from selftrain_augment.geometry import (
    areas,
    clip_boxes,
    compose,
    inside,
    move_boxes,
    source_axes,
    take_nearest,
    warp_bilinear,
)
from selftrain_core.batch import Batch, Targets, float_images
from selftrain_core.geometry import FILL_RGB
from selftrain_core.interfaces import Augmentation
from selftrain_core.keys import uniform
from selftrain_core.labels import IGNORE, IGNORE_LABEL, PADDING_LABEL

_FLIP, _SCALE, _CROP_X, _CROP_Y = range(4)  # counters of the draws

_SHORTEST_SIDE = 0.01
"""Pixels of a box's side below which nothing of it is seen; float32 is off by less on any canvas that fits memory."""


@dataclass(frozen=True)
class Placement:
    """Where the pictures go.

    Attributes:
        matrix_B23: float32, old canvas → new canvas.
        valid_B2: int64 height and width of the pictures on the new canvas.
    """

    matrix_B23: Tensor
    valid_B2: Tensor


class AugmentS1(Augmentation):
    """Mirrors, scales and crops each picture on its canvas: one matrix and one resampling per image.

    The picture stays anchored at the canvas' top-left corner. A picture scaled beyond the canvas is cropped at a
    uniformly drawn whole-pixel offset; around a smaller one the canvas is filled with `FILL_RGB`, class 255, weight 0.

    An object whose box is cut to less than `min_visibility` of its area becomes a region to ignore: too little is seen
    to ask for the object, and what is seen must not count as background. A box of which nothing is seen becomes
    padding, in its place: padding is not only at the end.
    """

    config: S1Config

    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        """Return what is drawn for each image, from its key alone.

        Args:
            batch: Unused: the draws do not depend on how the picture lies.
            key_B: int64, hash of (seed, stage, id, visit).

        Returns:
            ``flip_B``: bool. ``scale_B``: float32 in scale_min..scale_max. ``crop_x_B``, ``crop_y_B``: float32 in
            [0, 1), the share of the possible crop offsets that lie left of, or above, the one taken.
        """
        low, high = self.config.scale_min, self.config.scale_max
        return {
            "flip_B": uniform(key_B, _FLIP) < self.config.flip_probability,
            "scale_B": low + (high - low) * uniform(key_B, _SCALE),
            "crop_x_B": uniform(key_B, _CROP_X),
            "crop_y_B": uniform(key_B, _CROP_Y),
        }

    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        """Return the batch changed as `parameters` say, images float32 in 0..1."""
        height, width = batch.image_B3HW.shape[2:]
        placement = place(batch.valid_B2, height, width, parameters)
        x_BW, y_BH = source_axes(placement.matrix_B23, height, width)
        inside_BHW = inside(placement.valid_B2, height, width)

        image_B3HW = warp_bilinear(float_images(batch.image_B3HW), x_BW, y_BH, batch.valid_B2).clamp_(0, 1)
        fill_311 = image_B3HW.new_tensor(FILL_RGB)[:, None, None] / 255

        targets = batch.targets
        maps: dict[str, Tensor] = {}
        for name, outside in (("mask_BHW", IGNORE), ("weight_BHW", 0)):
            old_BHW = getattr(targets, name)
            if old_BHW is not None:
                taken_BHW = take_nearest(old_BHW, x_BW, y_BH, batch.valid_B2)
                maps[name] = torch.where(inside_BHW, taken_BHW, outside)
        for name, outside in (("runners_up_BKHW", IGNORE), ("runner_up_weight_BKHW", 0)):
            old_BKHW = getattr(targets, name)
            if old_BKHW is not None:
                taken = [take_nearest(plane_BHW, x_BW, y_BH, batch.valid_B2) for plane_BHW in old_BKHW.unbind(1)]
                maps[name] = torch.where(inside_BHW[:, None], torch.stack(taken, dim=1), outside)
        return replace(
            batch,
            image_B3HW=torch.where(inside_BHW[:, None], image_B3HW, fill_311),
            valid_B2=placement.valid_B2,
            matrix_B23=compose(placement.matrix_B23, batch.matrix_B23),
            targets=replace(targets, **maps, **self._boxes(targets, placement)),
        )

    def _boxes(self, targets: Targets, placement: Placement) -> dict[str, Tensor]:
        """Return the fields of `targets` that change with its boxes."""
        if targets.boxes_BN4 is None:
            return {}
        moved_BN4 = move_boxes(targets.boxes_BN4, placement.matrix_B23)
        seen_BN4 = clip_boxes(moved_BN4, placement.valid_B2)
        if targets.label_BN is None:
            return {"boxes_BN4": seen_BN4}
        seen_BN = areas(seen_BN4, _SHORTEST_SIDE)
        is_sliver_BN = (targets.label_BN >= 0) & (seen_BN < self.config.min_visibility * areas(moved_BN4))
        label_BN = torch.where(is_sliver_BN, IGNORE_LABEL, targets.label_BN)
        label_BN = torch.where(seen_BN == 0, PADDING_LABEL, label_BN)
        is_padding_BN = label_BN == PADDING_LABEL
        changed = {"boxes_BN4": torch.where(is_padding_BN[..., None], 0, seen_BN4), "label_BN": label_BN}
        if targets.weight_BN is not None:
            changed["weight_BN"] = torch.where(is_padding_BN, 0, targets.weight_BN)
        return changed


def place(valid_B2: Tensor, height: int, width: int, parameters: Mapping[str, Tensor]) -> Placement:
    """Return where pictures of `valid_B2` go on a canvas of `height` × `width` under `parameters`.

    Each axis is scaled to a whole number of pixels, as where an image is first laid onto its canvas: the two scales
    differ from the one drawn by less than half a pixel over the picture, and its edges stay pixel edges.
    """
    old_height_B, old_width_B = valid_B2.to(torch.float32).unbind(1)
    new_width_B, left_B = _scale_and_crop(old_width_B, width, parameters["scale_B"], parameters["crop_x_B"])
    new_height_B, top_B = _scale_and_crop(old_height_B, height, parameters["scale_B"], parameters["crop_y_B"])
    flip_B, zero_B = parameters["flip_B"], torch.zeros_like(left_B)
    scale_x_B = new_width_B / old_width_B
    # Mirrored inside the picture, x becomes width − x: its right edge, not the canvas', comes to the left.
    row_x_B3 = [torch.where(flip_B, -scale_x_B, scale_x_B), zero_B, torch.where(flip_B, new_width_B, zero_B) - left_B]
    row_y_B3 = [zero_B, new_height_B / old_height_B, -top_B]
    valid = torch.stack([new_height_B.clamp(max=height), new_width_B.clamp(max=width)], dim=1)
    matrix_B23 = torch.stack([torch.stack(row_x_B3, dim=1), torch.stack(row_y_B3, dim=1)], dim=1)
    return Placement(matrix_B23, valid.to(torch.int64))


def _scale_and_crop(size_B: Tensor, canvas: int, scale_B: Tensor, crop_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scaled size along one axis and how much of it is cut off at the near end, whole pixels in float32."""
    scaled_B = (size_B * scale_B).round().clamp(min=1)
    excess_B = (scaled_B - canvas).clamp(min=0)
    return scaled_B, torch.minimum((crop_B * (excess_B + 1)).floor(), excess_B)
