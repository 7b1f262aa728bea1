"""Two steps of training of each of the paper's models, whole, with its own settings, on small pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from selftrain.recipes.build import recipe_config
from selftrain.recipes.cells import Cell, all_cells
from selftrain_core.components import build_model, build_task
from selftrain_core.config import parse_config
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.goals import Goal
from selftrain_core.rounds import self_train
from selftrain_core.testing.samples import draws, write_images

CELLS: dict[tuple[str, bool], Cell] = {}
for cell in all_cells().values():
    CELLS.setdefault((cell.model, cell.joint is not None), cell)


def random(section: Any) -> Any:
    """Return a backbone's section with no weights to load."""
    if not isinstance(section, dict):
        return section
    return {key: "random" if key == "init" else random(value) for key, value in section.items()}


@dataclass(frozen=True)
class Sets:
    """Small sets of pictures with boxes, and with masks."""

    folder: Path
    boxes: dict[str, Any]
    masks: dict[str, Any]

    def small(self, cell: Cell, side: int) -> dict[str, Any]:
        """Return a cell's configuration on few and small pictures, two to a step and two steps, with random weights."""
        raw = recipe_config(cell)
        raw["data"] = dict(self.boxes if raw["task"]["name"].startswith("detection") else self.masks)
        if not cell.unlabelled:
            raw["data"]["unlabelled"] = None
        raw |= {"canvas": [side, side], "backbone": random(raw["backbone"]), "validate_every_images": 10**6}
        raw["teacher"] = {**raw["teacher"], "steps": 2, "human": 2}
        if cell.unlabelled:
            raw["student"] = {**raw["student"], "steps": 2, "human": 2, "pseudo": 2}
        raw["device"] |= {"accelerator": "core/cpu", "workers": 0}  # in the recipe's precision: bfloat16, but for one
        for joint in raw.get("joint", {}).values():
            write_images(self.folder / "classes", [f"{name}/{n}" for name in ("cat", "dog") for n in range(2)])
            joint["sources"]["train"]["images"] = str(self.folder / "classes")
            joint |= {"classes": ["cat", "dog"], "images": 2, "canvas": [64, 64]}
        return raw


@pytest.fixture
def sets(
    configure: Callable[..., Any],
    configure_boxes: Callable[[Path], dict[str, Any]],
    shared_squares: Path,
    shared_box_squares: Path,
    tmp_path: Path,
) -> Sets:
    """Return small sets."""
    masks = configure(shared_squares).model_dump(mode="json")["data"]
    return Sets(tmp_path, configure_boxes(shared_box_squares)["data"], masks)


def losses(folder: Path) -> list[dict[str, float]]:
    """Return what the log says of each step, all of it finite and no step skipped."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    steps = [line["train"] for line in lines if "train" in line]
    assert [step["skipped_steps"] for step in steps] == [0, 0]
    assert all(math.isfinite(value) for step in steps for value in step.values())
    return steps


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind[0] + "-joint" * kind[1])
def test_two_steps(kind: tuple[str, bool], sets: Sets, tmp_path: Path) -> None:
    raw = sets.small(CELLS[kind], side=64 if kind[0] == "l2-nas-fpn" else 128)
    self_train(parse_config(raw, base_dir=tmp_path), tmp_path / "run", goal=Goal("teach"), in_process=True)
    steps = losses(tmp_path / "run/round-0/teacher")
    assert all(("imagenet_loss" in step) == kind[1] for step in steps)
    state = torch.load(tmp_path / "run/round-0/teacher/last.ckpt", weights_only=True)["module"]
    taught = sum(len(group["params"]) for group in state["optimizer"]["param_groups"])
    assert len(state["optimizer"]["state"]) == taught, "a parameter has no gradient"


STUDENTS = [
    "table7-b7-retinanet-random-s4-coco20-self-imagenet-joint",
    "table5-spinenet-143-random-s3-coco-self-oid",
    "table6-b7-nas-fpn-imagenetpp-s4-voc-self-vocaug",
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STUDENTS)
def test_self_training_to_its_end(name: str, sets: Sets, tmp_path: Path) -> None:
    """Teacher, labels (of masks, at the paper's six scales), and a student whose halves are both learnt from."""
    cell = all_cells()[name]
    raw = sets.small(cell, side=128)
    raw["device"]["precision"] = "float32"  # a processor takes thrice as long for the other
    # What models of two steps are as sure of.
    raw["policy"]["threshold"] = 0.0
    if cell.model != "b7-nas-fpn":
        raw["task"] = {**raw["task"], "prediction": {**raw["task"].get("prediction", {}), "floor": 0.0}}
    summary = self_train(parse_config(raw, base_dir=tmp_path), tmp_path / "run", in_process=True)
    assert [(model["name"], model["images_seen"]) for model in summary["models"] if model["checkpoint"] == "last"] == [
        ("teacher", 4),
        ("student", 8),
    ]
    assert all(math.isfinite(model["test"]) for model in summary["models"])
    steps = losses(tmp_path / "run/round-1/student")
    assert all(step["human_loss"] > 0 and step["pseudo_loss"] > 0 for step in steps)
    assert all(("imagenet_loss" in step) == bool(cell.joint) for step in steps)
    result = json.loads((tmp_path / "run/round-1/student/stage.json").read_text())["result"]
    assert result["nothing_kept"] == []
    manifest = json.loads((tmp_path / "run/round-1/pseudo-labels/manifest.json").read_text())
    assert len(manifest["labelling"]["scales"]) == (6 if cell.model == "b7-nas-fpn" else 1)


ARCHITECTURES = {model: cell for (model, is_joint), cell in CELLS.items() if not is_joint}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_parameter_learns(model: str) -> None:
    """What is asked of the outputs is drawn, so that no anchor and no pixel is left out; two steps, for zeros at first.

    On a canvas on which no map is a single pixel: there, a bias is nothing to the batch norm behind it. That of
    EfficientNet-L2 is the smallest such: it takes many gigabytes.
    """
    raw = recipe_config(ARCHITECTURES[model])
    torch.manual_seed(0)
    task = build_task(TaskChoice.model_validate(raw["task"]), ["a", "b", "c"])
    built, _ = build_model(task, BackboneChoice.model_validate(random(raw["backbone"])))
    optimizer = torch.optim.SGD(built.train().parameters(), 1e-3)
    has_moved: dict[str, bool] = {}
    for step in range(2):
        optimizer.zero_grad()
        outputs = built(draws((2, 3, 128, 256 if model != "l2-nas-fpn" else 128), step))
        tensors = [outputs] if isinstance(outputs, torch.Tensor) else [outputs.logits_BAC, outputs.deltas_BA4]
        asked = [(tensor * (draws(tuple(tensor.shape), step, 1) - 0.5)).sum() for tensor in tensors]
        torch.stack(asked).sum().backward()
        optimizer.step()
        for name, parameter in built.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            has_moved[name] = has_moved.get(name, False) or bool(parameter.grad.any())
    assert [name for name, moved in has_moved.items() if not moved] == []
