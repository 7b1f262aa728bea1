"""bfloat16 inside the model, and nowhere else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from selftrain_core.augmentation import NoAugmentation
from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.geometry import Geometry
from selftrain_core.objective import NormalisedObjective
from selftrain_core.precision import InPrecision, Precision, forward
from selftrain_core.prediction import predictions
from selftrain_core.samples import PictureDataset
from selftrain_core.stepping import Recipe
from selftrain_core.testing import assert_equal, is_equal
from selftrain_core.testing.fakes import PixelTask, TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import mask_labels, picture, sample, write_images
from selftrain_core.training import TrainingModule

TASK = PixelTask(StrictModel(), ("ground", "red", "green"))


class Nested(nn.Module):
    """Gives the outputs of a convolution in whatever nesting, and remembers the type that was computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.seen: list[torch.dtype] = []

    def forward(self, images: Tensor) -> Any:
        found = self.layer(images)
        self.seen.append(found.dtype)
        return {4: found, "more": [found, (found.argmax(1), "text")]}


def model() -> nn.Module:
    torch.manual_seed(0)
    return TASK.build_model(TinyBackbone(TinyBackboneConfig()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_leaves_a_model_as_it_is(dtype: torch.dtype) -> None:
    images, module = torch.rand(2, 3, 32, 32, dtype=dtype), model().to(dtype)
    assert_equal(forward(module, images, "float32"), module(images), "outputs")


def test_bf16_computes_in_bfloat16_and_gives_float32() -> None:
    module = Nested()
    found = InPrecision(module, "bf16")(torch.rand(1, 3, 4, 4))
    assert module.seen == [torch.bfloat16]
    ((classes, text)) = found["more"][1]
    assert (found[4].dtype, found["more"][0].dtype, classes.dtype, text) == (
        torch.float32, torch.float32, torch.int64, "text",
    )  # fmt: skip
    assert not torch.is_autocast_enabled("cpu")


def test_predictions_in_bf16_are_float32_and_near(tmp_path: Path) -> None:
    paths = write_images(tmp_path, ["a", "b"])
    dataset = PictureDataset([(path.stem, path) for path in paths], (32, 32))
    module, cpu = model(), torch.device("cpu")
    precisions: tuple[Precision, ...] = ("float32", "bf16")
    exact, coarse = (
        [
            r.prediction.probability_CHW
            for (r, *_) in predictions(module, TASK, dataset, [[0], [1]], cpu, 0, precision=p)
        ]
        for p in precisions
    )
    assert all(found.dtype == torch.float32 for found in coarse)
    assert not is_equal(coarse, exact)
    assert_equal(coarse, exact, "probabilities", atol=0.02)


def batch(seed: int) -> Batch:
    samples = []
    for number, source in enumerate((HUMAN, HUMAN, PSEUDO, PSEUDO)):
        labels = mask_labels((32, 32), 3, seed + number, scored=False)
        targets = TASK.to_targets(labels, None, Geometry.fit((32, 32), (32, 32)))
        image = picture((32, 32), seed + number)
        samples.append(sample(image, (32, 32), str(seed + number), source=source, targets=replace(targets)))
    return collate(samples)


def trained(folder: Path, precision: Precision) -> TrainingModule:
    training = TrainingConfig(optimizer=OptimizerConfig(lr=0.01, warmup_steps=0))
    recipe = Recipe("round-1/student", seed=0, steps=3, images_per_step=4, training=training)
    objective, augmentation = NormalisedObjective(TASK.terms, 1), NoAugmentation(StrictModel())
    module = TrainingModule(model(), TASK, augmentation, objective, recipe, folder, precision=precision)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    items: Any = [[batch(10 * step), batch(10 * step + 5)] for step in range(3)]
    trainer.fit(module, DataLoader(items, batch_size=None, collate_fn=lambda item: item))
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_training_in_bf16_keeps_weights_and_losses_wide(tmp_path: Path) -> None:
    exact, coarse = (trained(tmp_path, precision) for precision in ("float32", "bf16"))
    assert {value.dtype for value in coarse.model.state_dict().values()} == {torch.float32}
    assert coarse.report is not None and exact.report is not None
    assert coarse.report.half_2.dtype == torch.float64
    assert coarse.skipped_steps == 0
    assert not torch.equal(coarse.report.half_2, exact.report.half_2)
    assert_equal(coarse.report.half_2, exact.report.half_2, "losses", atol=0.02)
