"""The stage that pre-trains a backbone on images without labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrain_core.accelerators import share_batch_norm, shares_batch_norm
from selftrain_core.batch import PSEUDO, Targets
from selftrain_core.checking import CHECKED, unless_checked, unusable_images
from selftrain_core.components import backbone_of, body_of, build_augmentation
from selftrain_core.contrastive import ContrastiveModel, ContrastiveModule
from selftrain_core.errors import ConfigError, DataError
from selftrain_core.files import write_json
from selftrain_core.fitting import fit, silence_lightning
from selftrain_core.geometry import Geometry
from selftrain_core.index import Index
from selftrain_core.keys import fold, name_key, seed_of
from selftrain_core.labels import Decisions
from selftrain_core.plan import Plan, StreamPlan
from selftrain_core.recorder import LAST_CHECKPOINT
from selftrain_core.samples import StepDataset, Stream
from selftrain_core.stage_context import BACKBONE, StageContext
from selftrain_core.stage_training import oversampled
from selftrain_core.stepping import Recipe
from selftrain_core.weights import save_model
from selftrain_core.workshop import PRETRAINING, PRETRAINING_INDEX

LEFT_OUT = "left-out.json"
"""Which images a pre-training does not look at, and why."""
LEAST_SHARE = 2
"""Images of one device in a step: batch norm turns the views of a single one into their own opposites."""


@dataclass(frozen=True)
class _NoLabels:
    """Nothing is known of an image, and nothing is made of it."""

    source: int = PSEUDO

    def __call__(self, row: int) -> tuple[Any, None]:
        del row
        return None, None

    def to_targets(self, labels: Any, decisions: Decisions | None, geometry: Geometry) -> Targets:
        del labels, decisions, geometry
        return Targets()


def pretrain(context: StageContext) -> dict[str, Any]:
    """Train the backbone to tell views of one image from those of others, and leave its weights as an init."""
    config, settings = context.config, context.config.pretraining
    assert settings is not None
    _refuse_uneven_shares(context)
    silence_lightning()
    if config.device.micro_batches > 1:
        context.note("device.micro_batches: pre-training takes its steps whole; each view is told from all of its step")
    context.note_short_training(settings)
    name = str(context.request["name"])
    index, no_labels = Index(context.run / PRETRAINING_INDEX), _NoLabels()
    stream = Stream("images", _usable_rows(context, index), settings.images_per_step, no_labels)
    if len(stream.rows) < settings.images_per_step:
        raise ConfigError(
            f"pretraining.images_per_step: {settings.images_per_step} images in a step, but pretraining.images holds "
            f"{len(stream.rows)} that can be used: an image would be told from itself\n  lower images_per_step to at "
            "most that"
        )
    plan = Plan(config.seed, name, [StreamPlan(stream.name, stream.ids(index), stream.images_per_step)])
    augmentation = build_augmentation(settings.augmentation)
    canvas = oversampled(config.canvas, augmentation)
    dataset = StepDataset(index, [stream], plan, no_labels, canvas, settings.steps)
    backbone = body_of(backbone_of(context.new_model(with_init=True)))
    torch.manual_seed(seed_of(fold(config.seed, name_key(name))))
    model = ContrastiveModel(backbone, settings)
    share_batch_norm(model.head, context.accelerator, config.device)
    _leave_out_what_is_idle(model, torch.zeros(2, 3, *config.canvas))
    recipe = Recipe(name, config.seed, settings.steps, settings.images_per_step, settings)
    module = ContrastiveModule(model, augmentation, recipe, context.folder, precision=config.device.precision)
    recorder = context.recorder(None)
    fit(module, dataset, recorder, context.accelerator, devices=config.device.devices, workers=config.device.workers)
    seen = settings.steps * settings.images_per_step
    if context.is_main_rank:
        facts = {**context.description(), "step": settings.steps, "images_seen": seen}
        save_model(context.folder, BACKBONE, backbone, facts)
    return {
        "steps": settings.steps,
        "images_seen": seen,
        "training_seconds": recorder.history.seconds,
        "skipped_steps": module.skipped_steps,
        "streams": {stream.name: len(stream.rows)},
    }


def _refuse_uneven_shares(context: StageContext) -> None:
    settings, device = context.config.pretraining, context.config.device
    assert settings is not None
    if device.devices == 1:
        return
    share, rest = divmod(settings.images_per_step, device.devices)
    if rest or share < LEAST_SHARE:
        raise ConfigError(
            f"pretraining.images_per_step: {settings.images_per_step} images cannot be shared by {device.devices} "
            f"devices, evenly and at least {LEAST_SHARE} each"
        )
    if not shares_batch_norm(context.accelerator, device):
        context.note(
            f"batch norm sees the {share} images of one device at a time: which device a view comes from tells "
            "something of what it is, so less may be learnt\n  SimCLR has batch norm over all devices: "
            "device.sync_batch_norm, on CUDA"
        )


def _usable_rows(context: StageContext, index: Index) -> NDArray[np.int64]:
    """Return the rows of the images that can be read and are not held out.

    They stay the same once training has begun.

    Raises:
        DataError: It has begun with a picture that is a validation or test image by now.
    """
    rows, path = index.rows("unlabelled"), context.folder / LEFT_OUT
    with unless_checked(context.folder / CHECKED, _held_out_images(context)) as is_to_do:
        if is_to_do and path.exists() and (context.folder / LAST_CHECKPOINT).exists():
            _refuse_seen(context, context.folder)
        elif is_to_do:
            progress = partial(context.tell_progress, "checking images")
            write_json(path, unusable_images(index, rows, context.index, progress))
    left_out = {each["id"]: each["reason"] for each in _left_out(context.folder)}
    if left_out:
        id_, reason = next(iter(left_out.items()))
        context.note(
            f"pretraining.images: {len(left_out):,} of {len(rows):,} images are left out, '{id_}' because {reason}\n"
            f"  all of them: {path}"
        )
    return rows[[id_ not in left_out for id_ in index.ids(rows)]]


def check_pretraining(context: StageContext) -> None:
    """Make sure that a pre-training which is done has not seen what is held out by now.

    Raises:
        DataError: It has seen a picture that is a validation or test image.
    """
    folder = context.run / PRETRAINING
    if context.config.pretraining is None:
        return
    with unless_checked(folder / CHECKED, _held_out_images(context)) as is_to_do:
        if is_to_do:
            _refuse_seen(context, folder)


def _refuse_seen(context: StageContext, folder: Path) -> None:
    index, known = Index(context.run / PRETRAINING_INDEX), {each["id"] for each in _left_out(folder)}
    progress = partial(context.tell_progress, "checking images of the pre-training")
    for each in unusable_images(index, index.rows("unlabelled"), context.index, progress):
        if each["id"] not in known:
            raise DataError(
                f"the pre-training has looked at '{each['id']}' of pretraining.images, but {each['reason']}\n"
                f"  delete {folder} and run the same command: the backbone is trained again; or hold out another "
                "image"
            )


def _held_out_images(context: StageContext) -> dict[str, Any]:
    return {role: context.index.fingerprint(role) for role in ("validation", "test")}


def _left_out(folder: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
    return found


def _leave_out_what_is_idle(model: ContrastiveModel, images: Tensor) -> None:
    """Take from training what the coarsest map does not depend on: several ranks would wait for its gradient."""
    model.eval()(images).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    model.train()
