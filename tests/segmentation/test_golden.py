"""Twenty steps of the real task, float64, one thread, against numbers on file.

A change that is meant to change them: ``make golden``, look at the difference of
``tests/assets/golden-segmentation.json``, and explain it in the changelog.
"""

from pathlib import Path

from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate
from selftrain_core.components import build_backbone, build_policy
from selftrain_core.config_model import BackboneChoice, PolicyChoice
from selftrain_core.geometry import Geometry
from selftrain_core.labels import ScoreStatistics
from selftrain_core.testing.golden import (
    assert_golden,
    drawn_weights,
    golden_predictions,
    golden_steps,
    golden_sums,
)
from selftrain_core.testing.samples import mask_labels, picture, sample
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.decoder_config import FpnDecoder
from selftrain_segmentation.task import SegmentationTask

GOLDEN = Path(__file__).parents[1] / "assets/golden-segmentation.json"
STEPS = 20
CLASSES = ("ground", "sky", "sea")
CANVAS = (64, 64)
SIZES = ((64, 64), (50, 90), (120, 60))


def batch(task: SegmentationTask, step: int) -> Batch:
    policy = build_policy(PolicyChoice.of("core/fixed", threshold=0.4), CLASSES).fit(*[ScoreStatistics.empty(3)] * 2)
    samples = []
    for number, source in enumerate((HUMAN, HUMAN, PSEUDO, PSEUDO, PSEUDO)):
        seed = 100 * step + number
        size = SIZES[seed % 3]
        labels = mask_labels(size, 3, seed, scored=source == PSEUDO)
        decided = task.decide(labels, policy) if source == PSEUDO else None
        targets = task.to_targets(labels, decided, Geometry.fit(size, CANVAS))
        samples.append(sample(picture(size, seed), CANVAS, f"{seed}", visit=step, source=source, targets=targets))
    return collate(samples)


def test_twenty_steps(tmp_path: Path) -> None:
    task = SegmentationTask(
        SegmentationConfig(decoder=FpnDecoder(pyramid_channels=16, segmentation_channels=32, dropout=0)), CLASSES
    )
    backbone = build_backbone(BackboneChoice.of("timm/tf_efficientnet_lite0", init="random"), task.strides)
    backbone.initialise("random")
    model = task.build_model(backbone).double()
    drawn_weights(model)
    rows, trained = golden_steps(task, model, [batch(task, step) for step in range(STEPS)], tmp_path)
    found = golden_predictions(task, trained, batch(task, 0))
    # Predictions are made in float32.
    probabilities = sum(float(prediction.probability_CHW.square().sum()) for prediction in found)
    assert_golden({"steps": rows, "result": {**golden_sums(trained), "probabilities": probabilities}}, GOLDEN)
