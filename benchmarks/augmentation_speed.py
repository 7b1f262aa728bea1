"""Augment-S4 against what others offer: ``augmentation_speed.py DATA``.

In one process, by turns: ours on images, masks and boxes; torchvision's RandAugment, ScaleJitter, crop and flip, image
by image, on images alone; kornia's AugmentationSequential of RandAugment, flip and scale on images, masks and boxes,
which draws one sub-policy for the whole batch. All draw from the same operations at magnitude 10 of their own scales,
take uint8 and give float32 of the same size. DATA is natural5, whose photos are used at each size.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kornia.augmentation as kornia_augmentation
import numpy as np
import torch
from kornia.augmentation.auto import RandAugment
from PIL import Image
from timing import alternating, print_table
from torch import Tensor
from torchvision.transforms import v2

from selftrain_augment.augment import Augment
from selftrain_augment.config import S4Config
from selftrain_core.batch import Batch, Targets
from selftrain_core.keys import fold

NUM_BOXES = 8

KORNIA_OPERATIONS: Any = [
    [("auto_contrast", 0, 1)],
    [("equalize", 0, 1)],
    [("rotate", -30.0, 30.0)],
    [("posterize", 4.0, 8.0)],
    [("solarize", 0.0, 1.0)],
    [("color", 0.1, 1.9)],
    [("contrast", 0.1, 1.9)],
    [("brightness", 0.1, 1.9)],
    [("sharpness", 0.1, 1.9)],
    [("shear_x", -0.3, 0.3)],
    [("shear_y", -0.3, 0.3)],
    [("translate_x", -0.1, 0.1)],
    [("translate_y", -0.1, 0.1)],
]
"""Ours but for the identity, which kornia has not."""


def photos(data: Path, number: int, size: int) -> Tensor:
    """Return photos of the set, uint8 [B, 3, size, size]."""
    paths = sorted((data / "images").iterdir())[:number]
    images = [Image.open(path).convert("RGB").resize((size, size)) for path in paths]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def batch_of(images: Tensor) -> Batch:
    """Return the photos with masks and boxes that are made up."""
    number, size = len(images), images.shape[2]
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(number, NUM_BOXES, 2, generator=generator) * size / 2
    sides = torch.rand(number, NUM_BOXES, 2, generator=generator) * size / 2 + 1
    sizes, ids = torch.full((number, 2), size), torch.arange(number)
    targets = Targets(
        mask_BHW=torch.randint(0, 20, (number, size, size), generator=generator).to(torch.uint8),
        boxes_BN4=torch.cat([corner, corner + sides], dim=2),
        label_BN=torch.zeros(number, NUM_BOXES, dtype=torch.int64),
    )
    return Batch(images, sizes, ids, ids * 0, sizes, torch.eye(2, 3).repeat(number, 1, 1), ids * 0, targets)


def ours(batch: Batch, num_operations: int, visits: Iterator[int]) -> Callable[[], Tensor]:
    """Return Augment-S4 of a batch, drawn anew at each call."""
    augment = Augment(S4Config(num_operations=num_operations))
    return lambda: augment(batch, fold(0, batch.id_B, batch.visit_B + next(visits))).image_B3HW


def torchvisions(images: Tensor, num_operations: int) -> Callable[[], Tensor]:
    """Return torchvision's transforms of the images, one image after the other."""
    size = tuple(images.shape[2:])
    transform = v2.Compose(
        [
            v2.RandAugment(num_ops=num_operations, magnitude=10),
            v2.ScaleJitter(size, (0.5, 2.0)),
            v2.RandomCrop(size, pad_if_needed=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return lambda: torch.stack([transform(image) for image in images])


def kornias(batch: Batch, num_operations: int) -> Callable[[], Tensor]:
    """Return kornia's transforms of the batch with its masks and boxes."""
    rand_augment: Any = RandAugment(n=num_operations, m=10, policy=KORNIA_OPERATIONS)
    sequence = kornia_augmentation.AugmentationSequential(
        rand_augment,
        kornia_augmentation.RandomHorizontalFlip(p=0.5),
        kornia_augmentation.RandomAffine(degrees=0.0, scale=(0.5, 2.0), p=1.0),
        data_keys=["input", "mask", "bbox_xyxy"],
    )
    mask_BHW, boxes_BN4 = batch.targets.mask_BHW, batch.targets.boxes_BN4
    assert mask_BHW is not None and boxes_BN4 is not None

    def run() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image, _, _ = sequence(batch.image_B3HW.float() / 255, mask_BHW[:, None].float(), boxes_BN4)
        result: Tensor = image
        return result

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 640])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for size, num_operations in itertools.product(given.sizes, (1, 2)):
        batch = batch_of(photos(given.data, given.batch, size)).to(given.device)
        ways = {
            "ours": ours(batch, num_operations, itertools.count()),
            "torchvision": torchvisions(batch.image_B3HW, num_operations),
            "kornia": kornias(batch, num_operations),
        }
        for name, way in ways.items():
            found = way()
            assert found.shape == batch.image_B3HW.shape and found.dtype == torch.float32, name
        taken = alternating({name: _finished(way, given.device) for name, way in ways.items()}, given.repeats)
        speeds = {name: given.batch / seconds for name, seconds in taken.items()}
        ratios = [speeds["ours"] / speeds[other] for other in ("torchvision", "kornia")]
        rows.append([f"{size}²", num_operations, *speeds.values(), *ratios])
    heads = ["size", "operations", "ours images/s", "torchvision", "kornia", "ours ÷ torchvision", "ours ÷ kornia"]
    title = f"Augment-S4, batch {given.batch}, float32, {given.device}, median of {given.repeats}"
    print_table(title, heads, rows)


def _finished(way: Callable[[], Tensor], device: str) -> Callable[[], object]:
    def run() -> None:
        way()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    main()
