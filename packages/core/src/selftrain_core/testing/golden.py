"""A few steps of a task in float64 on one thread, against numbers on file: what is to change no number changes none.

What a task's golden test brings is its model, its batches and what it sums up of the trained model; see those of the
two tasks here.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from selftrain_core.batch import HUMAN, PSEUDO, Batch, float_images
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.interfaces import Task
from selftrain_core.keys import name_key
from selftrain_core.objective import NormalisedObjective
from selftrain_core.prediction import evaluating
from selftrain_core.stepping import Recipe
from selftrain_core.testing.fakes import Brightness
from selftrain_core.testing.samples import draws
from selftrain_core.training import TrainingModule

REGENERATE = "SELFTRAIN_REGENERATE"
"""Where this is in the environment, the numbers are written instead of compared."""
TOLERANCE = 1e-6
"""Relative: the libraries of two machines may sum in another order."""


def drawn_weights(model: nn.Module) -> None:
    """Give every weight a value of its name: no library's order of initialisation enters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                spread = (3 / parameter[0].numel()) ** 0.5
                parameter.copy_((2 * draws(tuple(parameter.shape), name_key(name)) - 1) * spread)
            elif name.endswith("bias"):
                parameter.zero_()


def golden_steps(
    task: Task[Any, Any], model: nn.Module, batches: Sequence[Batch], folder: Path
) -> tuple[list[dict[str, float]], nn.Module]:
    """Return what the steps were like, one row for each, and the averaged model that came of them.

    Args:
        task: Its losses are taken, and no more than its losses.
        model: In float64.
        batches: One for each step, all with the same number of images.
        folder: Where nothing is written unless training fails.
    """
    # Short steps: with long ones rounding errors grow, within twenty steps, into another training.
    training = TrainingConfig(
        steps=len(batches),
        ema_decay=0.9,
        optimizer=OptimizerConfig(name="sgd", lr=0.002, warmup_steps=4, gradient_clip=1),
    )
    recipe = Recipe("round-1/student", seed=3, steps=len(batches), images_per_step=len(batches[0]), training=training)
    objective = NormalisedObjective(task.terms, alpha=0.5, decay=0.9)
    module = TrainingModule(model, task, Brightness(StrictModel()), objective, recipe, folder)
    log = _Log()
    steps: Any = [[batch] for batch in batches]
    with one_thread(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[log],
        )  # fmt: skip
        trainer.fit(module, DataLoader(steps, batch_size=None, collate_fn=_as_is))
    return log.rows, module.result


def golden_sums(model: nn.Module) -> dict[str, float]:
    """Return the sums of the absolute values of a model's parameters and buffers."""
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {
        "parameters": float(parameters.abs().sum()),
        "buffers": sum(float(b.double().abs().sum()) for b in model.buffers()),
    }


def golden_predictions(task: Task[Any, Any], model: nn.Module, batch: Batch) -> list[Any]:
    """Return what a model in float64 predicts of a batch."""
    with one_thread(), evaluating(model):
        return list(task.predict(model, replace(batch, image_B3HW=float_images(batch.image_B3HW, torch.float64))))


def assert_golden(found: Mapping[str, Any], path: Path) -> None:
    """Assert that numbers are those on file, but for rounding; or put them there: see `REGENERATE`.

    Args:
        found: ``steps``, a list of rows, and ``result``, a row.
        path: A JSON file.

    Raises:
        AssertionError: They are others; the message says which, those of the first step that differs.
    """
    if os.environ.get(REGENERATE):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert len(found["steps"]) == len(golden["steps"]), (
        f"{len(found['steps'])} steps, {path} has {len(golden['steps'])}"
    )
    for step, (row, expected) in enumerate(zip(found["steps"], golden["steps"], strict=True)):
        _assert_row(row, expected, f"step {step}")
    _assert_row(found["result"], golden["result"], "result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread within the block: several sum in an order that depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Log(pl.Callback):
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


def _as_is(item: Any) -> Any:
    return item


def _assert_row(row: Mapping[str, float], expected: Mapping[str, float], where: str) -> None:
    assert set(row) == set(expected), f"{where}: {sorted(row)}, expected {sorted(expected)}"
    wrong = [
        f"{name} {row[name]!r}, expected {value!r}"
        for name, value in expected.items()
        if not math.isclose(row[name], value, rel_tol=TOLERANCE, abs_tol=1e-12)
    ]
    assert not wrong, f"{where}: {'; '.join(wrong)}"
