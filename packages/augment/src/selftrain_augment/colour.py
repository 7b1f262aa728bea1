"""Operations on colours: each on some images of a batch at once, each image with a magnitude of its own.

What Pillow does on whole numbers from 0 to 255 is done here on numbers from 0 to 1; results differ by a rounding or
two. Statistics are of the picture alone, not of what the canvas shows around it, which is why kornia's `equalize` and
its contrast, which take in the whole canvas, are not used; nor its `posterize`, which cuts off a level where float32
rounds, and takes ten times as long.

Shape letters: B = images, H, W = canvas height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from kornia.enhance import adjust_brightness_accumulative, adjust_saturation_with_gray_subtraction
from torch import Tensor
from torch.nn import functional

from selftrain_augment.geometry import inside
from selftrain_augment.operations import ColourOptions, OperationName

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue in a grey (ITU-R 601), as in Pillow."""

Colour = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes images, floating [B, 3, H, W] in 0..1, the pictures' heights and widths, int64 [B, 2], and magnitudes, float32
[B], and returns images."""


def colour_operations(options: ColourOptions) -> Mapping[OperationName, Colour]:
    """Return the operations by name."""
    return {
        "AutoContrast": auto_contrast,
        "Equalize": equalize,
        "Invert": invert,
        "Posterize": posterize,
        "Solarize": partial(solarize, rising=options.rising_solarize),
        "SolarizeAdd": solarize_add,
        "Color": color,
        "Contrast": partial(contrast, white=options.white_contrast),
        "Brightness": brightness,
        "Sharpness": sharpness,
    }


def blend_factor(magnitude_B: Tensor) -> Tensor:
    """Return how much of an image a blend keeps: 0 is none of it, 1 all, above 1 the contrary of the other."""
    return 0.18 * magnitude_B + 0.1


def solarize_threshold(magnitude_B: Tensor, *, rising: bool = False) -> Tensor:
    """Return from which value on pixels are inverted, 0 to 256."""
    threshold_B = (25.6 * magnitude_B).floor().clamp(max=256)
    return 256 - threshold_B if rising else threshold_B


def auto_contrast(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Stretch each channel so that its darkest pixel becomes 0 and its brightest 1; one of a single value stays."""
    del magnitude_B
    # No value is above 1 or below 0: by that much what is no picture is put out of the way.
    outside_B1HW = 1 - inside(valid_B2, *image_B3HW.shape[2:])[:, None].to(image_B3HW.dtype)
    low_B311 = (image_B3HW + outside_B1HW).amin((2, 3), keepdim=True)
    span_B311 = (image_B3HW - outside_B1HW).amax((2, 3), keepdim=True) - low_B311
    offset_B311 = torch.where(span_B311 > 0, low_B311, 0)
    return (image_B3HW - offset_B311).div_(torch.where(span_B311 > 0, span_B311, 1)).clamp_(0, 1)


def equalize(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Make each channel's values equally frequent, by Pillow's rule; one of a single value stays."""
    del magnitude_B
    planes = image_B3HW.shape[0] * 3
    index_PX = _indices(to_levels(image_B3HW).flatten(2).flatten(0, 1), 257)
    # What is no picture falls into a bin of its own, behind the 256 others of the first plane.
    inside_PX = inside(valid_B2, *image_B3HW.shape[2:]).view(-1, 1, index_PX.shape[1]).expand(-1, 3, -1).flatten(0, 1)
    counted = torch.bincount(torch.where(inside_PX, index_PX, 256).flatten(), minlength=planes * 257).view(planes, 257)
    table_PL = functional.pad(equalizing_table(counted[:, :256]).to(image_B3HW.dtype), (0, 1))
    return table_PL.flatten().index_select(0, index_PX.flatten()).view(image_B3HW.shape)


def to_levels(image: Tensor) -> Tensor:
    """Return values in 0..1 as whole numbers from 0 to 255, int32."""
    return (image.float() * 255).add_(0.5).to(torch.int32)


def look_up(table_PL: Tensor, index_PX: Tensor) -> Tensor:
    """Return what each row's table has at each of the row's indices: [P, X]."""
    index_PX = _indices(index_PX.clone(), table_PL.shape[1])
    return table_PL.flatten().index_select(0, index_PX.flatten()).view(index_PX.shape)


def _indices(index_PX: Tensor, length: int) -> Tensor:
    """Return, changed in place, the indices into one table of all rows' tables, each of `length`."""
    return index_PX.add_(length * torch.arange(len(index_PX), device=index_PX.device, dtype=torch.int32)[:, None])


def equalizing_table(histogram_L: Tensor) -> Tensor:
    """Return which value in 0..1 each level becomes: float32 [..., 256].

    Args:
        histogram_L: int64 [..., 256].
    """
    levels_L = torch.arange(256, device=histogram_L.device)
    last_1 = torch.where(histogram_L > 0, levels_L, 0).amax(-1, keepdim=True)
    step_1 = (histogram_L.sum(-1, keepdim=True) - histogram_L.gather(-1, last_1)) // 255
    before_L = histogram_L.cumsum(-1) - histogram_L
    table_L = ((before_L + step_1 // 2) // step_1.clamp(min=1)).clamp(0, 255)
    return torch.where(step_1 > 0, table_L, levels_L).float() / 255


def invert(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Turn each value v into 1 − v."""
    del valid_B2, magnitude_B
    return 1 - image_B3HW


def posterize(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Keep the highest int(0.4 · magnitude) of eight bits, at least one."""
    del valid_B2
    # The published code shifts by 8 less that, and TensorFlow, in which it is written, shifts a byte by 7 at most.
    step_B111 = 2.0 ** (8 - (0.4 * magnitude_B).floor().clamp(1, 8))[:, None, None, None]
    level_B3HW = (image_B3HW.float() * 255).add_(0.5)
    return level_B3HW.div_(step_B111).floor_().mul_(step_B111 / 255).to(image_B3HW.dtype)


def solarize(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor, *, rising: bool = False) -> Tensor:
    """Invert the values that reach int(25.6 · magnitude) of 255, or where that is rising, 256 less that."""
    del valid_B2
    threshold_B = (solarize_threshold(magnitude_B, rising=rising) - 0.5) / 255  # half a level, for rounding's sake
    is_inverted_B3HW = image_B3HW.clone().ge_(threshold_B[:, None, None, None])
    return (image_B3HW - is_inverted_B3HW).abs_()


def solarize_add(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Add int(11 · magnitude) of 255 to the values below 128."""
    del valid_B2
    addition_B111 = ((11 * magnitude_B).floor() / 255).to(image_B3HW.dtype)[:, None, None, None]
    is_dark_B3HW = image_B3HW.clone().lt_(127.5 / 255)
    return is_dark_B3HW.mul_(addition_B111).add_(image_B3HW).clamp_(max=1)


def color(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Blend with the grey picture."""
    del valid_B2
    return adjust_saturation_with_gray_subtraction(image_B3HW, blend_factor(magnitude_B).to(image_B3HW.dtype))


def contrast(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor, *, white: bool = False) -> Tensor:
    """Blend with the picture's mean grey, or with white."""
    factor_B111 = blend_factor(magnitude_B)[:, None, None, None]
    if white:
        other_B111 = torch.ones_like(factor_B111)
    else:
        inside_B1HW = inside(valid_B2, *image_B3HW.shape[2:])[:, None].float()
        total_B3 = (image_B3HW * inside_B1HW).sum((2, 3))
        mean_B = (total_B3 * total_B3.new_tensor(GREY_WEIGHTS)).sum(1) / valid_B2.prod(1)
        other_B111 = ((mean_B * 255 + 0.5).floor() / 255)[:, None, None, None]
    return (image_B3HW - other_B111).mul_(factor_B111).add_(other_B111).clamp_(0, 1).to(image_B3HW.dtype)


def brightness(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Blend with black."""
    del valid_B2
    return adjust_brightness_accumulative(image_B3HW, blend_factor(magnitude_B).to(image_B3HW.dtype))


def sharpness(image_B3HW: Tensor, valid_B2: Tensor, magnitude_B: Tensor) -> Tensor:
    """Blend with the smoothed picture, whose outermost pixels stay as they are."""
    # The pixels with a neighbour on every side: those of the picture without its last row and column, and the first.
    inner_BHW = inside(valid_B2 - 1, *image_B3HW.shape[2:])[:, 1:-1, 1:-1]
    rows = image_B3HW[:, :, :-2] + image_B3HW[:, :, 1:-1]
    rows += image_B3HW[:, :, 2:]
    centre = image_B3HW[:, :, 1:-1, 1:-1]
    # Pillow's kernel of nine: 5 in the middle, 1 around it, of 13. As sums; kornia's convolution takes twice as long.
    smooth = rows[..., :-2] + rows[..., 1:-1]
    smooth = smooth.add_(rows[..., 2:]).add_(centre, alpha=4).div_(13)
    factor_B111 = blend_factor(magnitude_B).to(image_B3HW.dtype)[:, None, None, None]
    blended = (centre - smooth).mul_(factor_B111).add_(smooth).clamp_(0, 1)
    changed_B3HW = image_B3HW.clone()
    changed_B3HW[:, :, 1:-1, 1:-1] = torch.where(inner_BHW[:, None], blended, centre)
    return changed_B3HW
