"""Trains the tiny model for 20 steps in float64 and writes what came of it: ``FOLDER DEVICES MICRO_BATCHES``.

Run by `test_distributed.py`.
"""

import torch

from selftrain_core.batch import HUMAN, PSEUDO, Batch
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.geometry import Geometry
from selftrain_core.labels import IGNORE
from selftrain_core.testing.drawn import Drawn, main, spoilt
from selftrain_core.testing.fakes import PixelTask, TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import decisions, draws, mask_labels, picture, sample

STEPS = 20
NUM_PSEUDO = (4, 1, 3, 0)
"""Pseudo images of the steps, in turn: cut into four parts, some parts have fewer than others, or none."""
NAN_STEP = 6
SIZES = ((32, 32), (20, 32), (32, 11))
TASK = PixelTask(StrictModel(), ("ground", "red", "green"))


def draw(step: int, source: int, number: int) -> Batch:
    seed = step * 100 + source * 10 + number
    size = SIZES[seed % len(SIZES)]
    labels = mask_labels(size, 3, seed, scored=source == PSEUDO)
    # From none to all of an image is ignored.
    labels.classes_HW[draws(size, seed, 1).numpy() < (seed % 4) / 3] = IGNORE
    decided = None if source == HUMAN else decisions(labels, weight=0.5 + 0.5 * (number % 2))
    targets = TASK.to_targets(labels, decided, Geometry.fit(size, (32, 32)))
    drawn = sample(picture(size, seed), (32, 32), str(seed), visit=step, source=source, targets=targets)
    return spoilt(drawn) if (step, source, number) == (NAN_STEP, HUMAN, 0) else drawn


def make() -> Drawn:
    torch.manual_seed(0)
    model = TASK.build_model(TinyBackbone(TinyBackboneConfig(width=4), "", TASK.strides)).double()
    training = TrainingConfig(
        steps=STEPS,
        human=4,
        # Not adamw, which forgives a gradient that is wrong by a factor.
        optimizer=OptimizerConfig(name="sgd", lr=0.2, weight_decay=0.01, warmup_steps=3, gradient_clip=0.5),
        ema_decay=0.9,
    )
    return Drawn(TASK, model, draw, training, NUM_PSEUDO)


if __name__ == "__main__":
    main(make)
