"""The augmentations as functions on plain tensors, for those who train in a loop of their own.

Shape letters: B = images, N = boxes per image, H, W = height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.config import S1Config, S2Config, S3Config, S4Config
from selftrain_core.batch import Batch, Targets
from selftrain_core.config_text import explain_errors
from selftrain_core.keys import fold
from selftrain_core.labels import PADDING_LABEL


@dataclass(frozen=True)
class Augmented:
    """Images after augmentation, with what was known of them.

    Attributes:
        images: Floating [B, 3, H, W] in 0..1; the mean colour of ImageNet where there is no picture.
        sizes: int64 [B, 2], height and width of the pictures' frames, anchored at the top-left corner.
        matrices: float32 [B, 2, 3], from the pixels given to those returned.
        masks: uint8 [B, H, W], 255 where there is no picture; None if none were given.
        boxes: float32 [B, N, 4], xyxy, half-open; 0 for padding; None if none were given.
        labels: int64 [B, N], −1 for padding, which may stand anywhere, and for boxes of which nothing is seen; −2 for
            objects of which too little is seen, regions to ignore; None if none were given.
    """

    images: Tensor
    sizes: Tensor
    matrices: Tensor
    masks: Tensor | None
    boxes: Tensor | None
    labels: Tensor | None


def augment_with(
    config: S1Config,
    images: Tensor,
    *,
    masks: Tensor | None = None,
    boxes: Tensor | None = None,
    labels: Tensor | None = None,
    sizes: Tensor | None = None,
    ids: Tensor | None = None,
    seed: int | None = None,
    visit: int = 0,
) -> Augmented:
    """Return images, masks and boxes after augmentation, on their device and without gradients.

    With a seed, what becomes of an image follows from its id, the seed and the visit alone, whatever batch it is in: in
    a training loop give the images' places in the set as `ids` and the epoch as `visit`. Without one, each call draws
    anew, as `torch.manual_seed` has it.

    Args:
        config: The settings; any of `selftrain_augment.config`.
        images: uint8, or floating in 0..1, [B, 3, H, W].
        masks: uint8 [B, H, W], classes, 255 = ignore.
        boxes: float32 [B, N, 4], xyxy in pixels, half-open.
        labels: int64 [B, N], classes, −1 = padding, −2 = region to ignore; None: every box is an object.
        sizes: int64 [B, 2], height and width of the pictures, which lie at the top-left corner; None: they fill all.
        ids: int64 [B], which images these are; None: 0 to B − 1.
        seed: Of all draws, from −2⁶³ to 2⁶³ − 1; None: one from torch's generator.
        visit: How often these images were seen before; another number is another draw.

    Raises:
        ValueError: Shapes, types or ranges do not fit together.
    """
    _check_kinds(
        config, seed, visit, {"masks": masks, "boxes": boxes, "labels": labels, "sizes": sizes, "ids": ids}, images
    )
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    number_B = torch.arange(len(images), device=images.device)
    if sizes is None:
        sizes = torch.tensor([images.shape[2:]], device=images.device).repeat(len(images), 1)
    matrix_B23 = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    _check(Augmented(images, sizes, matrix_B23, masks, boxes, labels), ids, config.oversample)
    if boxes is not None and labels is None:
        labels = torch.zeros(boxes.shape[:2], dtype=torch.int64, device=boxes.device)
    id_B = number_B if ids is None else ids.to(torch.int64)
    batch = Batch(
        image_B3HW=images,
        valid_B2=sizes,
        id_B=id_B,
        visit_B=torch.full_like(id_B, visit),
        original_B2=sizes,
        matrix_B23=matrix_B23,
        source_B=torch.zeros_like(id_B),
        targets=Targets(mask_BHW=masks, boxes_BN4=boxes, label_BN=labels),
    )
    with torch.no_grad():
        changed = Augment(config)(batch, fold(seed, batch.id_B, batch.visit_B))
    targets = changed.targets
    return Augmented(
        changed.image_B3HW, changed.valid_B2, changed.matrix_B23, targets.mask_BHW, targets.boxes_BN4, targets.label_BN
    )


def augment_s1(images: Tensor, *, settings: Mapping[str, Any] | None = None, **given: Any) -> Augmented:
    """Return the images after Augment-S1: flip, scale jitter 0.8 to 1.2, crop (paper §3.1).

    Args:
        images: uint8, or floating in 0..1, [B, 3, H, W].
        settings: Other than the defaults of `S1Config`.
        **given: As for `augment_with`.

    Raises:
        ValueError: Shapes, types or ranges do not fit together, or a setting is wrong.
    """
    return augment_with(_config(S1Config, settings), images, **given)


def augment_s2(images: Tensor, *, settings: Mapping[str, Any] | None = None, **given: Any) -> Augmented:
    """Return the images after Augment-S2: AutoAugment and what S1 does; arguments as for `augment_s1`, `S2Config`."""
    return augment_with(_config(S2Config, settings), images, **given)


def augment_s3(images: Tensor, *, settings: Mapping[str, Any] | None = None, **given: Any) -> Augmented:
    """Return the images after Augment-S3: AutoAugment, jitter 0.5 to 2.0; arguments as for `augment_s1`, `S3Config`."""
    return augment_with(_config(S3Config, settings), images, **given)


def augment_s4(images: Tensor, *, settings: Mapping[str, Any] | None = None, **given: Any) -> Augmented:
    """Return the images after Augment-S4: RandAugment, jitter 0.5 to 2.0; arguments as for `augment_s1`, `S4Config`."""
    return augment_with(_config(S4Config, settings), images, **given)


def _config(model: type[S1Config], settings: Mapping[str, Any] | None) -> S1Config:
    try:
        return model.model_validate(dict(settings or {}))
    except ValidationError as error:
        raise ValueError("\n".join(["settings are wrong:", *explain_errors(error.errors())])) from None


def _check_kinds(
    config: S1Config, seed: int | None, visit: int, others: Mapping[str, Tensor | None], images: Tensor
) -> None:
    if not isinstance(config, S1Config):
        raise ValueError(f"config is a {type(config).__name__}; wanted is one of selftrain_augment.config, S4Config(…)")
    for name, number in (("seed", seed), ("visit", visit)):
        if number is not None and (not isinstance(number, int) or not -(2**63) <= number < 2**63):
            raise ValueError(f"{name} is {number!r}; wanted is a whole number of 64 bits, the same for the whole batch")
    for name, tensor in {"images": images, **others}.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ValueError(f"{name} are a {type(tensor).__name__}; wanted is a torch.Tensor")
        if tensor is not None and tensor.device != images.device:
            raise ValueError(f"{name} are on {tensor.device}, images on {images.device}; wanted is one device")


def _check(given: Augmented, ids: Tensor | None, oversample: int) -> None:
    images, masks, boxes, labels, sizes = given.images, given.masks, given.boxes, given.labels, given.sizes
    if images.dim() != 4 or images.shape[1] != 3 or not images.shape[2] * images.shape[3]:
        raise ValueError(f"images have shape {tuple(images.shape)}; wanted is [B, 3, H, W]")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; wanted is uint8, or floating point in 0..1")
    number, _, height, width = images.shape
    if height % oversample or width % oversample:
        raise ValueError(f"images of {height} × {width} do not divide by oversample {oversample}")
    if masks is not None and (masks.shape != (number, height, width) or masks.dtype != torch.uint8):
        raise ValueError(f"masks are {_described(masks)}; wanted is torch.uint8 ({number}, {height}, {width})")
    if boxes is not None and (boxes.dim() != 3 or boxes.shape[::2] != (number, 4) or boxes.dtype != torch.float32):
        raise ValueError(f"boxes are {_described(boxes)}; wanted is torch.float32 ({number}, N, 4)")
    if labels is not None:
        if boxes is None:
            raise ValueError("labels are given without boxes; wanted are both, or boxes alone")
        if labels.shape != boxes.shape[:2] or labels.dtype != torch.int64:
            raise ValueError(
                f"labels are {_described(labels)}; wanted is torch.int64 {tuple(boxes.shape[:2])}, one for each box"
            )
    if sizes.shape != (number, 2) or sizes.dtype != torch.int64:
        raise ValueError(f"sizes are {_described(sizes)}; wanted is torch.int64 ({number}, 2)")
    if number and not bool(((sizes >= 1) & (sizes <= sizes.new_tensor([height, width]))).all()):
        raise ValueError(f"sizes are not all between 1 and the images' {height} × {width}")
    if ids is not None and (ids.shape != (number,) or ids.is_floating_point()):
        raise ValueError(f"ids are {_described(ids)}; wanted is one whole number for each of {number} images")
    _check_values(images, boxes, labels)


def _check_values(images: Tensor, boxes: Tensor | None, labels: Tensor | None) -> None:
    if images.is_floating_point() and images.numel():
        low, high = (float(value) for value in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images are from {low:g} to {high:g}; wanted is 0 to 1: divide what goes to 255 by that, and "
                "normalise after augmentation"
            )
    if boxes is not None and boxes.numel():
        x1_BN, y1_BN, x2_BN, y2_BN = boxes.unbind(2)
        is_box_BN = (x1_BN <= x2_BN) & (y1_BN <= y2_BN) & boxes.isfinite().all(2)
        if labels is not None:
            is_box_BN = is_box_BN | (labels == PADDING_LABEL)
        if not bool(is_box_BN.all()):
            wrong = boxes[~is_box_BN][0].tolist()
            raise ValueError(
                f"a box is {wrong}; wanted is [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2: is it [x, y, w, h]?"
            )


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
