"""Two steps of training of each of the paper's models, whole, with its own settings, on small pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftrain.recipes.build import recipe_config
from selftrain.recipes.cells import Cell, all_cells
from selftrain_core.config import parse_config
from selftrain_core.goals import Goal
from selftrain_core.rounds import self_train
from selftrain_core.testing.samples import write_images

CELLS: dict[tuple[str, bool], Cell] = {}
for cell in all_cells().values():
    CELLS.setdefault((cell.model, cell.joint is not None), cell)


def random(section: Any) -> Any:
    """Return a backbone's section with no weights to load."""
    if not isinstance(section, dict):
        return section
    return {key: "random" if key == "init" else random(value) for key, value in section.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind[0] + "-joint" * kind[1])
def test_two_steps(
    kind: tuple[str, bool],
    configure: Callable[..., Any],
    configure_boxes: Callable[[Path], dict[str, Any]],
    shared_squares: Path,
    shared_box_squares: Path,
    tmp_path: Path,
) -> None:
    raw = recipe_config(CELLS[kind])
    if raw["task"]["name"].startswith("detection"):
        raw["data"] = configure_boxes(shared_box_squares)["data"]
    else:
        raw["data"] = configure(shared_squares).model_dump(mode="json")["data"]
    raw |= {"canvas": [128, 128], "backbone": random(raw["backbone"]), "validate_every_images": 10**6}
    raw["teacher"] = {**raw["teacher"], "steps": 2, "human": 2}
    raw["device"] = {"accelerator": "core/cpu", "workers": 0}
    for joint in raw.get("joint", {}).values():
        write_images(tmp_path / "classes", [f"{name}/{n}" for name in ("cat", "dog") for n in range(2)])
        joint["sources"]["train"]["images"] = str(tmp_path / "classes")
        joint |= {"classes": ["cat", "dog"], "images": 2, "canvas": [64, 64]}
    self_train(parse_config(raw, base_dir=tmp_path), tmp_path / "run", goal=Goal("teach"), in_process=True)
    lines = map(json.loads, (tmp_path / "run/round-0/teacher/metrics.jsonl").read_text().splitlines())
    steps = [line["train"] for line in lines if "train" in line]
    assert [step["skipped_steps"] for step in steps] == [0, 0]
    assert all(math.isfinite(value) for step in steps for value in step.values())
    assert all(("imagenet_loss" in step) == kind[1] for step in steps)
