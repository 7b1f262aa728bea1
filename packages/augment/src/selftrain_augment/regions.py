"""Operations on parts of a picture: rectangles cut out, and what boxes show.

Shape letters: B = images, H, W = canvas height and width, N = boxes per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selftrain_augment import geometry
from selftrain_augment.colour import equalizing_table, look_up, solarize_threshold, to_levels
from selftrain_augment.matrices import linear_map
from selftrain_augment.operations import OperationName

GREY = 128 / 255
"""What a rectangle that is cut out shows (AutoAugment for detection)."""


def rectangle(box_B4: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels have their centre in the box: bool [B, H, W]; an empty box has none."""
    x_W = torch.arange(width, device=box_B4.device) + 0.5
    y_H = torch.arange(height, device=box_B4.device) + 0.5
    left_B1, top_B1, right_B1, bottom_B1 = box_B4[:, :, None].unbind(1)
    rows_BH, columns_BW = (y_H >= top_B1) & (y_H < bottom_B1), (x_W >= left_B1) & (x_W < right_B1)
    return rows_BH[:, :, None] & columns_BW[:, None, :]


def cutout_box(size_B2: Tensor, pixel_B: Tensor, magnitude_B: Tensor, x_B: Tensor, y_B: Tensor) -> Tensor:
    """Return the square that Cutout cuts out of pictures: xyxy, float32 [B, 4], not clipped.

    Args:
        size_B2: Height and width of the pictures; the centre lies anywhere in them.
        pixel_B: How many pixels of the canvas a pixel of the published magnitudes is.
        magnitude_B: Half the side is int(10 · magnitude) of those.
        x_B: Where the centre lies, in [0, 1).
        y_B: Likewise.
    """
    half_B = (10 * magnitude_B).floor() * pixel_B
    centre_x_B, centre_y_B = x_B * size_B2[:, 1], y_B * size_B2[:, 0]
    return torch.stack([centre_x_B - half_B, centre_y_B - half_B, centre_x_B + half_B, centre_y_B + half_B], dim=1)


def bbox_cutout_box(
    boxes_BN4: Tensor, is_object_BN: Tensor, choice_B: Tensor, magnitude_B: Tensor, x_B: Tensor, y_B: Tensor
) -> Tensor:
    """Return the rectangle that BBox_Cutout cuts out: xyxy, float32 [B, 4]; empty where there is no object.

    Args:
        boxes_BN4: The boxes.
        is_object_BN: Which of them are objects; one of these is taken.
        choice_B: Which, in [0, 1).
        magnitude_B: The rectangle is 0.075 · magnitude as high and wide as the box.
        x_B: Where in the box its centre lies, in [0, 1).
        y_B: Likewise.
    """
    count_B1 = is_object_BN.sum(1, keepdim=True)
    wanted_B1 = (choice_B[:, None] * count_B1).long().clamp(max=(count_B1 - 1).clamp(min=0)) + 1
    place_B = ((is_object_BN.cumsum(1) == wanted_B1) & is_object_BN).int().argmax(1)
    box_B4 = boxes_BN4.gather(1, place_B[:, None, None].expand(-1, 1, 4))[:, 0]
    size_B2 = box_B4[:, 2:] - box_B4[:, :2]
    centre_B2 = box_B4[:, :2] + torch.stack([x_B, y_B], dim=1) * size_B2
    half_B2 = 0.0375 * magnitude_B[:, None] * size_B2
    cut_B4 = torch.cat([centre_B2 - half_B2, centre_B2 + half_B2], dim=1)
    return torch.where(count_B1 > 0, cut_B4, 0)


@dataclass(frozen=True)
class Owners:
    """Which box's operation changes each pixel.

    Attributes:
        owner_BHW: int64, place of the box, −1 where there is none.
    """

    owner_BHW: Tensor

    @classmethod
    def of(cls, boxes_BN4: Tensor, applies_BN: Tensor, order_BN: Tensor, height: int, width: int) -> Owners:
        """Return for each pixel the box that applies, holds its centre, and comes last in the drawn order."""
        place_BN = torch.where(applies_BN, order_BN, -1.0).argsort(1)
        owner_BHW = torch.full((len(boxes_BN4), height, width), -1, device=boxes_BN4.device)
        # Those that apply stand at the end; on XLA, where shapes must not follow the data, all are looked at.
        first = 0 if boxes_BN4.device.type == "xla" else boxes_BN4.shape[1] - int(applies_BN.sum(1).amax())
        for turn in range(first, boxes_BN4.shape[1]):
            place_B1 = place_BN[:, turn : turn + 1]
            box_B4 = boxes_BN4.gather(1, place_B1[..., None].expand(-1, 1, 4))[:, 0]
            is_here_BHW = rectangle(box_B4, height, width) & applies_BN.gather(1, place_B1)[..., None]
            owner_BHW = torch.where(is_here_BHW, place_B1[..., None], owner_BHW)
        return cls(owner_BHW)

    @property
    def is_owned_BHW(self) -> Tensor:
        """Which pixels any box changes."""
        return self.owner_BHW >= 0

    def of_pixels(self, value_BN: Tensor) -> Tensor:
        """Return each pixel's owner's value, [B, H, W]; that of the first box where it has none."""
        place_BP = self.owner_BHW.flatten(1).clamp(min=0)
        return value_BN.gather(1, place_BP).view(self.owner_BHW.shape)


@dataclass(frozen=True)
class BoxDraws:
    """What was drawn for each box of the images that drew one operation on boxes alone.

    Attributes:
        magnitude_B: float32.
        pixel_B: How many pixels of the canvas a pixel of the published magnitudes is.
        sign_BN: float32, 1 or −1.
        x_BN: float32 in [0, 1).
        y_BN: Likewise.
    """

    magnitude_B: Tensor
    pixel_B: Tensor
    sign_BN: Tensor
    x_BN: Tensor
    y_BN: Tensor


def change_boxes(
    name: OperationName, image_B3HW: Tensor, boxes_BN4: Tensor, owners: Owners, draws: BoxDraws, *, rising: bool
) -> Tensor:
    """Return the images with what their boxes show changed.

    Pixels outside every box, and boxes themselves, stay. Where two boxes overlap, one of them changes the pixel, and
    what it reads is the picture as it was.

    Args:
        name: An operation on boxes alone.
        image_B3HW: Floating, in 0..1.
        boxes_BN4: The boxes.
        owners: Which box changes each pixel.
        draws: What was drawn.
        rising: As for `selftrain_augment.colour.solarize`.
    """
    if name == "Solarize_Only_BBoxes":
        threshold_B = (solarize_threshold(draws.magnitude_B, rising=rising) - 0.5) / 255
        changed_B3HW = torch.where(image_B3HW < threshold_B[:, None, None, None], image_B3HW, 1 - image_B3HW)
    elif name == "Equalize_Only_BBoxes":
        changed_B3HW = _equalized(image_B3HW, owners, boxes_BN4.shape[1])
    elif name == "Cutout_Only_BBoxes":
        changed_B3HW = _cut_out(image_B3HW, boxes_BN4, owners, draws)
    else:
        changed_B3HW = _warped(name, image_B3HW, boxes_BN4, owners, draws)
    return torch.where(owners.is_owned_BHW[:, None], changed_B3HW, image_B3HW)


def _equalized(image_B3HW: Tensor, owners: Owners, num_boxes: int) -> Tensor:
    level_B3P, owner_B1P = to_levels(image_B3HW).flatten(2), owners.owner_BHW.flatten(1)[:, None]
    place_PX = ((owner_B1P + 1) * 256 + level_B3P).flatten(0, 1)  # what no box owns comes first
    bins = (num_boxes + 1) * 256
    first_P1 = bins * torch.arange(len(place_PX), device=place_PX.device)[:, None]
    counted = torch.bincount((place_PX + first_P1).flatten(), minlength=len(place_PX) * bins)
    table_PNL = equalizing_table(counted.view(len(place_PX), num_boxes + 1, 256)).to(image_B3HW.dtype)
    return look_up(table_PNL.flatten(1), place_PX).view(image_B3HW.shape)


def _cut_out(image_B3HW: Tensor, boxes_BN4: Tensor, owners: Owners, draws: BoxDraws) -> Tensor:
    left_BN, top_BN, right_BN, bottom_BN = boxes_BN4.unbind(2)
    half_B11 = ((5 * draws.magnitude_B).floor() * draws.pixel_B)[:, None, None]
    centre_x_BHW = owners.of_pixels(left_BN + draws.x_BN * (right_BN - left_BN))
    centre_y_BHW = owners.of_pixels(top_BN + draws.y_BN * (bottom_BN - top_BN))
    height, width = image_B3HW.shape[2:]
    x_W = torch.arange(width, device=boxes_BN4.device) + 0.5
    y_H1 = torch.arange(height, device=boxes_BN4.device)[:, None] + 0.5
    is_cut_BHW = ((x_W - centre_x_BHW).abs() < half_B11) & ((y_H1 - centre_y_BHW).abs() < half_B11)
    return torch.where(is_cut_BHW[:, None], GREY, image_B3HW)


def _warped(name: OperationName, image_B3HW: Tensor, boxes_BN4: Tensor, owners: Owners, draws: BoxDraws) -> Tensor:
    """Return the images with each box's content moved inside its box; grey where nothing of it comes to lie."""
    num_images, num_boxes = boxes_BN4.shape[:2]
    height, width = image_B3HW.shape[2:]
    box_M4 = boxes_BN4.flatten(0, 1)
    size_M2 = (box_M4[:, 2:] - box_M4[:, :2]).flip(1)
    magnitude_M, pixel_M = (each_B.repeat_interleave(num_boxes) for each_B in (draws.magnitude_B, draws.pixel_B))
    operation = name.replace("_Only_BBoxes", "")
    within_M23 = linear_map(operation, size_M2, magnitude_M, pixel_M, draws.sign_BN.flatten(), of_box=True)
    corner_M2 = box_M4[:, :2]
    # Seen from the canvas: to the box's corner and back.
    shift_M2 = within_M23[:, :, 2] + corner_M2 - (within_M23[:, :, :2] * corner_M2[:, None]).sum(2)
    entries = [*within_M23[:, :, :2].flatten(1).unbind(1), *shift_M2.unbind(1)]
    a, b, d, e, c, f = (owners.of_pixels(entry_M.view(num_images, num_boxes)) for entry_M in entries)
    x_BHW = torch.arange(width, device=box_M4.device) + 0.5 - c
    y_BHW = torch.arange(height, device=box_M4.device)[:, None] + 0.5 - f
    determinant_BHW = a * e - b * d
    determinant_BHW = torch.where(determinant_BHW == 0, 1, determinant_BHW)  # of an empty box, which owns no pixel
    x_BHW, y_BHW = (e * x_BHW - b * y_BHW) / determinant_BHW, (a * y_BHW - d * x_BHW) / determinant_BHW
    left, top, right, bottom = (owners.of_pixels(side_BN) for side_BN in boxes_BN4.unbind(2))
    is_content_BHW = (x_BHW >= left) & (x_BHW < right) & (y_BHW >= top) & (y_BHW < bottom)
    # The outermost half pixel of a box shows its border pixel, and never what lies beside the box.
    x_BHW = torch.maximum(torch.minimum(x_BHW, right.ceil() - 0.5), left.floor() + 0.5)
    y_BHW = torch.maximum(torch.minimum(y_BHW, bottom.ceil() - 0.5), top.floor() + 0.5)
    moved_B3HW = geometry.warp_bilinear(image_B3HW, x_BHW, y_BHW)
    return torch.where(is_content_BHW[:, None], moved_B3HW, GREY)
