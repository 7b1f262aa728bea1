"""The training of one model, from what a stage knows to the steps it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from selftrain_core.accelerators import share_batch_norm
from selftrain_core.components import backbone_of, build_augmentation
from selftrain_core.config import TrainingConfig
from selftrain_core.errors import ConfigError
from selftrain_core.fitting import fit, silence_lightning
from selftrain_core.index import Index
from selftrain_core.interfaces import Augmentation, Task
from selftrain_core.joint import JointModel, JointPart
from selftrain_core.keys import fold, name_key, seed_of
from selftrain_core.objective import NormalisedObjective
from selftrain_core.plan import Plan, StreamPlan
from selftrain_core.recorder import Validation
from selftrain_core.samples import Group, HumanLabels, StepDataset, Stream
from selftrain_core.stage_context import StageContext, made_again
from selftrain_core.stepping import Recipe
from selftrain_core.training import TrainingModule
from selftrain_core.weights import load_weights, save_model

HEADS = "joint"
"""Name of the weights that joint streams alone need: of no use to predict, but to a student that goes on from them."""


def human_stream(context: StageContext) -> Stream:
    """Return the stream of the labelled images."""
    images = int(context.request["settings"]["human"])
    return Stream("human", context.index.rows("labelled"), images, HumanLabels(context.index, context.sources))


def train(
    context: StageContext,
    training: TrainingConfig,
    streams: list[Stream],
    model: nn.Module,
    *,
    alpha: float,
    heads: Path | None = None,
) -> dict[str, Any]:
    """Train a model as the stage says, leave its weights in the stage's folder, and return what came of it.

    Args:
        context: The stage.
        training: The settings of its model.
        streams: What it learns from; joint streams come by the configuration.
        model: At its first weights.
        alpha: Weight of the pseudo half.
        heads: The folder of a model from whose heads those of joint streams start; None starts them at random.
    """
    config, settings, name = context.config, context.request["settings"], str(context.request["name"])
    steps, per_step = int(settings["steps"]), sum(stream.images_per_step for stream in streams)
    silence_lightning()
    context.note_short_training(training)
    joint = [_joint_part(context, joint_name) for joint_name in context.joint]
    groups = [_joint_group(context, part, model) for part in joint]
    warm(context.index, streams)
    augmentation = build_augmentation(training.augmentation or config.augmentation)
    every = [(context.index, stream) for stream in streams]
    every += [(group.index, stream) for group in groups for stream in group.streams]
    shares = [StreamPlan(stream.name, stream.ids(index), stream.images_per_step) for index, stream in every]
    dataset = StepDataset(
        context.index, streams, Plan(config.seed, name, shares), context.task, oversampled(config.canvas, augmentation),
        steps, micro_batches=config.device.micro_batches, joint=groups,
    )  # fmt: skip
    module = TrainingModule(
        _with_heads(context, model, joint, heads), context.task, augmentation, _objective(context, context.task, alpha),
        Recipe(name, config.seed, steps, per_step, training), context.folder,
        precision=config.device.precision, joint=joint,
    )  # fmt: skip
    metric = context.task.metric_name
    validation = Validation(metric, lambda trained: context.scores(trained, "validation"), config.validate_every_images)
    recorder = context.recorder(validation)
    fit(module, dataset, recorder, context.accelerator, devices=config.device.devices, workers=config.device.workers)
    seen = steps * per_step
    if context.is_main_rank:
        facts = {**context.description(), "step": steps, "images_seen": seen}
        save_model(context.folder, "model", module.result, facts)
        if (with_heads := module.whole_result) is not None:
            save_model(context.folder, HEADS, with_heads.heads, facts)
    return {
        "steps": steps,
        "images_seen": seen,
        "joint_images_seen": {part.name: steps * config.joint[part.name].images for part in joint},
        "training_seconds": recorder.history.seconds,
        "skipped_steps": module.skipped_steps,
        "metric": {"name": metric, "unit": context.task.unit},
        "streams": {stream.name: len(stream.rows) for _, stream in every},
    }


def oversampled(canvas: tuple[int, int], augmentation: Augmentation) -> tuple[int, int]:
    """Return the canvas that an augmentation wants, to return this one."""
    return canvas[0] * augmentation.oversample, canvas[1] * augmentation.oversample


def warm(index: Index, streams: Sequence[Stream]) -> None:
    """Have every source answer once: what it loads for that, workers then share with this process."""
    sources = np.concatenate([chunk.indices.to_numpy() for chunk in index.table.column("source").chunks])
    for stream in streams:
        for place in np.unique(sources[stream.rows], return_index=True)[1]:
            stream.labeller(int(stream.rows[place]))


def _objective(context: StageContext, task: Task[Any, Any], alpha: float) -> NormalisedObjective:
    settings, accelerator = context.config.objective, context.accelerator
    return NormalisedObjective(
        task.terms, alpha, normalise=settings.normalise, decay=settings.decay,
        device=accelerator.device(), dtype=accelerator.reduction_dtype,
    )  # fmt: skip


def _joint_part(context: StageContext, name: str) -> JointPart:
    config, task = context.config.joint[name], context.joint[name].task
    objective = _objective(context, task, alpha=0.0)
    return JointPart(name, task, build_augmentation(config.augmentation), objective, config.weight)


def _joint_group(context: StageContext, part: JointPart, model: nn.Module) -> Group:
    config, labels = context.config.joint[part.name], context.joint[part.name].labels
    device, stride = context.config.device, max(backbone_of(model).channels)
    at_once = config.images // (device.devices * device.micro_batches)
    if at_once * math.prod(-(-side // stride) for side in config.canvas) == 1:
        height, width = config.canvas
        raise ConfigError(
            f"joint.{part.name}: one image at once on a canvas of {height}×{width} is a single value at stride "
            f"{stride}, of which batch norm can make no statistics\n  raise joint.{part.name}.images or its canvas, or "
            "lower device.micro_batches or device.devices"
        )
    stream = Stream(f"joint.{part.name}", labels.index.rows("labelled"), config.images, labels)
    warm(labels.index, [stream])
    return Group(labels.index, (stream,), part.task, oversampled(config.canvas, part.augmentation))


def _with_heads(context: StageContext, model: nn.Module, joint: Sequence[JointPart], heads: Path | None) -> nn.Module:
    if not joint:
        return model
    torch.manual_seed(seed_of(fold(context.config.seed, name_key("joint"))))
    whole = JointModel(model, backbone_of(model), {part.name: part.task for part in joint})
    share_batch_norm(whole.others, context.accelerator, context.config.device)
    if heads is not None:
        with made_again(heads):
            load_weights(whole.heads, heads / f"{HEADS}.safetensors")
    return whole
