"""Images, labels and batches to test with: drawn from keys, so the same everywhere.

Shape letters as in `selftrain_core.batch`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selftrain_core.batch import HUMAN, Batch, Targets, collate
from selftrain_core.geometry import Geometry
from selftrain_core.keys import fold, uniform
from selftrain_core.labels import (
    HISTOGRAM_BINS,
    IGNORE,
    IGNORE_LABEL,
    KEEP,
    PADDING_LABEL,
    BoxLabels,
    ClassLabels,
    Decisions,
    Labels,
    MaskLabels,
    ScoreStatistics,
)
from selftrain_core.samples import one_image


def draws(shape: tuple[int, ...], *key: int) -> Tensor:
    """Return float32 draws in [0, 1) of any shape, a function of `key` alone."""
    places = torch.arange(int(np.prod(shape)), dtype=torch.int64)
    return uniform(fold(0, *key, places), 0).reshape(shape)


def picture(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Return an image of coloured blocks, uint8 [height, width, 3]."""
    blocks = (draws((5, 5, 3), seed, 1) * 255).to(torch.uint8).numpy()
    rows, columns = (np.arange(side) * 5 // side for side in size)
    return np.ascontiguousarray(blocks[rows[:, None], columns])


def mask_labels(size: tuple[int, int], num_classes: int, seed: int, *, scored: bool) -> MaskLabels:
    """Return a class map of blocks; one block in eight of a person's is ignored.

    Scores are multiples of 1/64, as stores keep them.
    """
    rows, columns = (np.arange(side) * 4 // side for side in size)
    block_44 = (draws((4, 4), seed, 2) * num_classes).to(torch.uint8).numpy()
    if not scored:
        block_44[draws((4, 4), seed, 3).numpy() < 0.125] = IGNORE
        return MaskLabels(np.ascontiguousarray(block_44[rows[:, None], columns]))
    scores_HW = torch.floor(draws(size, seed, 4) * HISTOGRAM_BINS).numpy() / np.float32(HISTOGRAM_BINS)
    return MaskLabels(np.ascontiguousarray(block_44[rows[:, None], columns]), scores_HW.astype(np.float32))


def box_labels(size: tuple[int, int], num_classes: int, seed: int, *, scored: bool, count: int = 3) -> BoxLabels:
    """Return boxes inside an image of `size`, each at least a pixel wide and high where the image is."""
    height, width = size
    corner_N4 = draws((count, 4), seed, 5).numpy().astype(np.float64)
    left, top = corner_N4[:, 0] * 0.6 * width, corner_N4[:, 1] * 0.6 * height
    right = np.minimum(width, left + np.maximum(1, (0.2 + 0.2 * corner_N4[:, 2]) * width))
    bottom = np.minimum(height, top + np.maximum(1, (0.2 + 0.2 * corner_N4[:, 3]) * height))
    labels_N = (draws((count,), seed, 6) * num_classes).to(torch.int64).numpy()
    scores_N = draws((count,), seed, 7).numpy() if scored else None
    return BoxLabels(np.stack([left, top, right, bottom], 1).astype(np.float32), labels_N, scores_N)


def class_labels(num_classes: int, seed: int, *, scored: bool) -> ClassLabels:
    """Return a class of an image."""
    class_1 = (draws((1,), seed, 9) * num_classes).to(torch.int64).numpy()
    return ClassLabels(class_1, draws((1,), seed, 10).numpy() if scored else None)


def score_statistics(num_classes: int, seed: int, *, images: int = 4, scored: bool = True) -> ScoreStatistics:
    """Return the statistics of a few drawn class maps."""
    total = ScoreStatistics.empty(num_classes)
    for image in range(images):
        labels = mask_labels((16, 16), num_classes, seed * 1000 + image, scored=scored)
        total = total + ScoreStatistics.of(labels.classes_HW, labels.scores_HW, num_classes)
    return total


def num_scores(labels: Labels) -> tuple[int, ...]:
    """Return the shape of the labels' scores, known or not: what decisions on them have."""
    if isinstance(labels, ClassLabels):
        return labels.class_1.shape
    return labels.classes_HW.shape if isinstance(labels, MaskLabels) else labels.labels_N.shape


def decisions(labels: Labels, action: int = KEEP, weight: float = 1.0) -> Decisions:
    """Return one decision for every element of `labels`."""
    shape = num_scores(labels)
    return Decisions(np.full(shape, action, np.int8), np.full(shape, weight, np.float32))


def sample(
    image_HW3: NDArray[np.uint8],
    canvas: tuple[int, int],
    id_: str,
    *,
    visit: int = 0,
    source: int = HUMAN,
    targets: Targets | None = None,
) -> Batch:
    """Return an image on its canvas, without a batch axis."""
    given = targets if targets is not None else Targets()
    return one_image(Image.fromarray(image_HW3), canvas, id_, visit=visit, source=source, targets=lambda _: given)


def object_batch(num_images: int, canvas: tuple[int, int] = (64, 96), *, with_targets: bool = True) -> Batch:
    """Return a batch in which each image shows one bright rectangle of class 1, as mask, box and class of the image.

    Images come in three sizes, so that some leave a part of the canvas empty; original pixels are half as large as
    canvas pixels or smaller. Each image has four boxes: the rectangle, an ignore region, and two of padding.
    """
    return collate([_object(number, canvas, with_targets) for number in range(num_images)])


def _object(number: int, canvas: tuple[int, int], with_targets: bool) -> Batch:
    height, width = canvas
    size = ((2 * height, 2 * width), (2 * height, 3 * width // 2), (3 * height // 2, 3 * width))[number % 3]
    geometry = Geometry.fit(size, canvas)
    image_HW3 = picture(size, number) // 2
    top, left = (int(side * (0.25 + 0.2 * float(u))) for side, u in zip(size, draws((2,), number, 8), strict=True))
    bottom, right = top + size[0] // 3, left + size[1] // 3
    image_HW3[top:bottom, left:right] = (250, 240, 200)
    scale = geometry.matrix_23[[0, 1], [0, 1]]
    box_4 = np.array([left, top, right, bottom]) * np.tile(scale, 2)
    mask_HW = np.full(canvas, IGNORE, np.uint8)
    mask_HW[: geometry.valid[0], : geometry.valid[1]] = 0
    x0, y0, x1, y1 = np.round(box_4).astype(int)
    mask_HW[y0:y1, x0:x1] = 1
    targets = Targets(
        mask_BHW=torch.from_numpy(mask_HW),
        weight_BHW=torch.from_numpy((mask_HW != IGNORE).astype(np.float32)),
        boxes_BN4=torch.tensor([box_4.tolist(), [0, 0, 9, 7], [0] * 4, [0] * 4], dtype=torch.float32),
        label_BN=torch.tensor([1, IGNORE_LABEL, PADDING_LABEL, PADDING_LABEL]),
        weight_BN=torch.tensor([0.75, 1.0, 0.0, 0.0]),
        class_B=torch.tensor(1),
        class_weight_B=torch.tensor(0.75),
        canvas_B2=torch.tensor(canvas),
    )
    return sample(image_HW3, canvas, f"object-{number}", targets=targets if with_targets else None)


def write_images(folder: Path, ids: list[str], *, size: tuple[int, int] = (20, 30), suffix: str = ".png") -> list[Path]:
    """Write an image for each id below `folder`, and return the paths."""
    paths = []
    for number, id_ in enumerate(ids):
        path = folder / f"{id_}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture((size[0] + number, size[1]), number)).save(path)
        paths.append(path)
    return paths


def write_masks(folder: Path, ids: list[str], num_classes: int, *, size: tuple[int, int] = (20, 30)) -> list[Path]:
    """Write an index mask for each image that `write_images` writes for the same ids and size."""
    paths = []
    for number, id_ in enumerate(ids):
        path = folder / f"{id_}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = mask_labels((size[0] + number, size[1]), num_classes, number, scored=False)
        Image.fromarray(labels.classes_HW).save(path)
        paths.append(path)
    return paths
