"""What each kind of stage does. Runs in a stage's own process, with torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from selftrain_core import __version__, labelling, pictures
from selftrain_core.accelerators import select_accelerator
from selftrain_core.components import build_augmentation, build_backbone, build_policy, build_task
from selftrain_core.config import RunConfig, TrainingConfig, parse_config
from selftrain_core.data_source import DataSource
from selftrain_core.errors import DataError
from selftrain_core.evaluation import evaluate_model
from selftrain_core.files import write_json
from selftrain_core.fitting import fit, silence_lightning
from selftrain_core.geometry import Geometry
from selftrain_core.images import read_image
from selftrain_core.index import Index, build_sources
from selftrain_core.interfaces import Accelerator, Policy, Task
from selftrain_core.keys import fold, name_key, seed_of
from selftrain_core.labels import ScoreStatistics
from selftrain_core.objective import NormalisedObjective
from selftrain_core.plan import Plan, StreamPlan
from selftrain_core.plugins import registry
from selftrain_core.progress import Observer, Reporter
from selftrain_core.recorder import Recorder
from selftrain_core.samples import HumanLabels, PseudoLabels, StepDataset, Stream
from selftrain_core.store import PseudoLabelStore, usable_rows
from selftrain_core.training import Recipe, TrainingModule
from selftrain_core.weights import load_weights, read_description, save_model

STATISTICS = "labelled-statistics.json"


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
        return Index(self.run / "index.arrow")

    @cached_property
    def sources(self) -> Mapping[str, DataSource]:
        """The data sources."""
        return build_sources(self.config.data, self.classes)

    @cached_property
    def accelerator(self) -> Accelerator:
        """The kind of device."""
        return select_accelerator(self.config.device.accelerator, registry())

    def input(self, name: str) -> Path:
        """Return the folder of a stage this one reads."""
        return self.run / str(self.request["inputs"][name])

    def new_model(self, *, with_init: bool) -> nn.Module:
        """Return the model at its init; the parts without pre-trained weights are the same for every stage.

        Args:
            with_init: Whether to load the init's weights; not needed where all weights are about to be loaded.
        """
        torch.manual_seed(seed_of(fold(self.config.seed, name_key("init"))))
        backbone = build_backbone(self.config.backbone, self.task.strides)
        model = self.task.build_model(backbone)
        if with_init:
            options: Any = self.config.backbone.options  # every backbone's settings have an init
            backbone.initialise(options.init)
        return self.accelerator.prepare(model)

    def trained_model(self, folder: Path, name: str = "model") -> nn.Module:
        """Return the model whose weights lie in a stage's folder."""
        model = self.new_model(with_init=False)
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

    def tell_progress(self, text: str, done: int, total: int) -> None:
        """Tell people how far a piece of work is."""
        self.reporter.tell("progress", text=text, done=done, total=total)

    def scores(
        self, model: nn.Module, role: str, progress: Callable[[int, int], None] | None = None
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
            progress=progress,
        )


def teach(context: StageContext) -> dict[str, Any]:
    """Train on human labels alone: the teacher."""
    _check_labels(context)
    training = context.config.teacher
    return _train(context, training, [_human(context)], context.new_model(with_init=True), alpha=0.0)


def baseline(context: StageContext) -> dict[str, Any]:
    """Train on human labels alone with the student's settings and everybody's budget of images."""
    return _train(context, context.config.student, [_human(context)], context.new_model(with_init=True), alpha=0.0)


def learn(context: StageContext) -> dict[str, Any]:
    """Train the student on human and pseudo labels jointly (paper §3.2, Appendix B)."""
    config = context.config
    store = PseudoLabelStore(context.input("labels"), context.classes)
    rows = context.index.rows("unlabelled")
    usable = usable_rows(store, list(context.index.ids(rows)), rows)
    policy = _fitted_policy(context, store)
    pseudo = Stream("pseudo", usable, config.student.pseudo, PseudoLabels(context.index, store, context.task, policy))
    if config.student.start == "teacher":
        model = context.trained_model(context.input("teacher"))
    else:
        model = context.new_model(with_init=True)
    return _train(context, config.student, [_human(context), pseudo], model, alpha=config.objective.alpha)


def label(context: StageContext) -> dict[str, Any]:
    """Let the teacher predict on every unlabelled image, and keep its scores."""
    device = context.config.device
    teacher = context.input("teacher")
    model = context.trained_model(teacher).to(context.accelerator.device())
    manifest = labelling.label(
        context.folder,
        model,
        context.task,
        context.index,
        canvas=context.config.canvas,
        device=context.accelerator.device(),
        batch=device.predict_batch,
        workers=device.workers,
        facts={"teacher": read_description(teacher), "canvas": list(context.config.canvas), "tta": None},
        reporter=context.reporter,
    )
    return {"states": manifest["states"], "images": sum(manifest["shards"])}


def evaluate(context: StageContext) -> dict[str, Any]:
    """Read validation and test with the last and the selected weights of a model."""
    folder = context.input("model")
    roles = ("validation", "test")
    result: dict[str, Any] = {}
    last, selected = read_description(folder), read_description(folder, "selected")
    for name, weights in (("last", "model"), ("selected", "selected")):
        if name == "selected" and selected["step"] == last["step"]:
            result["selected"] = {**result["last"]}
            continue
        model = context.trained_model(folder, weights).to(context.accelerator.device())
        result[name] = {"images_seen": read_description(folder, weights)["images_seen"]}
        for role in roles:
            result[name][role] = context.scores(model, role, partial(context.tell_progress, f"{name} weights, {role}"))
    context.reporter.tell(
        "score", values={f"test {context.task.metric_name}": result["last"]["test"][context.task.metric_name]}
    )
    return result


def draw(context: StageContext) -> dict[str, Any]:
    """Draw what the models see on a few validation images, and their validation curves."""
    names = list(context.request["settings"]["models"])
    models = {name: context.trained_model(context.run / name) for name in names}
    policy = _fitted_policy(context, PseudoLabelStore(context.input("labels"), context.classes))
    pictures.draw_validation(
        context.folder / "validation.png", context.task, context.index, context.sources, models, policy,
        context.config.canvas,
    )  # fmt: skip
    pictures.draw_curves(context.folder / "curves.png", {name: context.run / name for name in names}, context.task)
    return {"pictures": ["validation.png", "curves.png"]}


STAGES: dict[str, Callable[[StageContext], dict[str, Any]]] = {
    "teach": teach,
    "label": label,
    "learn": learn,
    "baseline": baseline,
    "evaluate": evaluate,
    "draw": draw,
}


def _human(context: StageContext) -> Stream:
    images = int(context.request["settings"]["human"])
    return Stream("human", context.index.rows("labelled"), images, HumanLabels(context.index, context.sources))


def _train(
    context: StageContext, training: TrainingConfig, streams: list[Stream], model: nn.Module, *, alpha: float
) -> dict[str, Any]:
    config, settings = context.config, context.request["settings"]
    steps, per_step = int(settings["steps"]), sum(stream.images_per_step for stream in streams)
    silence_lightning()
    plan = Plan(
        config.seed,
        context.request["name"],
        [StreamPlan(s.name, s.ids(context.index), s.images_per_step) for s in streams],
    )
    dataset = StepDataset(
        context.index, streams, plan, context.task, config.canvas, steps, micro_batches=config.device.micro_batches
    )
    objective = NormalisedObjective(
        context.task.terms, alpha, normalise=config.objective.normalise, decay=config.objective.decay,
        device=context.accelerator.device(), dtype=context.accelerator.reduction_dtype,
    )  # fmt: skip
    recipe = Recipe(context.request["name"], config.seed, steps, per_step, training)
    module = TrainingModule(
        model, context.task, build_augmentation(config.augmentation), objective, recipe, context.folder
    )
    recorder = Recorder(
        context.folder,
        context.task.metric_name,
        lambda trained: context.scores(trained, "validation"),
        config.validate_every_images,
        context.description(),
        context.reporter,
        checkpoint_seconds=config.device.checkpoint_seconds,
    )
    fit(module, dataset, recorder, context.accelerator, devices=config.device.devices, workers=config.device.workers)
    seen = steps * per_step
    if context.is_main_rank:
        save_model(
            context.folder, "model", module.result, {**context.description(), "step": steps, "images_seen": seen}
        )
    return {
        "steps": steps,
        "images_seen": seen,
        "training_seconds": recorder.history.seconds,
        "skipped_steps": module.skipped_steps,
        "metric": {"name": context.task.metric_name, "unit": context.task.unit},
        "streams": {stream.name: len(stream.rows) for stream in streams},
    }


def _fitted_policy(context: StageContext, store: PseudoLabelStore) -> Policy:
    labelled = json.loads((context.input("first") / STATISTICS).read_text(encoding="utf-8"))
    return build_policy(context.config.policy).fit(store.statistics, ScoreStatistics.from_json(labelled))


def _check_labels(context: StageContext) -> None:
    """Read every image with human labels once, before the first step: to train on, to validate and to test.

    Raises:
        DataError: An image or a label cannot be read, a label does not fit its image, an image is in two parts under
            two names, or no labelled image shows some class.
    """
    labels = HumanLabels(context.index, context.sources)
    statistics = ScoreStatistics.empty(len(context.classes))
    seen: dict[str, tuple[str, str]] = {}
    for role in ("labelled", "validation", "test"):
        for row in map(int, context.index.rows(role)):
            entry = context.index.entry(row)[1]
            try:
                known, _ = labels(row)
                height, width = read_image(entry.path).shape[:2]
                context.task.to_targets(known, None, Geometry.fit((height, width), context.config.canvas))
            except DataError as error:
                files = " and ".join(str(path) for path in (entry.path, entry.label_path) if path)
                remedy = f"('{entry.id}' of data.{role}, {files}; take it out of its list, or mend it)"
                raise DataError(f"{error}\n  {remedy}") from error
            first, twin = seen.setdefault(labelling.content_digest(entry.path), (role, entry.id))
            if first != role:
                raise DataError(
                    f"'{entry.id}' of data.{role} and '{twin}' of data.{first} are the same picture; take one out"
                )
            if role == "labelled":
                statistics = statistics + context.task.statistics(known)
    absent = labelling.missing_classes(statistics, context.classes)
    if absent and not context.config.data.allow_missing_classes:
        raise DataError(
            f"no labelled image shows: {', '.join(absent)}\n  what they do show: "
            f"{', '.join(name for name in context.classes if name not in absent) or 'nothing'}\n"
            "  check the order of data.classes, label such images, or set data.allow_missing_classes: true"
        )
    if context.is_main_rank:
        write_json(context.folder / STATISTICS, statistics.to_json())
