"""Average precision by pycocotools and by faster-coco-eval: ``average_precision_speed.py [--images N]``.

Drawn images of 8 true boxes and 100 predicted ones over 20 classes. Both must give the same scores.
"""

from __future__ import annotations

import argparse
from typing import Literal

import numpy as np
import torch
from timing import alternating, print_table

from selftrain_core.labels import BoxLabels
from selftrain_core.testing.samples import box_labels
from selftrain_detection.metric import AveragePrecision
from selftrain_detection.prediction import BoxPrediction

NUM_CLASSES, NUM_PREDICTED, NUM_TRUE = 20, 100, 8
SIZE = (480, 640)
BACKENDS: tuple[Literal["pycocotools", "faster_coco_eval"], ...] = ("pycocotools", "faster_coco_eval")


def drawn(number: int) -> tuple[BoxPrediction, BoxLabels]:
    """Return what is predicted of an image and what is true: the first predictions are the truth, moved a little."""
    truth = box_labels(SIZE, NUM_CLASSES, number, scored=False, count=NUM_TRUE)
    guess = box_labels(SIZE, NUM_CLASSES, 10**6 + number, scored=True, count=NUM_PREDICTED)
    assert guess.scores_N is not None
    boxes_N4, labels_N = guess.boxes_N4.copy(), guess.labels_N.copy()
    boxes_N4[:NUM_TRUE], labels_N[:NUM_TRUE] = truth.boxes_N4 + 4, truth.labels_N
    scores_N = np.sort(guess.scores_N)[::-1].copy()
    return BoxPrediction(*map(torch.from_numpy, (boxes_N4, scores_N, labels_N)), SIZE), truth


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    images = [drawn(number) for number in range(given.images)]
    metrics = {name: AveragePrecision([f"class {n}" for n in range(NUM_CLASSES)], backend=name) for name in BACKENDS}
    for metric in metrics.values():
        for prediction, truth in images:
            metric.update(prediction, truth)
    first, second = (metric.compute() for metric in metrics.values())
    assert first.keys() == second.keys() and all(abs(first[key] - second[key]) < 1e-9 for key in first), "scores differ"
    taken = alternating({name: metric.compute for name, metric in metrics.items()}, given.repeats)
    title = f"Average precision of {given.images} images × {NUM_PREDICTED} boxes, median of {given.repeats}"
    seconds = [taken[name] for name in BACKENDS]
    print_table(
        title,
        ["AP", "pycocotools s", "faster-coco-eval s", "ratio"],
        [[first["ap"], *seconds, seconds[0] / seconds[1]]],
    )


if __name__ == "__main__":
    main()
