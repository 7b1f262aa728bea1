"""Whether what a caller gives on plain tensors fits together, and if not, in which words.

Shape letters: B = images, N = boxes per image.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor

from selftrain_augment.config import S1Config, SimClrConfig
from selftrain_core.labels import PADDING_LABEL

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ROUNDING = 1e-2
"""By how much a value may lie outside 0..1: an antialiased resize, or bfloat16, leaves it so."""

Given = Mapping[str, Tensor | None]


def check_kinds(config: S1Config | SimClrConfig, seed: int | None, visit: int, images: Tensor, others: Given) -> None:
    """Check that settings are settings, numbers numbers, and tensors tensors, on one device.

    Raises:
        ValueError: Something is not.
    """
    if not isinstance(config, (S1Config, SimClrConfig)):
        raise ValueError(f"config is a {type(config).__name__}; wanted is one of selftrain_augment.config, S4Config(…)")
    for name, number in (("seed", seed), ("visit", visit)):
        if number is not None and not _is_whole(number):
            raise ValueError(f"{name} is {number!r}; wanted is a whole number of 64 bits, the same for the whole batch")
    for name, tensor in {"images": images, **others}.items():
        if not isinstance(tensor, Tensor) and (tensor is not None or name == "images"):
            raise ValueError(f"{name} are a {type(tensor).__name__}; wanted is a torch.Tensor")
        if tensor is not None and tensor.device != images.device:
            raise ValueError(f"{name} are on {tensor.device}, images on {images.device}; wanted is one device")
    if images.dim() != 4 or images.shape[1] != 3 or not images.shape[2] * images.shape[3]:
        raise ValueError(f"images have shape {tuple(images.shape)}; wanted is [B, 3, H, W]")
    if images.dtype != torch.uint8 and images.dtype not in FLOATING:
        raise ValueError(f"images are {images.dtype}; wanted is uint8, or floating point of 16 to 64 bits in 0..1")


def check_values(images: Tensor, others: Given, oversample: int) -> None:
    """Check shapes, types and ranges; `images` themselves have passed `check_kinds`.

    Raises:
        ValueError: Something does not fit.
    """
    masks, boxes, labels, sizes, ids = (others[name] for name in ("masks", "boxes", "labels", "sizes", "ids"))
    number, _, height, width = images.shape
    if height % oversample or width % oversample:
        raise ValueError(f"images of {height} × {width} do not divide by oversample {oversample}")
    if images.is_floating_point() and number:
        low, high = (value.item() for value in images.detach().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(
                f"images are from {low:g} to {high:g}; wanted is 0 to 1: divide what goes to 255 by that, and "
                "normalise after augmentation"
            )
    if masks is not None and (masks.shape != (number, height, width) or masks.dtype != torch.uint8):
        raise ValueError(f"masks are {_described(masks)}; wanted is torch.uint8 ({number}, {height}, {width})")
    _check_boxes(number, boxes, labels)
    assert sizes is not None
    if sizes.shape != (number, 2) or sizes.dtype != torch.int64:
        raise ValueError(f"sizes are {_described(sizes)}; wanted is torch.int64 ({number}, 2)")
    if number and not bool(((sizes >= 1) & (sizes <= sizes.new_tensor([height, width]))).all()):
        raise ValueError(f"sizes are not all between 1 and the images' {height} × {width}")
    if ids is not None and (ids.shape != (number,) or ids.dtype not in WHOLE):
        raise ValueError(f"ids are {_described(ids)}; wanted is one whole number for each of {number} images")


def _check_boxes(number: int, boxes: Tensor | None, labels: Tensor | None) -> None:
    if boxes is None:
        if labels is not None:
            raise ValueError("labels are given without boxes; wanted are both, or boxes alone")
        return
    if boxes.dim() != 3 or boxes.shape[::2] != (number, 4) or boxes.dtype != torch.float32:
        raise ValueError(f"boxes are {_described(boxes)}; wanted is torch.float32 ({number}, N, 4)")
    if labels is not None and (labels.shape != boxes.shape[:2] or labels.dtype != torch.int64):
        raise ValueError(
            f"labels are {_described(labels)}; wanted is torch.int64 {tuple(boxes.shape[:2])}, one for each box"
        )
    x1_BN, y1_BN, x2_BN, y2_BN = boxes.unbind(2)
    is_box_BN = (x1_BN <= x2_BN) & (y1_BN <= y2_BN) & boxes.isfinite().all(2)
    if labels is not None:
        is_box_BN = is_box_BN | (labels == PADDING_LABEL)
    if not bool(is_box_BN.all()):
        wrong = boxes[~is_box_BN][0].tolist()
        raise ValueError(
            f"a box is {wrong}; wanted is [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2: is it [x, y, w, h]?"
        )


def _is_whole(number: object) -> bool:
    try:
        return -(2**63) <= operator.index(number) < 2**63  # type: ignore[arg-type]  # that is what is asked
    except TypeError:
        return False


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
