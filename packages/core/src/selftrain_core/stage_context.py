"""What a stage's process works with: its folder, the configuration, and the components built from it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from selftrain_core import __version__
from selftrain_core.accelerators import prepare_model, select_accelerator
from selftrain_core.components import body_of, build_model, build_task
from selftrain_core.config import (
    JointConfig,
    PredictionConfig,
    PretrainingConfig,
    RunConfig,
    TrainingConfig,
    parse_config,
)
from selftrain_core.data_source import DataSource
from selftrain_core.errors import RunError
from selftrain_core.evaluation import evaluate_model
from selftrain_core.index import Index, build_sources
from selftrain_core.interfaces import Accelerator, Task
from selftrain_core.keys import fold, name_key, seed_of
from selftrain_core.plugins import registry
from selftrain_core.progress import Observer, Reporter
from selftrain_core.recorder import Recorder, Validation
from selftrain_core.samples import HumanLabels
from selftrain_core.views import PLAIN_VIEW, View
from selftrain_core.weights import load_weights
from selftrain_core.workshop import INDEX, joint_index, naming_joint

BACKBONE = "backbone"
"""Name of the weights that a pre-training leaves."""


@dataclass(frozen=True)
class JointData:
    """What a joint stream learns from.

    Attributes:
        labels: Reads the labels of its images.
        task: Is learnt from them.
    """

    labels: HumanLabels
    task: Task[Any, Any]


@dataclass
class StageContext:
    """Everything a stage needs: its folder and request, the configuration, and the components built from it."""

    folder: Path
    run: Path
    request: dict[str, Any]
    config: RunConfig
    reporter: Reporter

    @classmethod
    def read(cls, folder: Path, observer: Observer | None) -> StageContext:
        """Return the context of the stage in `folder`."""
        request = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        run = folder.parents[request["name"].count("/")]
        config = parse_config(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")), base_dir=run)
        return cls(folder, run, request, config, Reporter(request["name"], observer))

    @property
    def kind(self) -> str:
        """What is to be done."""
        return str(self.request["kind"])

    @property
    def is_main_rank(self) -> bool:
        """Whether this process writes results; Lightning numbers the others in their environment."""
        return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The ordered class names."""
        return self.config.data.class_names()

    @cached_property
    def task(self) -> Task[Any, Any]:
        """The task."""
        return build_task(self.config.task, self.classes)

    @cached_property
    def index(self) -> Index:
        """The run's images."""
        return Index(self.run / INDEX)

    @cached_property
    def sources(self) -> Mapping[str, DataSource]:
        """The data sources."""
        return build_sources(self.config.data, self.classes)

    @cached_property
    def joint(self) -> Mapping[str, JointData]:
        """What the joint streams learn from, by their names."""
        return {name: self._joint_data(name, config) for name, config in self.config.joint.items()}

    def _joint_data(self, name: str, config: JointConfig) -> JointData:
        with naming_joint(name):
            classes = config.class_names()
            labels = HumanLabels(Index(self.run / joint_index(name)), build_sources(config, classes))
            return JointData(labels, build_task(config.task, classes))

    @cached_property
    def accelerator(self) -> Accelerator:
        """The kind of device."""
        return select_accelerator(self.config.device.accelerator, registry())

    def input(self, name: str) -> Path:
        """Return the folder of a stage this one reads."""
        return self.run / str(self.request["inputs"][name])

    def new_model(self, *, with_init: bool) -> nn.Module:
        """Return the model at its init, or where the backbone was pre-trained, at what came of that.

        The parts without pre-trained weights are the same for every stage.

        Args:
            with_init: Whether to load the init's weights; not needed where all weights are about to be loaded.
        """
        torch.manual_seed(seed_of(fold(self.config.seed, name_key("init"))))
        model, backbone = build_model(self.task, self.config.backbone)
        if with_init:
            options: Any = self.config.backbone.options  # every backbone's settings have an init
            init = backbone.start(options.init)
            if init.note:
                self.reporter.tell("note", text=init.note)
            if "pretraining" in self.request["inputs"]:
                folder = self.input("pretraining")
                with made_again(folder):
                    load_weights(body_of(backbone), folder / f"{BACKBONE}.safetensors")
        return prepare_model(model, self.accelerator, self.config.device)

    def trained_model(self, folder: Path, name: str = "model") -> nn.Module:
        """Return the model whose weights lie in a stage's folder."""
        model = self.new_model(with_init=False)
        with made_again(folder):
            load_weights(model, folder / f"{name}.safetensors")
        return model

    def description(self) -> dict[str, Any]:
        """Return what is written beside weights, so that they can be used without the run."""
        return {
            "schema": 1,
            "selftrain": __version__,
            "classes": list(self.classes),
            "task": self.config.task.model_dump(mode="json"),
            "backbone": self.config.backbone.model_dump(mode="json"),
            "canvas": list(self.config.canvas),
            "digest": self.request["digest"],
        }

    def recorder(self, validation: Validation | None) -> Recorder:
        """Return what records the training of this stage."""
        config = self.config
        return Recorder(
            self.folder,
            validation,
            self.description(),
            self.reporter,
            checkpoint_seconds=config.device.checkpoint_seconds,
            event_folder=self.run / "tensorboard" / self.request["name"] if config.logging.tensorboard else None,
        )

    def note(self, text: str) -> None:
        """Tell people something that they should know."""
        self.reporter.tell("note", text=text)

    def note_short_training(self, training: TrainingConfig | PretrainingConfig) -> None:
        """Tell people of a training that ends before its learning rate has risen."""
        warmup = training.optimizer.warmup_steps
        if training.steps < warmup:
            self.note(
                f"{training.steps:,} steps end within the {warmup:,} of optimizer.warmup_steps: the learning rate "
                "never reaches its highest"
            )

    def tell_progress(self, text: str, done: int, total: int) -> None:
        """Tell people how far a piece of work is."""
        self.reporter.tell("progress", text=text, done=done, total=total)

    def scores(
        self,
        model: nn.Module,
        role: str,
        views: Sequence[View] = PLAIN_VIEW,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Return the scores of a model on the images of one role."""
        device = self.config.device
        return evaluate_model(
            model,
            self.task,
            self.index,
            self.sources,
            self.index.rows(role),
            canvas=self.config.canvas,
            device=next(model.parameters()).device,
            batch=device.predict_batch,
            workers=device.workers,
            views=views,
            precision=device.precision,
            progress=progress,
        )


def views_of(settings: PredictionConfig) -> tuple[View, ...]:
    """Return the views that a configuration asks for."""
    return tuple(View(scale, is_flipped) for scale, is_flipped in settings.views)


@contextmanager
def made_again(folder: Path) -> Iterator[None]:
    """Say of an unusable file of a finished stage how to come by another."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}\n  delete {folder} and run the same command: the stage is done again") from error
