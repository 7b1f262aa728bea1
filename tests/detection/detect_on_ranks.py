"""Trains a small RetinaNet for 20 steps in float64 and writes what came of it: ``FOLDER DEVICES MICRO_BATCHES``.

Run by `test_ranks.py`.
"""

from torch import nn

from selftrain_core.batch import HUMAN, PSEUDO, Batch
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.geometry import Geometry
from selftrain_core.policies import FixedDecision
from selftrain_core.testing.drawn import Drawn, main, spoilt
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.golden import drawn_weights
from selftrain_core.testing.samples import box_labels, picture, sample
from selftrain_detection.config import BoxPredictionConfig, DetectionConfig, HeadConfig, NeckConfig
from selftrain_detection.task import DetectionTask

STEPS = 20
NUM_PSEUDO = (4, 1, 3, 0)
"""Pseudo images of the steps, in turn: cut into four parts, some parts have fewer than others, or none."""
NAN_STEP = 6
WITHOUT_BOXES = {(HUMAN, 2), (HUMAN, 9), (PSEUDO, 4), (PSEUDO, 9), (PSEUDO, 13)}
"""Halves, as (source, step), whose images hold no box."""
CANVAS = (64, 96)
SIZES = ((64, 96), (40, 96), (64, 33))
TASK = DetectionTask(
    DetectionConfig(
        head=HeadConfig(num_convs=1, channels=8),
        neck=NeckConfig(batch_norm=False),
        max_boxes=4,
        prediction=BoxPredictionConfig(max_detections=4),
    ),
    ("nut", "bolt"),
)
POLICY = FixedDecision(0.5, 0.25)


def draw(step: int, source: int, number: int) -> Batch:
    seed = step * 100 + source * 10 + number
    size = SIZES[seed % len(SIZES)]
    # Numbers of boxes differ within a half, and so do those of positive anchors.
    count = 0 if (source, step) in WITHOUT_BOXES else (3, 1, 0, 4)[(seed + step) % 4]
    if (step, source, number) == (NAN_STEP, HUMAN, 0):
        count = 2
    labels = box_labels(size, 2, seed, scored=source == PSEUDO, count=count)
    decided = None if source == HUMAN else TASK.decide(labels, POLICY)
    targets = TASK.to_targets(labels, decided, Geometry.fit(size, CANVAS))
    drawn = sample(picture(size, seed), CANVAS, str(seed), visit=step, source=source, targets=targets)
    return spoilt(drawn) if (step, source, number) == (NAN_STEP, HUMAN, 0) else drawn


def without_batch_norm(module: nn.Module) -> None:
    """Take batch norm out: it sees one micro-batch of one rank at a time, and so is another thing on several."""
    for name, part in module.named_children():
        if isinstance(part, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(part)


def make() -> Drawn:
    model = TASK.build_model(TinyBackbone(TinyBackboneConfig(width=4), "", TASK.strides)).double()
    without_batch_norm(model)
    drawn_weights(model)  # as they are initialised, the predictors are so small that hardly anything else moves
    training = TrainingConfig(
        steps=STEPS,
        human=4,
        # Not adamw, which forgives a gradient that is wrong by a factor.
        optimizer=OptimizerConfig(name="sgd", lr=0.05, weight_decay=0.01, warmup_steps=3, gradient_clip=0.5),
        ema_decay=0.9,
    )
    return Drawn(TASK, model, draw, training, NUM_PSEUDO)


if __name__ == "__main__":
    main(make)
