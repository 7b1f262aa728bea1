"""Twenty steps of the real task, float64, one thread, against numbers on file.

A change that is meant to change them: ``make golden``, look at the difference of
``tests/assets/golden-detection.json``, and explain it in the changelog.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate
from selftrain_core.components import build_backbone, build_policy
from selftrain_core.config_model import BackboneChoice, PolicyChoice
from selftrain_core.geometry import Geometry
from selftrain_core.labels import DROP, IGNORE_LABEL, IGNORED, KEEP, PADDING_LABEL, BoxLabels, ScoreStatistics
from selftrain_core.testing.golden import (
    assert_golden,
    drawn_weights,
    golden_predictions,
    golden_steps,
    golden_sums,
)
from selftrain_core.testing.samples import box_labels, draws, picture, sample
from selftrain_detection.config import BoxPredictionConfig, DetectionConfig, HeadConfig
from selftrain_detection.model import RetinaNet
from selftrain_detection.prediction import BoxPrediction
from selftrain_detection.task import DetectionTask

GOLDEN = Path(__file__).parents[1] / "assets/golden-detection.json"
STEPS = 20
CLASSES = ("nut", "bolt", "nail")
CANVAS = (64, 96)
SIZES = ((64, 96), (50, 90), (120, 60))
HALVES = (HUMAN, HUMAN, PSEUDO, PSEUDO, PSEUDO)
POLICY = build_policy(PolicyChoice.of("core/fixed", threshold=0.4, ignore_above=0.2), CLASSES).fit(
    ScoreStatistics.empty(3), ScoreStatistics.empty(3)
)


def labels_of(seed: int, source: int) -> BoxLabels:
    """Return up to four boxes; of a person's, some are crowds and some regions to ignore."""
    found = box_labels(SIZES[seed % 3], 3, seed, scored=source == PSEUDO, count=seed % 5)
    if source == PSEUDO:
        return found
    kind_N = draws((len(found),), seed, 11).numpy()
    return replace(found, labels_N=np.where(kind_N < 0.15, IGNORE_LABEL, found.labels_N), crowds_N=kind_N > 0.85)


def batch(task: DetectionTask, step: int) -> Batch:
    samples = []
    for number, source in enumerate(HALVES):
        seed = 7 * step + number
        size, labels = SIZES[seed % 3], labels_of(seed, source)
        decided = task.decide(labels, POLICY) if source == PSEUDO else None
        targets = task.to_targets(labels, decided, Geometry.fit(size, CANVAS))
        samples.append(sample(picture(size, seed), CANVAS, f"{seed}", visit=step, source=source, targets=targets))
    return collate(samples)


def new_task(places: int = 3) -> DetectionTask:
    """Return the task; there is room for `places` boxes, by default one less than there may be."""
    return DetectionTask(
        DetectionConfig(
            head=HeadConfig(num_convs=2, channels=16),
            max_boxes=places,
            prediction=BoxPredictionConfig(floor=0.0, max_detections=places),  # it is not sure of anything yet
        ),
        CLASSES,
    )


def new_model(task: DetectionTask) -> RetinaNet:
    backbone = build_backbone(BackboneChoice.of("timm/tf_efficientnet_lite0", init="random"), task.strides)
    backbone.initialise("random")
    model = task.build_model(backbone).double()
    assert isinstance(model, RetinaNet)
    bias = model.head.classes.predictor.bias
    assert bias is not None
    prior = bias.detach().clone()
    drawn_weights(model)
    bias.data.copy_(prior)
    return model


def sums(predictions: list[BoxPrediction]) -> dict[str, float]:
    return {
        "found": sum(len(each.scores_N) for each in predictions),
        "boxes": sum(float(each.boxes_N4.double().sum()) for each in predictions),
        "scores": sum(float(each.scores_N.double().sum()) for each in predictions),
        "labels": sum(int(each.labels_N.sum()) for each in predictions),
    }


def test_the_steps_show_everything_that_boxes_can_be() -> None:
    task = new_task()
    human = [labels_of(7 * step + n, HUMAN) for step in range(STEPS) for n in (0, 1)]
    pseudo = [labels_of(7 * step + n, PSEUDO) for step in range(STEPS) for n in (2, 3, 4)]
    assert any(len(each) == 0 for each in human)
    assert any(len(each) == 0 for each in pseudo)
    assert any((each.labels_N == IGNORE_LABEL).any() for each in human)
    assert any(each.crowds_N is not None and each.crowds_N.any() for each in human)
    assert any(task.overflow(each) for each in human)
    decided = np.concatenate([task.decide(each, POLICY).actions for each in pseudo])
    assert set(decided.tolist()) == {KEEP, IGNORED, DROP}
    label_BN = batch(task, 0).targets.label_BN
    assert label_BN is not None
    assert (label_BN == PADDING_LABEL).any()


def test_twenty_steps(tmp_path: Path) -> None:
    task = new_task()
    model = new_model(task)
    rows, trained = golden_steps(task, model, [batch(task, step) for step in range(STEPS)], tmp_path)
    # Predictions are made in float32. No choice among the boxes is close: noise of 1e-6 in the head changes none.
    predicting = new_task(20)
    result = {**golden_sums(trained), **sums(golden_predictions(predicting, trained, batch(predicting, 0)))}
    assert_golden({"steps": rows, "result": result}, GOLDEN)
