"""Rounds, ratios of human to pseudo images, and starts of the student, end to end on tiny data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from selftrain.main import main
from selftrain_core.config import RunConfig, dump_config
from selftrain_core.rounds import self_train
from selftrain_core.weights import read_description

MakeConfig = Callable[..., RunConfig]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_rounds_on_the_command_line(make_config: MakeConfig, tmp_path: Path) -> None:
    """Every stage in its own process, as users have it."""
    path, run = tmp_path / "run.yaml", tmp_path / "run"
    path.write_text(dump_config(make_config(teacher={"steps": 2}, student={"steps": 2}, baseline=False)))
    done = CliRunner().invoke(main, ["run", str(path), "-o", str(run), "--set", "rounds=2"])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((run / "config.yaml").read_text())["rounds"] == 2
    teachers = {number: _teacher_of(run, number) for number in (1, 2)}
    assert teachers == {1: _digest(run / "round-0/teacher"), 2: _digest(run / "round-1/student")}
    assert _digest(run / "round-2/student") not in teachers.values()
    summary = json.loads((run / "summary.json").read_text())
    assert {(model["name"], model["round"]) for model in summary["models"]} == {
        ("teacher", 0), ("student", 1), ("student", 2),
    }  # fmt: skip


def _teacher_of(run: Path, number: int) -> str:
    manifest = json.loads((run / f"round-{number}/pseudo-labels/manifest.json").read_text())
    return str(manifest["teacher"]["digest"])


def _digest(folder: Path) -> str:
    return str(read_description(folder)["digest"])


@pytest.mark.parametrize(
    ("human", "pseudo", "start"), [(1, 3, "teacher"), (3, 1, "init")], ids=["1:3 from the teacher", "3:1 from the init"]
)
def test_ratios_and_starts(make_config: MakeConfig, tmp_path: Path, human: int, pseudo: int, start: str) -> None:
    """Validation comes at the first step that reaches a multiple of the images asked for; 4 a step do not divide 6."""
    student = {"steps": 4, "human": human, "pseudo": pseudo, "start": start}
    config = make_config(teacher={"steps": 2}, student=student, baseline=False, validate_every_images=6)
    run = tmp_path / "run"
    summary = self_train(config, run, in_process=True)
    seen = {model["name"]: model["images_seen"] for model in summary["models"] if model["checkpoint"] == "last"}
    assert seen == {"teacher": 2 * 3, "student": 4 * 4}
    lines = [json.loads(line) for line in (run / "round-1/student/metrics.jsonl").read_text().splitlines()]
    assert [line["images_seen"] for line in lines if "validation" in line] == [8, 12, 16]
    losses = [line["train"] for line in lines if "train" in line]
    assert all(loss["human_loss"] > 0 and loss["pseudo_loss"] > 0 for loss in losses)
    assert losses[0]["ratio"] == 1
    # Halves are means over their own images: the weight of a half is α's affair, not that of its number of images.
    first = losses[0]
    assert first["loss"] == pytest.approx((first["human_loss"] + first["pseudo_loss"]) / 2)


def test_a_model_with_an_augmentation_of_its_own(make_config: MakeConfig, tmp_path: Path) -> None:
    """The teacher's changes the teacher alone, and the baseline is trained as the student is."""

    def digests(**changes: object) -> dict[str, str]:
        run = tmp_path / str(len(list(tmp_path.iterdir())))
        settings = {"steps": 2, "augmentation": changes.pop("teacher", None)}
        config = make_config(teacher=settings, student={"steps": 2}, **changes)
        self_train(config, run, in_process=True)
        names = {"teacher": "round-0/teacher", "baseline": "round-0/baseline", "student": "round-1/student"}
        return {name: _digest(run / folder) for name, folder in names.items()} | {"run": str(run)}

    varied, plain, apart = digests(), digests(augmentation="core/none"), digests(teacher={"name": "core/none"})
    assert apart["teacher"] == plain["teacher"] != varied["teacher"]
    assert apart["baseline"] == varied["baseline"] != plain["baseline"]
    assert apart["student"] not in (varied["student"], plain["student"])
    weights = [(Path(each["run"]) / "round-0/teacher/model.safetensors").read_bytes() for each in (apart, plain)]
    assert weights[0] == weights[1]
