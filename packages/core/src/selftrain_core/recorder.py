"""What a training leaves on disk while it runs: metrics, checkpoints, the selected weights. Also where it resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from selftrain_core.distributed import rank, share_buffers
from selftrain_core.errors import RunError
from selftrain_core.event_files import EventFiles, write_csv
from selftrain_core.files import append_line, write_json, write_text
from selftrain_core.progress import Reporter
from selftrain_core.stepping import StepModule
from selftrain_core.weights import save_model, save_state

Scores = dict[str, float]
LAST_CHECKPOINT = "last.ckpt"
"""In a stage's folder: the newest state of its training."""


@dataclass
class History:
    """What a training has been, kept across interruptions.

    Attributes:
        seconds: Spent training and validating.
        best_score: Highest validation score, None before the first.
        best_step: Steps taken when it was reached.
    """

    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = 0


@dataclass(frozen=True)
class Validation:
    """How a model in training is looked at.

    Attributes:
        metric_name: The headline score.
        scores: Returns the scores of a model on the validation images, the same on every rank.
        every_images: Images seen between two looks; one more comes at the end.
    """

    metric_name: str
    scores: Callable[[nn.Module], Scores]
    every_images: int


class Recorder(pl.Callback):
    """Logs, validates, keeps the best weights and the newest state.

    Args:
        folder: The stage's folder.
        validation: How the model is validated; None where nothing is measured but the loss, and the last weights count.
        description: Written beside the weights.
        reporter: Tells people.
        checkpoint_seconds: How often the state is saved.
        event_folder: Where TensorBoard's event files go; None for none.
        log_every: Steps between two lines of the log.
    """

    def __init__(
        self,
        folder: Path,
        validation: Validation | None,
        description: Mapping[str, Any],
        reporter: Reporter,
        *,
        checkpoint_seconds: float,
        event_folder: Path | None = None,
        log_every: int = 10,
    ) -> None:
        self.folder, self.validation = folder, validation
        self.description, self.reporter = description, reporter
        self.checkpoint_seconds, self.log_every = checkpoint_seconds, log_every
        self.history = History()
        self._event_folder = event_folder if rank() == 0 else None
        self._events: EventFiles | None = None
        self._saved_at = self._resumed_at = time.monotonic()
        self._seconds_before = 0.0

    @property
    def checkpoint_path(self) -> Path:
        """The newest state."""
        return self.folder / LAST_CHECKPOINT

    def next_step(self) -> int:
        """Return the step at which training goes on, 0 where there is no checkpoint."""
        return int(self._load()["module"]["next_step"]) if self.checkpoint_path.is_file() else 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the newest state."""
        assert isinstance(pl_module, StepModule)
        if pl_module.average is not None:
            pl_module.average.to(pl_module.device)
        self.resume(pl_module)
        self._saved_at = self._resumed_at = time.monotonic()

    def resume(self, module: StepModule, *, finished: bool = False) -> None:
        """Take up the newest state, if there is one, and drop the log of the steps after it."""
        if self.checkpoint_path.is_file():
            state = self._load()
            module.restore(state["module"], finished=finished)
            self.history = History(**state["history"])
            self._seconds_before = self.history.seconds
        if rank() == 0:
            self._forget_after(module.next_step)
        if finished:
            self._close_events()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, validate and save when it is time to."""
        assert isinstance(pl_module, StepModule)
        recipe = pl_module.recipe
        steps, seen = pl_module.next_step, pl_module.next_step * recipe.images_per_step
        is_last = steps == recipe.steps
        if steps % self.log_every == 0 or is_last or steps == 1:
            self._log(pl_module, steps, seen)
        every = None if self.validation is None else self.validation.every_images
        if every and (seen // every > (seen - recipe.images_per_step) // every or is_last):
            self._validate(pl_module, steps, seen)
            self._save_if_time(pl_module, force=True)
        elif is_last:
            self._write_csv()
        self._save_if_time(pl_module, force=is_last)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the event files."""
        self._close_events()

    def _log(self, module: StepModule, steps: int, seen: int) -> None:
        values = {**module.log_values(), "skipped_steps": module.skipped_steps}
        self._write({"step": steps, "images_seen": seen, "train": values})
        total = module.recipe.steps * module.recipe.images_per_step
        shown = {"loss": values["loss"], **({"skipped": values["skipped_steps"]} if module.skipped_steps else {})}
        self.reporter.tell("progress", done=seen, total=total, values=shown)

    def _validate(self, module: StepModule, steps: int, seen: int) -> None:
        assert self.validation is not None
        share_buffers(module.result)
        scores = self.validation.scores(module.result)
        name = self.validation.metric_name
        score = scores[name]
        self._write({"step": steps, "images_seen": seen, "validation": scores})
        self._write_csv()
        self.reporter.tell("score", done=seen, values={name: score})
        # A later validation must be better by more than nothing: the earlier of two equal scores is kept.
        if self.history.best_score is None or score > self.history.best_score:
            self.history.best_score, self.history.best_step = score, steps
            if rank() == 0:
                save_model(
                    self.folder, "selected", module.result, {**self.description, "step": steps, "images_seen": seen}
                )

    def _save_if_time(self, module: StepModule, *, force: bool) -> None:
        now = time.monotonic()
        if not force and now - self._saved_at < self.checkpoint_seconds:
            return
        self.history.seconds = self._seconds_before + now - self._resumed_at
        self._saved_at = now
        if rank() == 0:
            state = {"module": module.state(), "history": asdict(self.history)}
            save_state(self.checkpoint_path, state)
            # For who asks how far the training is, without reading the state.
            write_json(self.folder / "last.json", {"step": module.next_step, "steps": module.recipe.steps})

    def _load(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types on a damaged file
            # What torch says of a pickle of other things is how to run it.
            is_foreign = isinstance(error, UnpicklingError)
            reason = "it holds more than tensors and numbers, and was not run" if is_foreign else str(error)
            raise self._unreadable(reason or "it is cut short") from error
        if not isinstance(state, dict) or not {"module", "history"} <= state.keys():
            raise self._unreadable("it holds no state of a training")
        return state

    def _unreadable(self, reason: str) -> RunError:
        path = self.checkpoint_path
        return RunError(f"{path} cannot be read ({reason}); delete it to train this stage from its start")

    def _write(self, line: dict[str, Any]) -> None:
        if rank() == 0:
            append_line(self.folder / "metrics.jsonl", json.dumps(line))
            if self._events is not None:
                self._events.add(line)

    def _write_csv(self) -> None:
        if rank() == 0:
            write_csv(self.folder / "metrics.csv", read_metrics(self.folder))

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _forget_after(self, step: int) -> None:
        """Drop the log of steps that come again, so that an interrupted training's log reads like another's."""
        path = self.folder / "metrics.jsonl"
        lines: list[dict[str, Any]] = []
        if path.is_file():
            lines = [line for line in read_metrics(self.folder) if line["step"] <= step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
            write_csv(self.folder / "metrics.csv", lines)
        if self._event_folder is not None:
            self._events = EventFiles(self._event_folder, lines)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a stage's ``metrics.jsonl``."""
    return [json.loads(line) for line in _whole_lines(folder / "metrics.jsonl")]


def _whole_lines(path: Path) -> list[str]:
    # A line that a kill cut short has no end.
    return [
        line.rstrip("\n") for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]
