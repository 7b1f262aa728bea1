"""Average precision as COCO defines it.

Shape letters: N = boxes; T, R, K, A, M = IoU thresholds, recalls, classes, ranges of area and limits of boxes per image
of a COCO evaluation.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from selftrain_core.distributed import gather_objects
from selftrain_core.errors import ConfigError
from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_detection.prediction import BoxPrediction
from selftrain_detection.writing import areas

Backend = Literal["pycocotools", "faster_coco_eval"]

_AREAS = ("all", "small", "medium", "large")
"""COCO's ranges of area, in its order: small is below 32², large above 96² square pixels."""
_IOU_50, _IOU_75 = 0, 5
"""Places of the thresholds 0.50 and 0.75 among 0.50, 0.55, … 0.95."""


@dataclass(frozen=True, slots=True)
class _Image:
    """What was predicted of one image, and what is true of it."""

    key: bytes
    prediction: BoxLabels
    truth: BoxLabels


class AveragePrecision:
    """AP of COCO's evaluation with its standard settings, over all images and ranks, in percent.

    A crowd, and a region to ignore of every class, neither rewards nor punishes what is found in it. Things are small,
    medium or large by their own areas where those are known, else by those of their boxes.

    The scores depend on what was said of the images alone: not on their order, nor on the ranks they were given to.
    COCO orders equal scores by image and place, so images are numbered by a digest of their truth first, which makes
    ties fall alike for every model, and then of their prediction; within an image boxes keep their places.

    Args:
        classes: Ordered class names.
        device: Unused: boxes are matched on the CPU.
        backend: What matches them. ``faster_coco_eval`` finds the same in less time.

    Raises:
        ConfigError: The package of `backend` is not installed.
    """

    def __init__(
        self, classes: Sequence[str], device: torch.device | None = None, backend: Backend = "pycocotools"
    ) -> None:
        self.classes = tuple(classes)
        self._coco = _load(backend)
        self._images: list[_Image] = []

    def update(self, prediction: BoxPrediction, truth: BoxLabels) -> None:
        """Add one image.

        Args:
            prediction: In original pixels.
            truth: In original pixels.
        """
        said = prediction.labels()
        self._images.append(_Image(content_key(said, truth), said, truth))

    def compute(self) -> dict[str, float]:
        """Return the scores, in 0..100.

        ``ap`` is the mean over IoU thresholds from 0.50 to 0.95 and over the classes that the truth holds outside
        crowds, 0 where it holds none; ``ap50`` and ``ap75`` at one threshold; ``ap_small``, ``ap_medium`` and
        ``ap_large`` over things below 32², in between, and above 96² square pixels; ``ap/<class>`` of one class. What
        the truth holds no example of is left out.
        """
        images = [image for of_rank in gather_objects(self._images) for image in of_rank]
        images.sort(key=attrgetter("key"))
        present = _present([image.truth for image in images], len(self.classes))
        scores = {"ap": 0.0}
        if present:
            columns = (_truths([i.truth for i in images], present), _detections([i.prediction for i in images]))
            truth, found = (each.dataset(len(images), present) for each in columns)
            scores |= _scores(_precision(self._coco, truth, found), [self.classes[index] for index in present])
        return scores


def _load(backend: Backend) -> tuple[Any, Any]:
    """Return the classes COCO and COCOeval of a backend."""
    if backend == "pycocotools":
        coco, evaluation = importlib.import_module("pycocotools.coco"), importlib.import_module("pycocotools.cocoeval")
        return coco.COCO, evaluation.COCOeval
    try:
        module = importlib.import_module("faster_coco_eval")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the AP backend 'faster_coco_eval' is not installed\n"
            "  to install it: pip install 'selftrain-detection[faster]'\n"
            "  without it: the backend 'pycocotools' is here, and gives the same scores in more time"
        ) from error
    return module.COCO, module.COCOeval_faster


def content_key(prediction: BoxLabels, truth: BoxLabels) -> bytes:
    """Return what images are put in order by: it starts with what is true of them, and is the same on every machine."""
    return _digest(truth) + _digest(prediction)


def _digest(labels: BoxLabels) -> bytes:
    hashed = hashlib.blake2b(digest_size=16)
    for each in fields(labels):
        value = getattr(labels, each.name)
        hashed.update(b"-" if value is None else np.ascontiguousarray(value).tobytes() + b"+")
    return hashed.digest()


def _crowds(labels: BoxLabels) -> NDArray[np.bool_]:
    return np.zeros(len(labels), np.bool_) if labels.crowds_N is None else labels.crowds_N


def _together(labels: Sequence[BoxLabels]) -> BoxLabels:
    """Return the boxes of all images in one, their crowds and areas filled in; scores are those of all or of none."""
    scores = [each.scores_N for each in labels if each.scores_N is not None]
    return BoxLabels(
        np.concatenate([each.boxes_N4 for each in labels]),
        np.concatenate([each.labels_N for each in labels]),
        np.concatenate(scores) if len(scores) == len(labels) else None,
        np.concatenate([_crowds(each) for each in labels]),
        np.concatenate([areas(each) for each in labels]),
    )


def _present(truths: Sequence[BoxLabels], num_classes: int) -> list[int]:
    """Return the classes that some image holds outside crowds. No others have an AP, so no others are evaluated."""
    counts = np.zeros(num_classes, np.int64)
    for truth in truths:
        told_apart = (truth.labels_N >= 0) & ~_crowds(truth)
        counts += np.bincount(truth.labels_N[told_apart], minlength=num_classes)
    return np.flatnonzero(counts).tolist()


@dataclass(frozen=True, slots=True)
class _Columns:
    """Annotations of all images, column by column.

    Attributes:
        image_N: Image numbers from 1.
        label_N: Class indices.
        boxes_N4: As COCO has them.
        more: What else annotations have, under COCO's keys.
    """

    image_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    boxes_N4: NDArray[np.float64]
    more: dict[str, NDArray[Any]]

    def dataset(self, num_images: int, present: Sequence[int]) -> dict[str, Any]:
        """Return them as the content of a COCO file, those of classes that are not present left out."""
        kept_N = np.isin(self.label_N, present)
        columns = {
            # 0 would be taken for "no match".
            "id": np.arange(1, kept_N.sum() + 1),
            "image_id": self.image_N[kept_N],
            "category_id": self.label_N[kept_N] + 1,
            "bbox": self.boxes_N4[kept_N],
            **{key: column[kept_N] for key, column in self.more.items()},
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return {
            "images": [{"id": number} for number in range(1, num_images + 1)],
            "categories": [{"id": index + 1} for index in present],
            "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
        }


def _truths(truths: Sequence[BoxLabels], present: Sequence[int]) -> _Columns:
    """Return what is true of the images, each region to ignore as a crowd of every class that is present."""
    sizes, labels = [len(truth) for truth in truths], _together(truths)
    is_region_N = labels.labels_N == IGNORE_LABEL
    times_N = np.where(is_region_N, len(present), 1)
    label_N = np.repeat(labels.labels_N, times_N)
    label_N[label_N == IGNORE_LABEL] = np.tile(np.array(present, np.int64), int(is_region_N.sum()))
    place_N = np.repeat(np.arange(len(labels)), times_N)
    crowd_N = (_crowds(labels) | is_region_N).astype(np.int64)
    more = {"area": areas(labels)[place_N], "iscrowd": crowd_N[place_N]}
    return _Columns(_numbers(sizes)[place_N], label_N, _xywh(labels.boxes_N4)[place_N], more)


def _detections(found: Sequence[BoxLabels]) -> _Columns:
    labels = _together(found)
    assert labels.scores_N is not None
    boxes_N4 = _xywh(labels.boxes_N4)
    zero_N = np.zeros(len(labels), np.int64)
    more = {"area": boxes_N4[:, 2] * boxes_N4[:, 3], "iscrowd": zero_N, "score": labels.scores_N.astype(np.float64)}
    return _Columns(_numbers([len(each) for each in found]), labels.labels_N, boxes_N4, more)


def _xywh(boxes_N4: NDArray[np.float32]) -> NDArray[np.float64]:
    start_N2, end_N2 = np.split(boxes_N4.astype(np.float64), 2, axis=1)
    return np.concatenate([start_N2, end_N2 - start_N2], 1)


def _numbers(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return for each box the number of its image, from 1."""
    return np.repeat(np.arange(1, len(sizes) + 1), sizes)


def _precision(coco: tuple[Any, Any], truth: dict[str, Any], found: dict[str, Any]) -> NDArray[np.float64]:
    """Return the precision at each recall, [T, R, K, A, M]; −1 where there is nothing to find."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it does
        loaded = []
        for dataset in (truth, found):
            loaded.append(coco[0]())
            loaded[-1].dataset = dataset
            loaded[-1].createIndex()
        evaluation = coco[1](*loaded, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"]
    return precision


def _scores(precision_TRKAM: NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    all_TRK, *of_size = (precision_TRKAM[..., area, -1] for area in range(len(_AREAS)))
    parts = {
        "ap": all_TRK,
        "ap50": all_TRK[_IOU_50],
        "ap75": all_TRK[_IOU_75],
        **{f"ap_{size}": of_size_TRK for size, of_size_TRK in zip(_AREAS[1:], of_size, strict=True)},
        **{f"ap/{name}": all_TRK[..., place] for place, name in enumerate(names)},
    }
    return {name: 100 * float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}
