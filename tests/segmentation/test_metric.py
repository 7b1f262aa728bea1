"""Mean IoU against a naive reference."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_core.testing.samples import draws
from selftrain_segmentation.metric import MeanIoU, scores
from selftrain_segmentation.prediction import SegmentationPrediction

CPU = torch.device("cpu")


def drawn_map(seed: int, classes: int, size: tuple[int, int] = (5, 6)) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = (draws(size, seed, 1).numpy() * classes).astype(np.uint8)
    return found


def certain(classes_HW: NDArray[np.uint8], num_classes: int) -> SegmentationPrediction:
    one_hot = torch.from_numpy(classes_HW)[None] == torch.arange(num_classes)[:, None, None]
    return SegmentationPrediction(one_hot.float(), (classes_HW.shape[0], classes_HW.shape[1]))


def naive(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], names: tuple[str, ...]) -> dict[str, float]:
    """Count pixel by pixel over all images together."""
    found: dict[str, float] = {}
    right = total = 0
    for index, name in enumerate(names):
        intersection = union = 0
        for predicted, truth in pairs:
            for p, t in zip(predicted.ravel(), truth.ravel(), strict=True):
                if t != IGNORE:
                    intersection += p == t == index
                    union += index in (p, t)
        if union:
            found[f"iou/{name}"] = 100 * intersection / union
    for predicted, truth in pairs:
        right += int(((predicted == truth) & (truth != IGNORE)).sum())
        total += int((truth != IGNORE).sum())
    ious = list(found.values())
    return {"miou": sum(ious) / len(ious) if ious else 0.0, "pixel_accuracy": 100 * right / max(1, total), **found}


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 5), st.integers(1, 5))
def test_against_a_naive_count(seed: int, images: int, num_classes: int, used: int) -> None:
    names = tuple(f"class {n}" for n in range(num_classes))
    metric, pairs = MeanIoU(names, CPU), []
    for image in range(images):
        predicted = drawn_map(seed + image, min(used, num_classes))
        truth = drawn_map(seed + image + 100, min(used, num_classes))
        truth[draws(truth.shape, seed + image, 2).numpy() < 0.3] = IGNORE
        pairs.append((predicted, truth))
        metric.update(certain(predicted, num_classes), MaskLabels(truth))
    assert metric.compute() == pytest.approx(naive(pairs, names))


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    truth = np.array([[0, 1]], np.uint8)
    metric = MeanIoU(("a", "b", "c"), CPU)
    metric.update(certain(truth, 3), MaskLabels(truth))
    assert metric.compute() == {"miou": 100, "pixel_accuracy": 100, "iou/a": 100, "iou/b": 100}


def test_a_class_that_is_only_predicted_counts_as_wrong() -> None:
    metric = MeanIoU(("a", "b"), CPU)
    metric.update(certain(np.array([[0, 1]], np.uint8), 2), MaskLabels(np.array([[0, 0]], np.uint8)))
    assert metric.compute() == {"miou": 25, "pixel_accuracy": 50, "iou/a": 50, "iou/b": 0}


def test_what_is_predicted_where_the_truth_is_unknown_does_not_count() -> None:
    metric = MeanIoU(("a", "b"), CPU)
    metric.update(certain(np.array([[0, 1]], np.uint8), 2), MaskLabels(np.array([[0, IGNORE]], np.uint8)))
    assert metric.compute() == {"miou": 100, "pixel_accuracy": 100, "iou/a": 100}


def test_everything_unknown_scores_nothing() -> None:
    assert scores(torch.zeros(2, 2, dtype=torch.float64), ("a", "b")) == {"miou": 0, "pixel_accuracy": 0}


def test_images_are_measured_at_the_truths_resolution() -> None:
    """A prediction of 2×2 on a truth of 4×4: probabilities are interpolated, then decided."""
    truth = np.array([[0, 0, 1, 1]] * 4, np.uint8)
    metric = MeanIoU(("a", "b"), CPU)
    metric.update(certain(np.array([[0, 1], [0, 1]], np.uint8), 2), MaskLabels(truth))
    assert metric.compute()["miou"] == 100


def test_every_pixel_weighs_the_same_whatever_its_image() -> None:
    """mIoU over a data set is no mean over images."""
    large, small = np.zeros((8, 8), np.uint8), np.zeros((1, 1), np.uint8)
    metric = MeanIoU(("a", "b"), CPU)
    metric.update(certain(large, 2), MaskLabels(large))
    metric.update(certain(small + 1, 2), MaskLabels(small))
    assert metric.compute()["iou/a"] == pytest.approx(100 * 64 / 65)
