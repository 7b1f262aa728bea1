"""The augmentations as functions on plain tensors, for those who train in a loop of their own.

Shape letters: B = images, N = boxes per image, H, W = height and width.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.checks import check_kinds, check_values
from selftrain_augment.config import S1Config, S2Config, S3Config, S4Config, SimClrConfig
from selftrain_augment.simclr import SimClr
from selftrain_core.batch import Batch, Targets
from selftrain_core.config_text import explain_errors
from selftrain_core.keys import fold


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
    config: S1Config | SimClrConfig,
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
    others = {"masks": masks, "boxes": boxes, "labels": labels, "sizes": sizes, "ids": ids}
    check_kinds(config, seed, visit, images, others)
    if sizes is None:
        sizes = torch.tensor([images.shape[2:]], device=images.device).repeat(len(images), 1)
    check_values(images, {**others, "sizes": sizes}, config.oversample)
    matrix_B23 = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    if boxes is not None and labels is None:
        labels = torch.zeros(boxes.shape[:2], dtype=torch.int64, device=boxes.device)
    id_B = torch.arange(len(images), device=images.device) if ids is None else ids.to(torch.int64)
    batch = Batch(
        image_B3HW=images.clamp(0, 1) if images.is_floating_point() else images,
        valid_B2=sizes,
        id_B=id_B,
        visit_B=torch.full_like(id_B, operator.index(visit)),
        original_B2=sizes,
        matrix_B23=matrix_B23,
        source_B=torch.zeros_like(id_B),
        targets=Targets(mask_BHW=masks, boxes_BN4=boxes, label_BN=labels),
    )
    drawn = int(torch.randint(2**62, ())) if seed is None else operator.index(seed)
    augmentation = SimClr(config) if isinstance(config, SimClrConfig) else Augment(config)
    changed = augmentation(batch, fold(drawn, batch.id_B, batch.visit_B))
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
