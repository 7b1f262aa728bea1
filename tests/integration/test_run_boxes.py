"""A whole run with boxes, in this process: what it leaves, how it resumes, what policies make of one store of boxes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from selftrain.main import main
from selftrain_core.config import RunConfig, parse_config
from selftrain_core.errors import ConfigError, DataError
from selftrain_core.goals import Goal
from selftrain_core.progress import Event
from selftrain_core.rounds import self_train
from selftrain_core.store import PseudoLabelStore

CLASSES = ("red", "green")
POOL = [f"pool-{number}" for number in range(4)]
TRAININGS = ("round-0/teacher", "round-0/baseline", "round-1/student")
STORE = "round-1/pseudo-labels"
STAGES = (
    "round-0/teacher",
    "round-0/teacher/evaluation",
    "round-1/pseudo-labels",
    "round-1/student",
    "round-1/student/evaluation",
    "round-0/baseline",
    "round-0/baseline/evaluation",
    "pictures",
)
LABELLED_BEFORE = ["round-0/teacher", "round-1/pseudo-labels"]
CHANGES: dict[str, Any] = {
    # After so few steps a teacher knows nothing; but its scores are high, and differ between images.
    "task": {"head": {"channels": 8, "num_convs": 1, "prior": 0.2}, "prediction": {"max_detections": 10}},
    "policy": {"name": "core/fixed", "threshold": 0.1},
    "teacher": {"steps": 10, "human": 2, "ema_decay": None, "optimizer": {"lr": 0.05, "warmup_steps": 1}},
    "student": {"steps": 4, "human": 1, "pseudo": 2, "optimizer": {"lr": 0.01, "warmup_steps": 1}},
    "baseline": True,
    "validate_every_images": 6,
    "device": {"checkpoint_seconds": 0},
}
MakeConfig = Callable[..., RunConfig]


class InterruptedHereError(Exception):
    """Stands for whatever ends a process in the middle."""


class Recording:
    """An observer that remembers, and may stop the run at an event."""

    def __init__(self, stop_at: tuple[str, str, int] | None = None) -> None:
        self.events: list[Event] = []
        self.stop_at = stop_at

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.stop_at and (event.kind, event.stage) == self.stop_at[:2] and event.done >= self.stop_at[2]:
            raise InterruptedHereError

    def stages(self, kind: str) -> list[str]:
        return [event.stage for event in self.events if event.kind == kind]


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings with changes; another component has none of the settings of the one before."""
    result = dict(settings)
    for key, value in changes.items():
        old = settings.get(key)
        same = isinstance(value, dict) and isinstance(old, dict) and value.get("name") in (None, old.get("name"))
        result[key] = merged(old, value) if isinstance(old, dict) and same else value
    return result


@pytest.fixture(scope="module")
def settings(shared_box_squares: Path, configure_boxes: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    return merged(configure_boxes(shared_box_squares), CHANGES)


@pytest.fixture(scope="module")
def make_config(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    """Return a function that configures a run, with changes given as ``student={"steps": 3}``."""
    base = tmp_path_factory.getbasetemp()
    return lambda **changes: parse_config(merged(settings, changes), base_dir=base)


@pytest.fixture(scope="module")
def undisturbed(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run, which no test changes."""
    run = tmp_path_factory.mktemp("undisturbed-boxes") / "run"
    self_train(make_config(), run, in_process=True)
    return run


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run."""
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def weights(run: Path) -> dict[str, bytes]:
    return {name: (run / name / "model.safetensors").read_bytes() for name in TRAININGS}


def best_scores(run: Path) -> dict[str, float]:
    """Return of each image of the pool the score of its surest box."""
    store = PseudoLabelStore(run / STORE, CLASSES)
    return {id_: max(store.row(id_)["scores"], default=0.0) for id_ in POOL}


def between(scores: dict[str, float]) -> tuple[float, int]:
    """Return a score that some images reach and others do not, and how many reach it."""
    values = sorted(scores.values())
    place = int(np.argmax(np.diff(values)))
    assert values[place + 1] - values[place] > 1e-3, "images are told apart by their scores"
    return (values[place] + values[place + 1]) / 2, len(values) - place - 1


def learn(
    config: RunConfig, run: Path, *, start_over: bool = False, stop_at: tuple[str, str, int] | None = None
) -> tuple[dict[str, Any], Recording]:
    """Go on to the student, and return what is known of it with what happened."""
    seen = Recording(stop_at)
    report = self_train(config, run, seen, goal=Goal("learn"), in_process=True, start_over=start_over)
    return report["stages"][-1]["result"], seen


def pseudo_losses(run: Path) -> list[float]:
    lines = (run / "round-1/student/metrics.jsonl").read_text().splitlines()
    return [row["train"]["pseudo_loss"] for line in lines if "train" in (row := json.loads(line))]


# --- a run ---


def test_all_stages_finish_and_the_summary_is_of_average_precision(undisturbed: Path) -> None:
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert (summary["metric"], summary["unit"]) == ("ap", "% AP")
    assert {model["name"] for model in summary["models"]} == {"teacher", "student", "baseline"}
    for model in summary["models"]:
        assert 0 <= model["test"] <= 100
    for name in STAGES:
        assert json.loads((undisturbed / name / "stage.json").read_text())["result"], name
    scores = json.loads((undisturbed / "round-1/student/evaluation/stage.json").read_text())["result"]["last"]["test"]
    assert {"ap", "ap50", "ap75", "ap_small", "ap/red", "ap/green"} <= set(scores)
    assert (undisturbed / "pictures/validation.png").stat().st_size > 0
    assert "% AP" in (undisturbed / "summary.md").read_text()
    store = PseudoLabelStore(undisturbed / STORE, CLASSES)
    assert store.manifest["states"] == {"labelled": 4}
    assert all(pseudo_losses(undisturbed))


def test_an_interrupted_student_ends_like_an_undisturbed_one(
    make_config: MakeConfig, finished: Path, undisturbed: Path
) -> None:
    student = finished / "round-1/student"
    shutil.rmtree(student)
    with pytest.raises(InterruptedHereError):
        learn(make_config(), finished, stop_at=("score", "round-1/student", 6))
    assert json.loads((student / "last.json").read_text())["step"] == 1, "it has something to go on from"
    _, seen = learn(make_config(), finished)
    assert (seen.stages("skipped"), seen.stages("started")) == (LABELLED_BEFORE, ["round-1/student"])
    assert weights(finished) == weights(undisturbed)
    for file in ("metrics.jsonl", "selected.safetensors"):
        assert (student / file).read_bytes() == (undisturbed / "round-1/student" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop_at",
    [
        ("score", "round-0/teacher", 12),
        ("progress", STORE, 4),
        ("score", "round-1/student", 6),
        ("score", "round-0/baseline", 12),
    ],
    ids=lambda stop: stop[1],
)
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    make_config: MakeConfig, undisturbed: Path, tmp_path: Path, stop_at: tuple[str, str, int]
) -> None:
    run, seen = tmp_path / "run", Recording()
    with pytest.raises(InterruptedHereError):
        self_train(make_config(), run, Recording(stop_at), in_process=True)
    resumed = self_train(make_config(), run, seen, in_process=True)
    done = STAGES[: STAGES.index(stop_at[1])]
    assert (tuple(seen.stages("skipped")), tuple(seen.stages("started"))) == (done, STAGES[len(done) :])
    assert weights(run) == weights(undisturbed)
    expected = json.loads((undisturbed / "summary.json").read_text())
    for model, undisturbed_model in zip(resumed["models"], expected["models"], strict=True):
        assert {**model, "seconds": 0} == {**undisturbed_model, "seconds": 0}
    for name in TRAININGS:
        assert (run / name / "metrics.jsonl").read_text() == (undisturbed / name / "metrics.jsonl").read_text()
    stores = [PseudoLabelStore(folder / STORE, CLASSES) for folder in (run, undisturbed)]
    assert all(stores[0].row(id_) == stores[1].row(id_) for id_ in POOL)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_the_command_line_every_stage_has_its_own_process(settings: dict[str, Any], tmp_path: Path) -> None:
    path, run = tmp_path / "run.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(main, ["run", str(path), "-o", str(run)])
    assert done.exit_code == 0, done.output
    assert "AP" in done.output
    assert json.loads((run / "summary.json").read_text())["metric"] == "ap"


# --- policies ---


def test_every_policy_reads_the_same_boxes(make_config: MakeConfig, finished: Path) -> None:
    """None costs an inference, and each teaches another student."""
    cut, _ = between(best_scores(finished))
    low = cut / 2
    policies: list[dict[str, Any]] = [
        {"name": "core/fixed", "threshold": cut, "ignore_above": low},
        {"name": "core/per-class", "thresholds": {"green": low}, "threshold": 1.0},
        {"name": "core/adaptive", "lowest": 0.05, "highest": 0.9},
        {"name": "core/soft", "threshold": low},
    ]
    students = [(finished / "round-1/student/model.safetensors").read_bytes()]
    for policy in policies:
        _, seen = learn(make_config(policy=policy), finished, start_over=True)
        assert seen.stages("skipped") == LABELLED_BEFORE, policy
        assert seen.stages("started") == ["round-1/student"], policy
        assert all(loss > 0 for loss in pseudo_losses(finished)), policy
        students.append((finished / "round-1/student/model.safetensors").read_bytes())
    assert len(set(students)) == len(students)


def test_another_policy_makes_nothing_but_the_student_again(make_config: MakeConfig, finished: Path) -> None:
    again = Recording()
    self_train(make_config(policy={"threshold": 0.12}), finished, again, in_process=True, start_over=True)
    assert again.stages("started") == ["round-1/student", "round-1/student/evaluation", "pictures"]


# --- images without boxes ---


def test_without_negatives_images_of_which_nothing_is_kept_are_left_out(
    make_config: MakeConfig, finished: Path
) -> None:
    cut, reached = between(best_scores(finished))
    config = make_config(policy={"threshold": cut}, student={"negatives": False})
    assert learn(config, finished, start_over=True)[0]["streams"] == {"human": 4, "pseudo": reached}
    config = make_config(policy={"threshold": cut})
    assert learn(config, finished, start_over=True)[0]["streams"] == {"human": 4, "pseudo": 4}


def test_without_negatives_and_without_anything_kept_there_is_nothing_to_learn(
    make_config: MakeConfig, finished: Path
) -> None:
    config = make_config(policy={"threshold": 1.0}, student={"negatives": False})
    with pytest.raises(
        DataError,
        match=r"keeps nothing of what the teacher saw in 4 images, and student\.negatives is false: .*\n.*lower the "
        r"policy's threshold, train the teacher for longer, or set student\.negatives: true",
    ):
        learn(config, finished, start_over=True)


@pytest.mark.parametrize(
    ("policy", "least"),
    [
        ({"threshold": 0.25}, "0.25"),
        ({"threshold": 0.5, "ignore_above": 0.2}, "0.2"),
        ({"name": "core/adaptive", "lowest": 0.5, "ignore_above": 0.5}, "0.25"),
    ],
)
def test_a_floor_above_what_the_policy_is_to_see_is_refused(
    make_config: MakeConfig, tmp_path: Path, policy: dict[str, Any], least: str
) -> None:
    run = tmp_path / "run"
    name = policy.get("name", "core/fixed")
    with pytest.raises(
        ConfigError,
        match=rf"policy {name} decides on scores from {least} up, but task\.prediction\.floor: 0\.3 forgets "
        rf"predictions that score 0\.3 or less.* background; lower task\.prediction\.floor to at most {least}, or "
        r"raise the thresholds under policy",
    ):
        learn(make_config(task={"prediction": {"floor": 0.3}}, policy=policy), run)
    assert not (run / "round-0/teacher/model.safetensors").exists()


def test_an_image_in_which_nothing_is_found_is_empty_and_a_negative(
    make_config: MakeConfig, undisturbed: Path, tmp_path: Path
) -> None:
    scores = best_scores(undisturbed)
    floor, reached = between(scores)
    run = tmp_path / "run"
    config = make_config(task={"prediction": {"floor": floor}}, policy={"threshold": 0.0}, student={"pseudo": 4})
    result, _ = learn(config, run)
    assert (run / "round-0/teacher/model.safetensors").read_bytes() == weights(undisturbed)["round-0/teacher"]
    store = PseudoLabelStore(run / STORE, CLASSES)
    assert store.manifest["states"] == {"labelled": reached, "empty": 4 - reached}
    for id_ in POOL:
        assert (store.row(id_)["state"], bool(store.row(id_)["boxes"])) == (
            ("labelled", True) if scores[id_] > floor else ("empty", False)
        )
    assert store.usable_ids() == set(POOL)
    assert result["streams"] == {"human": 4, "pseudo": 4}


def test_a_student_learns_of_a_pool_of_empty_images_that_it_is_empty(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result, _ = learn(make_config(task={"prediction": {"floor": 0.99}}, policy={"threshold": 0.99}), run)
    assert PseudoLabelStore(run / STORE, CLASSES).manifest["states"] == {"empty": 4}
    assert result["streams"] == {"human": 4, "pseudo": 4}
    losses = pseudo_losses(run)
    assert losses
    assert losses[-1] < losses[0]
    assert all(loss > 0 for loss in losses)
