"""Pixels that turn NaN on the device: the step is skipped and leaves nothing behind, and many in a row stop the run."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import Tensor

from selftrain.main import main
from selftrain_core.batch import Batch
from selftrain_core.components import build_augmentation
from selftrain_core.config import RunConfig, dump_config
from selftrain_core.interfaces import Augmentation
from selftrain_core.recorder import read_metrics
from selftrain_core.testing import assert_equal, is_equal
from selftrain_core.training import TrainingModule

MICRO_BATCHES = 2
STEPS = 6
TEACHER = Path("round-0/teacher")
SHORT: dict[str, Any] = {
    "teacher": {"steps": STEPS, "human": 4, "ema_decay": 0.9, "max_skipped_steps": 2},
    "validate_every_images": 12,
    "device": {"accelerator": "core/cpu", "workers": 0, "predict_batch": 4, "micro_batches": MICRO_BATCHES},
}


class Poisoned(Augmentation):
    """An augmentation that turns one pixel of one image NaN, in the last micro-batch of some steps.

    Args:
        inner: What it does otherwise.
        steps: Which steps, counted from its first.
    """

    def __init__(self, inner: Augmentation, steps: Collection[int]) -> None:
        super().__init__(inner.config)
        self.inner, self.steps, self.calls = inner, steps, 0

    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        return self.inner.parameters(batch, key_B)

    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        step, part = divmod(self.calls, MICRO_BATCHES)
        self.calls += 1
        changed = self.inner.replay(batch, parameters)
        if step not in self.steps or part < MICRO_BATCHES - 1:
            return changed
        image_B3HW = changed.image_B3HW.clone()
        image_B3HW[-1, 0, 5, 5] = math.nan
        return replace(changed, image_B3HW=image_B3HW)


@pytest.fixture(params=["masks", "boxes"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the configuration of a teacher of a few steps."""
    path = tmp_path / "config.yaml"
    if request.param == "masks":
        configure: Callable[..., RunConfig] = request.getfixturevalue("configure")
        settings = yaml.safe_load(dump_config(configure(request.getfixturevalue("shared_squares"))))
    else:
        settings = request.getfixturevalue("configure_boxes")(request.getfixturevalue("shared_box_squares"))
    for key, value in SHORT.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(settings))
    return path


def teach(config: Path, run: Path) -> Result:
    return CliRunner().invoke(main, ["teach", str(config), "-o", str(run), "--in-process"])


def poison(monkeypatch: pytest.MonkeyPatch, steps: Collection[int]) -> None:
    """Let the stages' augmentation be poisoned."""
    name = "selftrain_core.stage_training.build_augmentation"
    monkeypatch.setattr(name, lambda choice: Poisoned(build_augmentation(choice), steps))


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return a list that every step adds to: everything of a training before it, and after it."""
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    step = TrainingModule.training_step

    def watched(self: TrainingModule, item: Any, batch_idx: int) -> None:
        before = everything(self)
        step(self, item, batch_idx)
        seen.append((before, everything(self)))

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    return seen


def everything(module: TrainingModule) -> dict[str, Any]:
    assert module.average is not None
    # All buffers, those too that no checkpoint holds.
    buffers = [dict(model.named_buffers()) for model in (module.model, module.average.model)]
    return copy.deepcopy({**module.state(), "buffers": buffers})


def counters(state: dict[str, Any]) -> tuple[int, int, int]:
    """Take the counters out of a state, and return them."""
    return state.pop("next_step"), state.pop("skipped_steps"), state.pop("skipped_in_a_row")


def test_a_step_with_a_pixel_of_nan_leaves_everything_as_it_was(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step of all, and one in the midst of the training."""
    poisoned = {0, 3}
    poison(monkeypatch, poisoned)
    seen = watch(monkeypatch)
    result = teach(config, tmp_path / "run")
    assert result.exit_code == 0, (result.output, result.exception)
    skipped = 0
    for step, (before, after) in enumerate(seen):
        assert counters(before)[:2] == (step, skipped)
        skipped += step in poisoned
        assert counters(after) == (step + 1, skipped, int(step in poisoned))
        assert set(before) == {"model", "average", "optimizer", "objective", "buffers"}
        assert any("running_mean" in name for name in before["buffers"][0])
        for name, value in before.items():
            if step in poisoned:
                assert_equal(after[name], value, f"{name} after the step {step}")
            else:
                assert not is_equal(after[name], value), f"{name} after the step {step}"
    assert len(seen) == STEPS

    folder = tmp_path / "run" / TEACHER
    assert json.loads((folder / "stage.json").read_text())["result"]["skipped_steps"] == 2
    lines = [line for line in read_metrics(folder) if "train" in line]
    assert [(line["step"], line["train"]["skipped_steps"]) for line in lines] == [(1, 1), (STEPS, 2)]
    assert [math.isfinite(line["train"]["loss"]) for line in lines] == [False, True]
    assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


def test_many_in_a_row_stop_the_run_and_nothing_is_lost(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert teach(config, tmp_path / "undisturbed").exit_code == 0
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, {3, 4})  # after the validation and checkpoint of three steps
        stopped = teach(config, run)
    assert stopped.exit_code == 4, stopped.output
    message = (
        r"error: round-0/teacher: the loss or its gradient was not finite for 2 steps in a row, up to step 4 \(human "
        r"loss nan, pseudo loss 0, gradient norm nan\)\n  the batch is in (.*/nonfinite-step-4-rank-0\.pt)\n"
        r"  the images themselves are not finite once they are augmented: look at the augmentation"
    )
    found = re.search(message, stopped.stderr)
    assert found is not None, stopped.stderr
    saved = torch.load(found[1], weights_only=True)
    broken = [batch["image_B3HW"].isnan().flatten(1).sum(1).tolist() for batch in saved]
    assert broken == [[0, 0], [0, 1]]
    assert all(batch["targets"] for batch in saved)

    assert torch.load(run / TEACHER / "last.ckpt", weights_only=True)["module"]["next_step"] == 3
    went_on = teach(config, run)
    assert went_on.exit_code == 0, (went_on.output, went_on.exception)
    ours, theirs = (load_file(folder / TEACHER / "model.safetensors") for folder in (run, tmp_path / "undisturbed"))
    assert_equal(ours, theirs, "weights")
