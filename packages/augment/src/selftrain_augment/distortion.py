"""What SimCLR does to the colours and the sharpness of a view (Chen et al. 2020, appendix A).

Each image has factors of its own, and the four changes of its jitter in an order of its own. The canvas is all picture
here, so kornia's contrast, which takes the canvas' mean, is the picture's.

Shape letters: B = images, S = those that are changed, K = the jitter's four slots, T = all steps, H, W = canvas height
and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor

from selftrain_augment.subsets import Subset, change_where

FACTORS: tuple[Literal["brightness", "contrast", "saturation"], ...] = ("brightness", "contrast", "saturation")
"""Changes of the jitter that multiply."""

JITTER = (*FACTORS, "hue")
"""All changes of the jitter; `order_BK` holds their places here."""

_GREY, _BLUR = len(JITTER), len(JITTER) + 1  # codes of the steps behind the jitter's
_NOTHING = -1

_SEEN_SIGMAS = 5
"""Standard deviations from a kernel's middle beyond which its weights, below 4e-6 of the largest, change no pixel."""


def blur_radius(height: int, width: int, side: float, largest_sigma: float) -> int:
    """Return how many pixels a blur's kernel reaches to each side of its middle.

    Args:
        height: Of the canvas.
        width: Of the canvas.
        side: Of the kernel, as a share of the canvas' shorter side, rounded to an odd number as in the published code.
        largest_sigma: Largest standard deviation. Weights too far from the middle to matter are spared.
    """
    return min(int(min(height, width) * side) // 2, math.ceil(_SEEN_SIGMAS * largest_sigma))


def distorted(image_B3HW: Tensor, parameters: Mapping[str, Tensor], radius: int) -> Tensor:
    """Return the images after jitter, greyscale and blur, of their type, in 0..1; may change `image_B3HW` itself.

    Computed in float32 at least: in bfloat16 a hue is off by several levels of 255.

    Args:
        image_B3HW: Floating, in 0..1, filling their canvas.
        parameters: ``jitter_B``, ``order_BK``, ``brightness_B``, ``contrast_B``, ``saturation_B``, ``hue_B``,
            ``grey_B``, ``blur_B``, ``sigma_B``.
        radius: Of the blur's kernel: see `blur_radius`.
    """
    kind = image_B3HW.dtype
    image_B3HW = image_B3HW.to(torch.promote_types(kind, torch.float32))
    code_BT = _steps(parameters)
    # One wait for the device, not one for each step.
    drawn = code_BT.tolist() if Subset.follows_data(code_BT) else None
    # Under autocast the convolution of a blur would round to bfloat16.
    with torch.autocast(image_B3HW.device.type, enabled=False):
        for step in range(code_BT.shape[1]):
            possible = range(len(JITTER)) if step < len(JITTER) else [step]
            for code in possible:
                known = None if drawn is None else [codes[step] == code for codes in drawn]
                if known is not None and not any(known):
                    continue
                subset = Subset.of(code_BT[:, step] == code, known)
                made_S3HW = _changed(code, subset(image_B3HW), subset, parameters, radius)
                image_B3HW = change_where(image_B3HW, subset, made_S3HW)
    return image_B3HW.clamp_(0, 1).to(kind)


def _steps(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the code of each step of each image, `_NOTHING` where it is left out: int64 [B, T]."""
    order_BK = parameters["order_BK"]
    jitter_BK = torch.where(parameters["jitter_B"][:, None], order_BK, _NOTHING)
    behind = [torch.where(parameters[name], code, _NOTHING) for name, code in (("grey_B", _GREY), ("blur_B", _BLUR))]
    return torch.cat([jitter_BK, torch.stack(behind, dim=1)], dim=1)


def _changed(code: int, image_S3HW: Tensor, subset: Subset, parameters: Mapping[str, Tensor], radius: int) -> Tensor:
    """Return images after one step: fresh memory."""
    if code == _GREY:
        return rgb_to_grayscale(image_S3HW).repeat(1, 3, 1, 1)
    if code == _BLUR:
        sigma_S2 = subset(parameters["sigma_B"])[:, None].expand(-1, 2)
        return gaussian_blur2d(image_S3HW.contiguous(), 2 * radius + 1, sigma_S2)
    name = JITTER[code]
    drawn_S = subset(parameters[f"{name}_B"])
    if name == "hue":
        return adjust_hue(image_S3HW, drawn_S * (2 * math.pi))
    return _MULTIPLIED[name](image_S3HW, drawn_S)


_MULTIPLIED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": adjust_brightness_accumulative,
    "contrast": adjust_contrast_with_mean_subtraction,
    "saturation": adjust_saturation_with_gray_subtraction,
}
