"""One optimiser step: what it computes, what it leaves alone when it is not finite, and how a training goes on."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from selftrain_core.augmentation import NoAugmentation
from selftrain_core.batch import HUMAN, PSEUDO, Batch, collate
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.errors import DataError, StageFailedError
from selftrain_core.geometry import Geometry
from selftrain_core.objective import NormalisedObjective
from selftrain_core.recorder import Recorder
from selftrain_core.stepping import Recipe
from selftrain_core.testing import assert_equal, is_equal
from selftrain_core.testing.drawn import train
from selftrain_core.testing.fakes import PixelTask, TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import mask_labels, picture, sample
from selftrain_core.training import TrainingModule

TASK = PixelTask(StrictModel(), ("ground", "red", "green"))


def batch(step: int, *, broken: bool = False) -> Batch:
    samples = []
    for number in range(4):
        seed = 10 * step + number
        targets = TASK.to_targets(mask_labels((32, 32), 3, seed, scored=False), None, Geometry.fit((32, 32), (32, 32)))
        if broken and number == 3:
            assert targets.weight_BHW is not None
            targets = replace(targets, weight_BHW=targets.weight_BHW * float("inf"))
        source = HUMAN if number < 2 else PSEUDO
        samples.append(sample(picture((32, 32), seed), (32, 32), str(seed), source=source, targets=targets))
    return collate(samples)


def module_of(folder: Path, *, ema_decay: float | None = 0.9, max_skipped_steps: int = 10) -> TrainingModule:
    torch.manual_seed(0)
    pixels = TASK.build_model(TinyBackbone(TinyBackboneConfig()))
    model = nn.Sequential(pixels, nn.BatchNorm2d(3), nn.Dropout(0.2))
    training = TrainingConfig(
        ema_decay=ema_decay, max_skipped_steps=max_skipped_steps, optimizer=OptimizerConfig(lr=0.01, warmup_steps=0)
    )
    recipe = Recipe("round-1/student", seed=0, steps=50, images_per_step=4, training=training)
    return TrainingModule(
        model, TASK, NoAugmentation(StrictModel()), NormalisedObjective(TASK.terms, 1), recipe, folder
    )


def run(module: TrainingModule, items: list[Any], resume_from: dict[str, Any] | None = None) -> None:
    """Train on `items`, each the micro-batches of one step."""

    class TakeUp(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if resume_from is not None:
                module.restore(resume_from)

    loader: Any = DataLoader(items, batch_size=None, collate_fn=lambda item: item)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[TakeUp()],
    )  # fmt: skip
    trainer.fit(module, loader)


def copied(module: TrainingModule) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(_saved(module), weights_only=True)
    return state


def _saved(module: TrainingModule) -> Path:
    path = module.folder / "state.pt"
    torch.save(module.state(), path)
    return path


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


def test_a_step_moves_everything(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    run(module, [[batch(0)]])
    assert module.next_step == 1
    after = module.model.state_dict()
    moving = [name for name, _ in module.model.named_parameters()] + ["1.running_mean", "1.running_var"]
    assert not [name for name in moving if torch.equal(after[name], before[name])]
    assert module.objective.state_dict()["updates_2"].tolist() == [1, 1]
    assert module.report is not None
    assert module.report.finite
    assert float(module.report.ratio) == 1


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_the_model_that_counts(tmp_path: Path, ema_decay: float | None) -> None:
    module = module_of(tmp_path, ema_decay=ema_decay)
    run(module, [[batch(0)]])
    assert (module.result is module.model) == (ema_decay is None)


def test_a_step_that_is_not_finite_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """Batch norm's buffers and the averages too; only the counters move."""
    module = module_of(tmp_path)
    run(module, [[batch(0)], [batch(1)]])
    before = copied(module)
    run(module, [[batch(2, broken=True), batch(3)]])
    after = copied(module)
    assert (after["next_step"], after["skipped_steps"], after["skipped_in_a_row"]) == (3, 1, 1)
    for key in ("model", "average", "objective"):
        assert_equal(after[key], before[key], key)
    assert module.report is not None
    assert not module.report.finite


def test_a_finite_step_ends_the_row(tmp_path: Path) -> None:
    module = module_of(tmp_path, max_skipped_steps=2)
    run(module, [[batch(n, broken=n % 2 == 0)] for n in range(6)])
    assert (module.next_step, module.skipped_steps, module.skipped_in_a_row) == (6, 3, 0)


def test_too_many_skipped_steps_stop_the_run_and_save_the_batch(tmp_path: Path) -> None:
    module = module_of(tmp_path, max_skipped_steps=3)
    message = (
        r"round-1/student: the loss or its gradient was not finite for 3 steps in a row, up to step 3 "
        r"\(human loss .*, pseudo loss (inf|nan), gradient norm nan\)\n"
        r"  the batch is in .*nonfinite-step-3-rank-0\.pt\n  what usually helps: a lower optimizer\.lr"
    )
    with pytest.raises(StageFailedError, match=message):
        run(module, [[batch(n, broken=n > 0), batch(n + 10)] for n in range(9)])
    first, second = torch.load(tmp_path / "nonfinite-step-3-rank-0.pt", weights_only=True)
    assert first["id_B"].tolist() == batch(3).id_B.tolist()
    assert second["id_B"].tolist() == batch(13).id_B.tolist()
    assert first["targets"]["weight_BHW"].isinf().any()


def test_a_non_finite_gradient_counts_too(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    next(module.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    run(module, [[batch(0)]])
    assert module.skipped_steps == 1
    assert module.report is not None
    assert torch.isfinite(module.report.loss)


def test_an_error_of_the_loader_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the mask x is missing"):
        run(module_of(tmp_path), [DataError("the mask x is missing")])


def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    """Dropout, batch norm, averages and momentum: bit by bit, without a generator's state in the checkpoint."""
    items = [[batch(n, broken=n == 4)] for n in range(8)]
    whole = module_of(tmp_path)
    run(whole, items)
    first = module_of(tmp_path)
    run(first, items[:5])
    torch.manual_seed(999)
    second = module_of(tmp_path)
    run(second, items[5:], resume_from=copied(first))
    assert_equal(copied(second), copied(whole), "resumed")


def test_dropout_depends_on_seed_stage_and_step_alone(tmp_path: Path) -> None:
    ends = []
    for noise in (1, 2):
        module = module_of(tmp_path)
        torch.manual_seed(noise)
        run(module, [[batch(0)]])
        ends.append(copied(module)["model"])
    assert_equal(ends[0], ends[1], "weights after other noise")
    other = module_of(tmp_path)
    other._key = other._key + 1
    run(other, [[batch(0)]])
    assert not is_equal(copied(other)["model"], ends[0])


def test_the_recorder_resumes_a_training(tmp_path: Path) -> None:
    """The whole of `fit`: interrupted at an exception, taken up again from last.ckpt."""
    make = runpy.run_path(str(Path(__file__).with_name("train_on_ranks.py")))["make"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    expected = train(make(), whole).state()
    original = Recorder.on_train_batch_end

    def interrupted(self: Recorder, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        original(self, trainer, module, outputs, batch, batch_idx)
        if module.next_step == 12:
            raise KeyError("interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupted)
        with pytest.raises(KeyError):
            train(make(), broken)
    assert torch.load(broken / "last.ckpt", weights_only=True)["module"]["next_step"] == 10
    assert_equal(train(make(), broken).state(), expected, "resumed")
    assert (broken / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert_equal(train(make(), broken).next_step, 20, "a finished training")
