"""Twenty steps of the real task, float64, one thread, against numbers on file.

A change that is meant to change them: run this file with ``SELFTRAIN_REGENERATE=1`` in the environment, look at the
difference of ``tests/assets/golden-segmentation.json``, and explain it in the changelog.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate, float_images
from selftrain_core.components import build_backbone, build_policy
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import BackboneChoice, PolicyChoice, StrictModel
from selftrain_core.geometry import Geometry
from selftrain_core.keys import name_key
from selftrain_core.labels import ScoreStatistics
from selftrain_core.objective import NormalisedObjective
from selftrain_core.prediction import evaluating
from selftrain_core.testing.fakes import Brightness
from selftrain_core.testing.samples import draws, mask_labels, picture, sample
from selftrain_core.training import Recipe, TrainingModule
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.decoder_config import FpnDecoder
from selftrain_segmentation.task import SegmentationTask

GOLDEN = Path(__file__).parents[1] / "assets/golden-segmentation.json"
STEPS = 20
CLASSES = ("ground", "sky", "sea")
CANVAS = (64, 64)
SIZES = ((64, 64), (50, 90), (120, 60))


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn_weights(model: nn.Module) -> None:
    """Give every weight a value of its name: no library's order of initialisation enters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                spread = (3 / parameter[0].numel()) ** 0.5
                parameter.copy_((2 * draws(tuple(parameter.shape), name_key(name)) - 1) * spread)
            elif name.endswith("bias"):
                parameter.zero_()


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


class Log(pl.Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        report = pl_module.report
        assert report is not None
        self.rows.append(
            {
                "human_loss": float(report.half_2[HUMAN]),
                "pseudo_loss": float(report.half_2[PSEUDO]),
                "ratio": float(report.ratio),
                "gradient_norm": float(report.gradient_norm),
                "learning_rate": report.learning_rate,
            }
        )


def train(folder: Path) -> dict[str, Any]:
    task = SegmentationTask(
        SegmentationConfig(decoder=FpnDecoder(pyramid_channels=16, segmentation_channels=32, dropout=0)), CLASSES
    )
    backbone = build_backbone(BackboneChoice.of("timm/tf_efficientnet_lite0", init="random"), task.strides)
    backbone.initialise("random")
    model = task.build_model(backbone).double()
    drawn_weights(model)
    # Short steps: with long ones rounding errors grow, within twenty steps, into another training.
    training = TrainingConfig(
        steps=STEPS, ema_decay=0.9, optimizer=OptimizerConfig(name="sgd", lr=0.002, warmup_steps=4, gradient_clip=1)
    )
    recipe = Recipe("round-1/student", seed=3, steps=STEPS, images_per_step=5, training=training)
    objective = NormalisedObjective(task.terms, alpha=0.5, decay=0.9)
    module = TrainingModule(model, task, Brightness(StrictModel()), objective, recipe, folder)
    log = Log()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[log],
    )  # fmt: skip
    steps: Any = [[batch(task, step)] for step in range(STEPS)]
    trainer.fit(module, DataLoader(steps, batch_size=None, collate_fn=lambda item: item))
    return {"steps": log.rows, "result": result(task, module.result)}


def result(task: SegmentationTask, model: nn.Module) -> dict[str, float]:
    """Return sums over the averaged model, and its probabilities of one batch."""
    one = batch(task, 0)
    with evaluating(model):
        found = task.predict(model, replace(one, image_B3HW=float_images(one.image_B3HW, torch.float64)))
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {
        "parameters": float(parameters.abs().sum()),
        "buffers": sum(float(b.double().abs().sum()) for b in model.buffers()),
        "probabilities": sum(float(p.probability_CHW.square().sum()) for p in found),
    }


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_twenty_steps(tmp_path: Path) -> None:
    found = train(tmp_path)
    if os.environ.get("SELFTRAIN_REGENERATE"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for step, (row, expected) in enumerate(zip(found["steps"], golden["steps"], strict=True)):
        assert row == pytest.approx(expected, rel=1e-6), f"step {step}"
    # Predictions are made in float32.
    assert found["result"] == pytest.approx(golden["result"], rel=1e-6)
