"""What a policy does to the pictures before they are moved: colours, cut-outs, what boxes show.

Shape letters: B = images, S = those that drew an operation, K = slots, h, w = canvas height and width, N = boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from selftrain_augment.colour import colour_operations
from selftrain_augment.operations import CODES, ColourOptions, Kind, OperationName, kind_of
from selftrain_augment.policies import Policy
from selftrain_augment.regions import GREY, BoxDraws, Owners, bbox_cutout_box, change_boxes, cutout_box, rectangle
from selftrain_augment.subsets import Subset, change_where
from selftrain_core.batch import Batch, Targets


@dataclass(frozen=True)
class _Drawn:
    """Images that drew one operation in one slot, and what they drew for it."""

    subset: Subset
    parameters: Mapping[str, Tensor]
    slot: int
    valid_S2: Tensor
    pixel_S: Tensor

    def __call__(self, name: str) -> Tensor:
        return self.subset(self.parameters[name][:, self.slot])


class Editor:
    """Does the operations of a policy that move nothing.

    Args:
        policy: The policy.
        options: Where operations are done in one of two ways.
    """

    def __init__(self, policy: Policy, options: ColourOptions) -> None:
        self._num_slots = policy.num_slots
        chosen = {name for name in policy.operations() if kind_of(name) not in (Kind.WARP, Kind.NOTHING)}
        self._names: tuple[OperationName, ...] = tuple(sorted(chosen, key=CODES.__getitem__))
        self._colours = colour_operations(options)
        self._rising = options.rising_solarize

    def __call__(self, batch: Batch, parameters: Mapping[str, Tensor], pixel_B: Tensor) -> Tensor:
        """Return the images after the operations, in the order drawn: floating, in 0..1.

        Args:
            batch: The batch.
            parameters: What was drawn.
            pixel_B: How many pixels of the canvas a pixel of the published magnitudes is.
        """
        image_B3hw = floating(batch.image_B3HW)
        if not self._names:
            return image_B3hw
        if image_B3hw is batch.image_B3HW:
            image_B3hw = image_B3hw.clone()  # it is changed in place
        drawn_BK = parameters["operation_BK"]
        # One wait for the device, not one for each operation.
        drawn = drawn_BK.tolist() if Subset.follows_data(drawn_BK) else None
        for slot in range(self._num_slots):
            for name in self._names:
                known = None if drawn is None else [operations[slot] == CODES[name] for operations in drawn]
                if known is not None and not any(known):
                    continue
                subset = Subset.of(drawn_BK[:, slot] == CODES[name], known)
                found = _Drawn(subset, parameters, slot, subset(batch.valid_B2), subset(pixel_B))
                image_B3hw = change_where(
                    image_B3hw, subset, self._changed(name, subset(image_B3hw), batch.targets, found)
                )
        return image_B3hw

    def _changed(self, name: OperationName, image_S3hw: Tensor, targets: Targets, drawn: _Drawn) -> Tensor:
        size = image_S3hw.shape[2:]
        if kind_of(name) is Kind.COLOUR:
            return self._colours[name](image_S3hw, drawn.valid_S2, drawn("magnitude_BK"))
        if name == "Cutout":
            place = (drawn("x_BK"), drawn("y_BK"))
            cut_S4 = cutout_box(drawn.valid_S2, drawn.pixel_S, drawn("magnitude_BK"), *place)
            return torch.where(rectangle(cut_S4, *size)[:, None], GREY, image_S3hw)
        if targets.boxes_BN4 is None or targets.label_BN is None or not targets.boxes_BN4.shape[1]:
            return image_S3hw
        # What lies outside the picture belongs to no box.
        limit_S14 = drawn.valid_S2.flip(1).repeat(1, 2)[:, None].to(targets.boxes_BN4.dtype)
        boxes_SN4 = torch.minimum(drawn.subset(targets.boxes_BN4).clamp(min=0), limit_S14)
        is_object_SN = drawn.subset(targets.label_BN) >= 0
        if name == "BBox_Cutout":
            draws = (drawn("choice_BK"), drawn("magnitude_BK"), drawn("x_BK"), drawn("y_BK"))
            cut_S4 = bbox_cutout_box(boxes_SN4, is_object_SN, *draws)
            return torch.where(rectangle(cut_S4, *size)[:, None], GREY, image_S3hw)
        owners = Owners.of(boxes_SN4, drawn("box_applies_BKN") & is_object_SN, drawn("box_order_BKN"), *size)
        box_draws = BoxDraws(
            drawn("magnitude_BK"), drawn.pixel_S, drawn("box_sign_BKN"), drawn("box_x_BKN"), drawn("box_y_BKN")
        )
        return change_boxes(name, image_S3hw, boxes_SN4, owners, box_draws, rising=self._rising)


def floating(image_B3hw: Tensor) -> Tensor:
    """Return uint8 images as float32 in 0..1; floating ones are returned themselves."""
    if image_B3hw.is_floating_point():
        return image_B3hw
    return image_B3hw.float().div_(255)  # in place: on a processor, fresh memory costs more than the division
