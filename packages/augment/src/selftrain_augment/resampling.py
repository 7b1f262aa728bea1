"""Everything on a canvas moved by one matrix per image: pictures resampled once, masks copied.

Shape letters: B = images, S = some of them, h, w = height and width of the old canvas, H, W = of the new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selftrain_augment import geometry
from selftrain_augment.subsets import Subset, change_where
from selftrain_core.batch import Batch, Targets
from selftrain_core.geometry import FILL_RGB
from selftrain_core.labels import IGNORE

MOST_SHRINKING = 1.5
"""How much smaller than on the old canvas a picture may become by bilinear sampling alone.

Beyond it pixels are averaged first, since a sample of four pixels would step over others.
"""

_OUTSIDE = {"mask_BHW": IGNORE, "weight_BHW": 0, "runners_up_BKHW": IGNORE, "runner_up_weight_BKHW": 0}
"""What the maps of the targets say where there is no picture."""


@dataclass(frozen=True)
class Move:
    """Where the pictures come from and go to.

    Attributes:
        matrix_B23: float32, old canvas → new canvas.
        old_valid_B2: int64 height and width of the pictures on the old canvas.
        frame_B2: int64 height and width of what they may fill of the new one; None where `lay` sees to that.
        shrinking_B: float32, how many times smaller they become.
        most_shrinking: What no entry of `shrinking_B` exceeds.
        upright: Whether it is known that no matrix turns or shears.
        bares: Whether a picture may leave part of its frame bare.
    """

    matrix_B23: Tensor
    old_valid_B2: Tensor
    frame_B2: Tensor | None
    shrinking_B: Tensor
    most_shrinking: float
    upright: bool
    bares: bool


def resample(image_B3hw: Tensor, targets: Targets, move: Move, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the images, ``image_B3HW``, and those maps of `targets` that there are, on a canvas of `size`.

    Where there is no picture the image shows `FILL_RGB`, masks say ignore, and weights are 0; outside a frame that
    `move` does not have, anything.
    """
    x_BHW, y_BHW = geometry.source_points(move.matrix_B23, *size, upright=move.upright)
    within_x_BHW, within_y_BHW = geometry.within(x_BHW, y_BHW, move.old_valid_B2)
    shown_BHW = None
    if move.frame_B2 is not None:
        columns, rows = geometry.inside_each_way(move.frame_B2, *size)
        shown_BHW = columns & rows
    if move.bares:
        columns, rows = geometry.covered(x_BHW, y_BHW, within_x_BHW, within_y_BHW)
        shown_BHW = columns & rows if shown_BHW is None else shown_BHW & columns & rows
    image_B3HW = _pictures(image_B3hw, within_x_BHW, within_y_BHW, move)
    found = {"image_B3HW": image_B3HW if shown_BHW is None else _filled(image_B3HW, shown_BHW)}
    maps = _maps(targets)
    if maps:
        pixel_BHW = geometry.pixel_of(within_x_BHW, within_y_BHW, image_B3hw.shape[3])
        found |= {name: _taken(old, pixel_BHW, shown_BHW, _OUTSIDE[name]) for name, old in maps.items()}
    return found


def unlaid(batch: Batch, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return what `resample` returns of a batch, with nothing in it yet, for `lay` to fill."""
    image_B3HW = batch.image_B3HW
    kind = image_B3HW.dtype if image_B3HW.is_floating_point() else torch.float32
    maps = {name: _fresh((*old.shape[:-2], *size), old.dtype) for name, old in _maps(batch.targets).items()}
    return {"image_B3HW": _fresh((*image_B3HW.shape[:2], *size), kind)} | maps


def _fresh(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory from numpy, which asks for huge pages: many fresh MiB come several times as fast in them."""
    values = np.empty(max(1, math.prod(shape)) * dtype.itemsize, np.uint8)  # a view as another type needs one at least
    return torch.from_numpy(values).view(dtype)[: math.prod(shape)].view(*shape)


def lay(canvas: Mapping[str, Tensor], place: int, found: Mapping[str, Tensor], frame: Sequence[int]) -> None:
    """Lay one image and its maps onto their canvases, and around them what `resample` has where there is no picture.

    Args:
        canvas: What `unlaid` returned.
        place: Which of its images.
        found: The image's share of what `resample` found on a canvas of at least `frame`.
        frame: Height and width of what the picture may fill.
    """
    height, width = frame
    for name, value in found.items():
        whole = canvas[name][place]
        whole[..., :height, :width] = value[..., :height, :width]
        outside = _fill_of(whole) if name == "image_B3HW" else _OUTSIDE[name]
        whole[..., height:, :] = outside
        whole[..., :height, width:] = outside


def _pictures(image_B3hw: Tensor, x_BHW: Tensor, y_BHW: Tensor, move: Move) -> Tensor:
    sources = (image_B3hw, x_BHW, y_BHW, move.old_valid_B2)
    times, subsets = 1, {1: Subset(torch.ones_like(move.shrinking_B, dtype=torch.bool), None)}
    while move.most_shrinking > times * MOST_SHRINKING:
        subset = Subset.of(move.shrinking_B > times * MOST_SHRINKING)
        times *= 2
        subsets = {times: subset} if subset.is_whole else subsets | {times: subset}
    first, *others = subsets
    warped_B3HW = _from_smaller(first, sources)
    for times in others:
        subset = subsets[times]
        if not subset.is_empty:
            made = _from_smaller(times, tuple(map(subset, sources)))
            warped_B3HW = change_where(warped_B3HW, subset, made)
    return warped_B3HW.clamp_(0, 1)


def _from_smaller(times: int, sources: tuple[Tensor, ...]) -> Tensor:
    """Return images resampled from what they are when made smaller `times` times, a power of two."""
    image_S3hw, x_SHW, y_SHW, valid_S2 = sources
    if times == 1:
        return geometry.warp_bilinear(image_S3hw, x_SHW, y_SHW)
    for _ in range(times.bit_length() - 1):
        image_S3hw, valid_S2 = geometry.halved(image_S3hw, valid_S2)
    return geometry.warp_bilinear(image_S3hw, *geometry.within(x_SHW / times, y_SHW / times, valid_S2))


def _filled(image_B3HW: Tensor, shown_BHW: Tensor) -> Tensor:
    """Return the images, changed in place, with `FILL_RGB` where no picture is shown."""
    # By arithmetic: on a processor masked_fill and where take several times as long on masks without order.
    shown_B1HW = shown_BHW[:, None].to(image_B3HW.dtype)
    return image_B3HW.mul_(shown_B1HW).addcmul_(1 - shown_B1HW, _fill_of(image_B3HW))


def _fill_of(image_B3HW: Tensor) -> Tensor:
    return image_B3HW.new_tensor(FILL_RGB)[:, None, None] / 255


def _maps(targets: Targets) -> dict[str, Tensor]:
    return {name: getattr(targets, name) for name in _OUTSIDE if getattr(targets, name) is not None}


def _taken(old: Tensor, pixel_BHW: Tensor, shown_BHW: Tensor | None, outside: int) -> Tensor:
    if old.dim() == 4:
        return torch.stack([_taken(each, pixel_BHW, shown_BHW, outside) for each in old.unbind(1)], dim=1)
    taken_BHW = geometry.take(old, pixel_BHW)
    if shown_BHW is None:
        return taken_BHW
    if outside == 0:
        return taken_BHW.mul_(shown_BHW)
    assert outside == IGNORE, "all bits of a byte"
    return taken_BHW.bitwise_or_((~shown_BHW).to(torch.uint8).mul_(outside))
