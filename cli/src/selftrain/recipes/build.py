"""A cell of the paper's tables as a configuration, and what is to be known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selftrain.recipes.cells import Cell
from selftrain.recipes.datasets import data_section, joint_section, lists_to_make
from selftrain.recipes.models import MODELS, SIMCLR_CHECKPOINT
from selftrain_core.config import RunConfig, parse_config

Section = dict[str, Any]

VALIDATIONS = 20
"""Of a training, in which it looks at all held-out images."""
_SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
_MAGNITUDE = {"r101-retinanet": 15}
"""Of RandAugment, where it is not 10 (Table 12)."""


def recipe_config(cell: Cell) -> Section:
    """Return the configuration of a cell, as it stands in a YAML file."""
    model = MODELS[cell.model]
    init = model.inits.get(cell.init, "random") if cell.init != "random" else "random"
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
        "backbone": model.backbone(init),
        "augmentation": _augmentation(cell),
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


def images_seen(cell: Cell) -> int:
    """Return how many images the cell's model sees in training, its teacher's and joint training's not counted."""
    model = MODELS[cell.model]
    assert cell.steps is not None
    return cell.steps * (2 * model.taught if cell.unlabelled else model.batch)


def ours(cell: Cell) -> dict[str, str]:
    """Return what the paper does not state, by key, with the reason for what is there."""
    found = dict(MODELS[cell.model].ours)
    if cell.level == "S4":
        found["augmentation.num_operations"] = "not stated; RandAugment's own experiment on detection takes 1"
        found["augmentation.operations"] = "not stated; those of RandAugment's own experiment on detection"
    if cell.level in ("S2", "S3"):
        found["augmentation.policy"] = "not stated; v0 is the one that AutoAugment's paper on detection reports"
    if cell.table == 5 and not cell.unlabelled:
        found["augmentation"] = (
            "flip, and jitter from 0.1 to 1.9, as in the released settings; the paper has no numbers"
        )
    if cell.labelled in ("coco-20", "coco-50"):
        found["data.labelled"] = "how the fraction was drawn is not described; `selftrain split` draws by class"
    if cell.start == "init":
        found["objective.alpha"] = "not stated for a student from random weights; that of the one from the teacher"
    if cell.joint:
        found |= {
            "joint.imagenet.task": "where the classifier stands is not described; on the mean of the coarsest map",
            "joint.imagenet.images": "not described; as many as labelled ones without self-training",
            "joint.imagenet.canvas": "not described; 224, as ImageNet is mostly classified",
            "joint.imagenet.augmentation": "not described; flip, and jitter from 0.8 to 1.2",
            "joint.imagenet": "batch norm's running averages are of COCO's images alone; of the paper's it is not said",
            "joint.imagenet.classes": "the names of the folders, as a JSON list",
        }
        if cell.unlabelled:
            found["joint"] = "here the teacher, too, is trained jointly; of the paper's that is not said"
    if cell.table == 11:
        found["teacher.steps"] = "not stated for this table; those of the other PASCAL experiments"
    if not cell.unlabelled:
        for key in [key for key in found if key.startswith(("student.", "objective.", "labelling."))]:
            del found[key]
    return found


def differs(cell: Cell) -> dict[str, str]:
    """Return what the paper or the released settings state and is done otherwise here, by key."""
    found = dict(MODELS[cell.model].differs)
    if cell.table == 5 and cell.unlabelled:
        found["augmentation"] = (
            "S3 for teacher and student; the paper's teacher was trained without, as S3 made supervised training "
            "unstable: this one may diverge"
        )
    return found


def to_make(cell: Cell) -> list[str]:
    """Return what has to be there beside the sets, as commands where there are such; RECIPE.yaml is the recipe."""
    found = [lists_to_make(cell.labelled)]
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


def _augmentation(cell: Cell) -> Section:
    section: Section = {"name": f"augment/{cell.level.lower()}"}
    if cell.level == "S4":
        section["magnitude"] = _MAGNITUDE.get(cell.model, 10)
    if cell.table == 5 and not cell.unlabelled:
        section |= {"scale_min": 0.1, "scale_max": 1.9}
    return section
