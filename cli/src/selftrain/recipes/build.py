"""A cell of the paper's tables as a configuration, and what is to be known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selftrain.recipes.cells import Cell, all_cells
from selftrain.recipes.datasets import data_section, joint_section, things_to_make
from selftrain.recipes.models import MODELS, SIMCLR_CHECKPOINT
from selftrain_core.config import RunConfig, parse_config

Section = dict[str, Any]

VALIDATIONS = 20
"""Of a training, in which it looks at all held-out images."""
_SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
_MAGNITUDE = {"r101-retinanet": 15}
"""Of RandAugment, where it is not 10 (Table 12)."""
_SPINENETS_OWN = {"name": "augment/s1", "scale_min": 0.1, "scale_max": 1.9}
"""Flip and jitter of the released SpineNets, with which those of Table 5 were trained that had no self-training."""


def recipe_config(cell: Cell) -> Section:
    """Return the configuration of a cell, as it stands in a YAML file."""
    model = MODELS[cell.model]
    teacher: Section = {
        "steps": cell.teacher_steps or cell.steps,
        "human": model.batch,
        "optimizer": model.optimizer,
        "ema_decay": None,
    }
    config: Section = {
        "canvas": [model.canvas, model.canvas],
        "data": data_section(cell.labelled, cell.unlabelled),
        "task": model.task,
        "backbone": model.backbone(model.init(cell.init)),
        "augmentation": _augmentation(cell, cell.level),
        "policy": {"name": "core/fixed", "threshold": 0.5},
        "teacher": teacher,
        "baseline": False,
        "validate_every_images": _validation_interval(cell),
        "device": {"precision": model.precision},
    }
    if cell.joint:
        config["joint"] = joint_section(cell.joint, model.batch)
    if cell.unlabelled:
        config["student"] = {**teacher, "steps": cell.steps, "human": model.taught, "pseudo": model.taught}
        config["student"]["start"] = cell.start
        config["objective"] = {"alpha": cell.alpha, "normalise": True, "decay": 0.9997}
        if model.classes == "voc":
            config["labelling"] = {"scales": _SCALES, "flip": False}
        if cell.teacher_level:
            config["teacher"] = {**teacher, "augmentation": _augmentation(cell, cell.teacher_level)}
    return config


def _validation_interval(cell: Cell) -> int:
    """Return a twentieth of the images that the shorter of the cell's trainings sees."""
    model = MODELS[cell.model]
    assert cell.steps is not None
    seen = [(cell.teacher_steps or cell.steps) * model.batch, images_seen(cell)]
    return min(seen) // VALIDATIONS


def parsed(cell: Cell) -> RunConfig:
    """Return the same, checked; nothing it names need be there."""
    return parse_config(recipe_config(cell), base_dir=Path.cwd(), name=f"the recipe {cell.name}")


def to_count(cell: Cell) -> RunConfig:
    """Return the same with numbers for the names of a joint stream's classes, which are read from a file otherwise."""
    config = recipe_config(cell)
    for stream in config.get("joint", {}).values():
        stream["classes"] = [str(number) for number in range(IMAGENET_CLASSES)]
    return parse_config(config, base_dir=Path.cwd(), name=f"the recipe {cell.name}")


IMAGENET_CLASSES = 1000


def images_seen(cell: Cell) -> int:
    """Return how many images the cell's model sees in training, its teacher's and joint training's not counted."""
    model = MODELS[cell.model]
    assert cell.steps is not None
    return cell.steps * (2 * model.taught if cell.unlabelled else model.batch)


def same_as(cell: Cell) -> list[str]:
    """Return the other recipes of the same configuration: tables repeat each other's cells."""
    config = recipe_config(cell)
    return [each.name for each in all_cells().values() if each != cell and recipe_config(each) == config]


def to_make(cell: Cell) -> list[str]:
    """Return what has to be there beside the sets, as commands where there are such; RECIPE.yaml is the recipe."""
    found = things_to_make(cell.labelled, cell.unlabelled)
    if cell.joint:
        found.append(
            "python -c \"import json, os; json.dump(sorted(os.listdir('imagenet/train')), "
            "open('imagenet/classes.json', 'w'))\""
        )
    if cell.init == "simclr":
        found.append(
            f"{SIMCLR_CHECKPOINT}: the published weights, as PyTorch's; or those of a run of your own, "
            "RUN/pretraining/backbone.safetensors"
        )
    return found


def _augmentation(cell: Cell, level: str) -> Section:
    section: Section = {"name": f"augment/{level.lower()}"} if level != "own" else dict(_SPINENETS_OWN)
    if level == "S4":
        section["magnitude"] = _MAGNITUDE.get(cell.model, 10)
    if MODELS[cell.model].classes == "coco":
        section["min_visibility"] = 0.0
    return section
