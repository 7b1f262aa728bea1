"""What each kind of stage does. Runs in a stage's own process, with torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from selftrain_core import __version__, labelling, pictures
from selftrain_core.accelerators import prepare_model, select_accelerator
from selftrain_core.checking import check_labels
from selftrain_core.components import build_augmentation, build_model, build_policy_for, build_task
from selftrain_core.config import PredictionConfig, RunConfig, TrainingConfig, parse_config
from selftrain_core.data_source import DataSource
from selftrain_core.distributed import several_ranks
from selftrain_core.errors import DataError, RunError
from selftrain_core.evaluation import evaluate_model
from selftrain_core.files import write_json
from selftrain_core.fitting import fit, silence_lightning
from selftrain_core.index import Index, build_sources
from selftrain_core.interfaces import Accelerator, Policy, Task
from selftrain_core.keys import fold, name_key, seed_of
from selftrain_core.labels import ScoreStatistics
from selftrain_core.objective import NormalisedObjective
from selftrain_core.plan import Plan, StreamPlan
from selftrain_core.plugins import registry
from selftrain_core.progress import Observer, Reporter
from selftrain_core.recorder import Recorder
from selftrain_core.samples import HumanLabels, PseudoLabels, StepDataset, Stream, rows_with_labels
from selftrain_core.store import USABLE, PseudoLabelStore, usable_rows
from selftrain_core.training import Recipe, TrainingModule
from selftrain_core.views import PLAIN_VIEW, View
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
        model, backbone = build_model(self.task, self.config.backbone)
        if with_init:
            options: Any = self.config.backbone.options  # every backbone's settings have an init
            init = backbone.start(options.init)
            if init.note:
                self.reporter.tell("note", text=init.note)
        return prepare_model(model, self.accelerator, self.config.device)

    def trained_model(self, folder: Path, name: str = "model") -> nn.Module:
        """Return the model whose weights lie in a stage's folder."""
        model = self.new_model(with_init=False)
        with _made_again(folder):
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


def teach(context: StageContext) -> dict[str, Any]:
    """Train on human labels alone: the teacher."""
    config = context.config
    labelled = check_labels(
        context.index,
        HumanLabels(context.index, context.sources),
        context.task,
        config.canvas,
        allow_missing_classes=config.data.allow_missing_classes,
        progress=partial(context.tell_progress, "checking images and labels"),
        remark=lambda text: context.reporter.tell("note", text=text),
    )
    # A policy finds its mistakes when it is fitted: here, rather than once the teacher is trained.
    build_policy_for(context.task, config.policy).fit(labelled, labelled)
    if context.is_main_rank:
        write_json(context.folder / STATISTICS, labelled.to_json())
    return _train(context, config.teacher, [_human(context)], context.new_model(with_init=True), alpha=0.0)


def baseline(context: StageContext) -> dict[str, Any]:
    """Train on human labels alone with the student's settings and everybody's budget of images."""
    return _train(context, context.config.student, [_human(context)], context.new_model(with_init=True), alpha=0.0)


def learn(context: StageContext) -> dict[str, Any]:
    """Train the student on human and pseudo labels jointly (paper §3.2, Appendix B)."""
    config = context.config
    store = PseudoLabelStore(context.input("labels"), context.classes)
    rows = context.index.rows("unlabelled")
    usable = usable_rows(store, context.index.ids(rows), rows)
    policy = _fitted_policy(context, store)
    labeller = PseudoLabels(context.index, store, context.task, policy)
    if not config.student.negatives:
        usable = rows_with_labels(usable, labeller)
    pseudo = Stream("pseudo", usable, config.student.pseudo, labeller)
    if config.student.start == "teacher":
        model = context.trained_model(context.input("teacher"))
    else:
        model = context.new_model(with_init=True)
    is_kept_C = labelling.kept_shares(policy, store.statistics) > 0
    nothing_kept = [name for name, is_kept in zip(context.classes, is_kept_C, strict=True) if not is_kept]
    report = _train(context, config.student, [_human(context), pseudo], model, alpha=config.objective.alpha)
    return {**report, "nothing_kept": nothing_kept}


def label(context: StageContext) -> dict[str, Any]:
    """Let the teacher predict on every unlabelled image, and keep its scores."""
    device = context.config.device
    settings = context.config.labelling
    teacher = context.input("teacher")
    model = context.trained_model(teacher).to(context.accelerator.device()).eval()
    with several_ranks(context.accelerator, device.devices):
        labelling.write_shards(
            context.folder,
            model,
            context.task,
            context.index,
            canvas=context.config.canvas,
            device=context.accelerator.device(),
            batch=device.predict_batch,
            workers=device.workers,
            views=views_of(settings),
            top_k=settings.top_k,
            precision=device.precision,
            reporter=context.reporter,
        )
    if not context.is_main_rank:
        return {}
    facts = {
        "teacher": read_description(teacher),
        "canvas": list(context.config.canvas),
        "labelling": settings.model_dump(mode="json"),
    }
    manifest = labelling.seal_store(context.folder, context.task, context.index, facts)
    _refuse_useless(context.folder, manifest)
    return {"states": manifest["states"], "images": sum(manifest["shards"])}


def _refuse_useless(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check that there is an image to learn from.

    Raises:
        DataError: All are unreadable or leaks.
    """
    if not set(manifest["states"]).isdisjoint(USABLE):
        return
    # It holds nothing that is worth keeping; with it, a mended pool would be refused as changed.
    for path in [folder / "manifest.json", *folder.glob("shard-*")]:
        path.unlink()
    states = ", ".join(f"{count:,} {state}" for state, count in manifest["states"].items())
    first = manifest["failures"][0]
    raise DataError(
        f"none of the {sum(manifest['shards']):,} images of data.unlabelled can be used: {states}\n"
        f"  the first is '{first['id']}': {first['reason']}\n"
        "  mend the images, or give others, and run the same command: the teacher is kept"
    )


def evaluate(context: StageContext) -> dict[str, Any]:
    """Read validation and test with the last and the selected weights of a model."""
    folder = context.input("model")
    roles = ("validation", "test")
    result: dict[str, Any] = {}
    with _made_again(folder):
        last, selected = read_description(folder), read_description(folder, "selected")
    for name, weights in (("last", "model"), ("selected", "selected")):
        if name == "selected" and selected["step"] == last["step"]:
            result["selected"] = {**result["last"]}
            continue
        model = context.trained_model(folder, weights).to(context.accelerator.device())
        result[name] = {"images_seen": read_description(folder, weights)["images_seen"]}
        for role in roles:
            tell = partial(context.tell_progress, f"{name} weights, {role}")
            result[name][role] = context.scores(model, role, views_of(context.config.evaluation), tell)
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


def views_of(settings: PredictionConfig) -> tuple[View, ...]:
    """Return the views that a configuration asks for."""
    return tuple(View(scale, is_flipped) for scale, is_flipped in settings.views)


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
    shares = [StreamPlan(s.name, s.ids(context.index), s.images_per_step) for s in streams]
    plan = Plan(config.seed, context.request["name"], shares)
    sources = np.concatenate([chunk.indices.to_numpy() for chunk in context.index.table.column("source").chunks])
    for stream in streams:
        # What a source loads to answer, workers then share with this process, which they are forked from.
        for place in np.unique(sources[stream.rows], return_index=True)[1]:
            stream.labeller(int(stream.rows[place]))
    augmentation = build_augmentation(config.augmentation)
    canvas = (config.canvas[0] * augmentation.oversample, config.canvas[1] * augmentation.oversample)
    dataset = StepDataset(
        context.index, streams, plan, context.task, canvas, steps, micro_batches=config.device.micro_batches
    )
    objective = NormalisedObjective(
        context.task.terms, alpha, normalise=config.objective.normalise, decay=config.objective.decay,
        device=context.accelerator.device(), dtype=context.accelerator.reduction_dtype,
    )  # fmt: skip
    recipe = Recipe(context.request["name"], config.seed, steps, per_step, training)
    module = TrainingModule(
        model, context.task, augmentation, objective, recipe, context.folder,
        precision=config.device.precision,
    )  # fmt: skip
    recorder = Recorder(
        context.folder,
        context.task.metric_name,
        lambda trained: context.scores(trained, "validation"),
        config.validate_every_images,
        context.description(),
        context.reporter,
        checkpoint_seconds=config.device.checkpoint_seconds,
        event_folder=context.run / "tensorboard" / context.request["name"] if config.logging.tensorboard else None,
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
    path = context.input("first") / STATISTICS
    with _made_again(path.parent):
        try:
            labelled = ScoreStatistics.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
    return build_policy_for(context.task, context.config.policy).fit(store.statistics, labelled)


@contextmanager
def _made_again(folder: Path) -> Iterator[None]:
    """Say of an unusable file of a finished stage how to come by another."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}\n  delete {folder} and run the same command: the stage is done again") from error
