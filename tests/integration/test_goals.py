"""A run in steps: what `teach`, `label`, `learn` and `evaluate` do, and what a dry run says of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftrain_core import event_files
from selftrain_core.config import RunConfig
from selftrain_core.errors import ConfigError, DataError, RunError
from selftrain_core.forecast import forecast
from selftrain_core.goals import Goal
from selftrain_core.progress import Event
from selftrain_core.rounds import self_train
from selftrain_core.run_folder import RunFolder

MakeConfig = Callable[..., RunConfig]
TRAININGS = ("round-0/teacher", "round-0/baseline", "round-1/student")


class Recording:
    """An observer that remembers what was begun."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "started":
            self.started.append(event.stage)


def steps_to(goal: Goal, config: RunConfig, run: Path, **options: Any) -> tuple[list[str], dict[str, Any]]:
    """Return which stages were begun, and the result."""
    seen = Recording()
    result = self_train(config, run, seen, goal=goal, in_process=True, **options)
    return seen.started, result


def actions(config: RunConfig, run: Path, goal: Goal, **options: Any) -> dict[str, str]:
    return {stage["name"]: stage["action"] for stage in forecast(config, run, goal, **options)["stages"]}


def everything_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_in_steps_is_the_run_in_one(make_config: MakeConfig, undisturbed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", make_config()
    begun, result = steps_to(Goal("teach"), config, run)
    assert begun == ["round-0/teacher"]
    (teacher,) = result["stages"]
    assert (teacher["made"], teacher["result"]["images_seen"]) == (True, 24)
    curve = [json.loads(line) for line in (run / "round-0/teacher/metrics.jsonl").read_text().splitlines()]
    assert teacher["validation"] == curve[-1]["validation"]["miou"]
    begun, result = steps_to(Goal("label"), config, run)
    assert begun == ["round-1/pseudo-labels"]
    assert [stage["made"] for stage in result["stages"]] == [False, True]
    assert (run / "round-1/pseudo-labels/manifest.json").is_file()
    assert steps_to(Goal("learn"), config, run)[0] == ["round-1/student"]
    begun, partial = steps_to(Goal("evaluate"), config, run)
    assert begun == ["round-0/teacher/evaluation", "round-1/student/evaluation"]
    assert {model["name"] for model in partial["models"]} == {"teacher", "student"}
    assert "no compute-matched baseline" in (run / "summary.md").read_text()
    begun, whole = steps_to(Goal(), config, run)
    assert begun == ["round-0/baseline", "round-0/baseline/evaluation", "pictures"]
    assert {name: (run / name / "model.safetensors").read_bytes() for name in TRAININGS} == {
        name: (undisturbed / name / "model.safetensors").read_bytes() for name in TRAININGS
    }
    expected = json.loads((undisturbed / "summary.json").read_text())
    assert [{**m, "seconds": 0} for m in whole["models"]] == [{**m, "seconds": 0} for m in expected["models"]]


def test_learn_does_what_is_missing_before_it_and_nothing_after(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(rounds=2, teacher={"steps": 2}, student={"steps": 2})
    begun, _ = steps_to(Goal("label", 2), config, tmp_path / "run")
    assert begun == ["round-0/teacher", "round-1/pseudo-labels", "round-1/student", "round-2/pseudo-labels"]
    assert actions(config, tmp_path / "run", Goal("learn", 2))["round-2/student"] == "do"


def test_a_round_that_the_configuration_lacks(make_config: MakeConfig, tmp_path: Path) -> None:
    expected = r"there is no round 2: the configuration has rounds: 1\n.*--round 1, or more rounds: --set rounds=2"
    with pytest.raises(ConfigError, match=expected):
        steps_to(Goal("label", 2), make_config(), tmp_path / "run")


def test_evaluate_trains_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no finished model to evaluate; it may hold: round-0/teacher, .*\n.*teach"):
        steps_to(Goal("evaluate"), make_config(), tmp_path / "run")


def test_evaluate_takes_no_test_image_that_was_learnt_from(
    configure: MakeConfig, squares: Path, tmp_path: Path
) -> None:
    config, run = configure(squares), tmp_path / "run"
    steps_to(Goal("teach"), config, run)
    for folder in ("images", "masks"):
        (squares / folder / "test-2.png").write_bytes((squares / folder / "labelled-1.png").read_bytes())
    with pytest.raises(DataError, match=r"'test-2' of data\.test and 'labelled-1' of data\.labelled are the same"):
        steps_to(Goal("evaluate"), config, run)


def test_evaluate_takes_no_model_of_other_settings(make_config: MakeConfig, finished: Path) -> None:
    changed = make_config(objective={"alpha": 2.0})
    expected = r"round-1/student was made with other settings.*\n.*alpha: 1\.0 → 2\.0\n.*\n.*selftrain run with --start"
    with pytest.raises(RunError, match=expected):
        steps_to(Goal("evaluate"), changed, finished, start_over=True)
    assert (finished / "round-1/student/model.safetensors").is_file()


def test_a_summary_of_the_teacher_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    run, config = tmp_path / "run", make_config()
    steps_to(Goal("teach"), config, run)
    _, summary = steps_to(Goal("evaluate"), config, run)
    assert [(m["name"], m["gain"], m["checkpoint"]) for m in summary["models"]] == [
        ("teacher", None, "last"),
        ("teacher", None, "selected"),
    ]
    text = (run / "summary.md").read_text()
    assert "There is no student yet, so there is no gain" in text
    assert "This gain" not in text
    assert "Labelling" not in text


def test_without_a_pool_there_is_a_teacher_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(data={"unlabelled": None})
    begun, summary = steps_to(Goal(), config, tmp_path / "run")
    assert begun == ["round-0/teacher", "round-0/teacher/evaluation"]
    assert [model["name"] for model in summary["models"] if model["checkpoint"] == "last"] == ["teacher"]
    for goal in (Goal("label"), Goal("learn")):
        with pytest.raises(ConfigError, match=r"has no data\.unlabelled: there is nothing for a teacher to label"):
            steps_to(goal, config, tmp_path / "run")
    # With a pool it goes on from there: the teacher is the same.
    assert actions(make_config(), tmp_path / "run", Goal())["round-0/teacher"] == "skip"


def test_a_dry_run_does_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    outlook = forecast(make_config(), tmp_path / "none" / "run")
    assert list(tmp_path.iterdir()) == []
    assert outlook["images"] == {"labelled": 6, "unlabelled": 10, "validation": 4, "test": 5}
    teacher, labels, student = (outlook["stages"][place] for place in (0, 2, 3))
    assert (teacher["action"], teacher["steps"], teacher["images"]) == ("do", 8, 24)
    assert (labels["steps"], labels["images"]) == (None, 10)
    assert (student["steps"], student["images"]) == (6, 24)


def test_a_dry_run_says_what_the_command_would_do(make_config: MakeConfig, finished: Path) -> None:
    record = json.loads((finished / "round-1/student/stage.json").read_text())
    (finished / "round-1/student/stage.json").write_text(json.dumps({**record, "state": "unfinished"}))
    shutil.rmtree(finished / "pictures")
    before = everything_in(finished)
    outlook = {stage["name"]: stage for stage in forecast(make_config(), finished)["stages"]}
    assert outlook["round-0/teacher"]["action"] == "skip"
    assert (outlook["round-1/student"]["action"], outlook["round-1/student"]["done"]) == ("go on", 6)
    assert outlook["pictures"]["action"] == "do"
    changed = make_config(teacher={"steps": 9})
    refused = forecast(changed, finished)
    assert refused["stages"][0]["action"] == "refuse"
    assert refused["stages"][0]["changes"] == ["teacher.steps: 8 → 9"]
    with pytest.raises(RunError) as raised:
        self_train(changed, finished, in_process=True)
    assert str(raised.value) == refused["refusal"]
    again = forecast(changed, finished, start_over=True)
    assert (again["stages"][0]["action"], again["refusal"]) == ("make again", None)
    after = everything_in(finished)
    own = {finished, finished / ".lock", finished / "index.arrow.new"}  # of the command that was refused
    assert {path: time for path, time in after.items() if path not in own} == {
        path: time for path, time in before.items() if path not in own
    }


def test_a_dry_run_sees_that_the_folder_is_in_use(make_config: MakeConfig, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"):
        assert forecast(make_config(), tmp_path / "run")["in_use"]
    assert not forecast(make_config(), tmp_path / "run")["in_use"]


def test_a_summary_goes_with_the_stage_it_was_about(make_config: MakeConfig, finished: Path) -> None:
    changed = make_config(teacher={"steps": 9})
    assert actions(changed, finished, Goal("teach"), start_over=True)["round-1/student"] == "remove"
    steps_to(Goal("teach"), changed, finished, start_over=True)
    assert not (finished / "summary.json").exists()
    assert not (finished / "round-1/student").exists(), "it would lie beside a configuration that is not its own"


@pytest.mark.parametrize("look", [self_train, forecast])
def test_a_folder_of_other_files_is_left_alone(
    make_config: MakeConfig, tmp_path: Path, look: Callable[[RunConfig, Path], object]
) -> None:
    (tmp_path / "config.yaml").write_text("# a configuration that somebody wrote with care\n")
    for number in range(4):
        (tmp_path / f"photo-{number}.jpg").touch()
    before = everything_in(tmp_path)
    expected = (
        r"holds no run, but config\.yaml, photo-0\.jpg, photo-1\.jpg and 2 more; nothing.*\n.*empty folder with -o"
    )
    with pytest.raises(RunError, match=expected):
        look(make_config(), tmp_path)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("look", [self_train, forecast])
def test_a_run_folder_below_a_file(
    make_config: MakeConfig, tmp_path: Path, look: Callable[[RunConfig, Path], object]
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot be written to: (it is a file|Not a directory|.* is a file)"):
            look(make_config(), path)


def test_event_files_need_their_package(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "find_spec", lambda name: None)
    expected = (
        r"tensorboard is not installed\n.*pip install 'selftrain-core\[tensorboard\]'\n.*logging\.tensorboard=false"
    )
    with pytest.raises(ConfigError, match=expected):
        steps_to(Goal("teach"), make_config(logging={"tensorboard": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_logging_is_no_part_of_the_identity(
    make_config: MakeConfig, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "find_spec", lambda name: name)
    assert steps_to(Goal(), make_config(logging={"tensorboard": True}), finished)[0] == []


def test_event_files_of_a_training(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    steps_to(Goal("teach"), make_config(logging={"tensorboard": True}), run)
    written = EventAccumulator(str(run / "tensorboard/round-0/teacher"))
    written.Reload()
    assert [event.step for event in written.Scalars("validation/miou")] == [9, 18, 24]
    assert {"train/loss", "validation/iou/red"} <= set(written.Tags()["scalars"])


def test_a_change_to_a_stage_that_is_not_asked_for_is_refused_too(make_config: MakeConfig, tmp_path: Path) -> None:
    run, config = tmp_path / "run", make_config()
    steps_to(Goal("learn"), config, run)
    written = (run / "config.yaml").read_bytes()
    changed = make_config(student={"steps": 5})
    with pytest.raises(RunError, match=r"round-1/student was made with other settings(.|\n)*student\.steps: 6 → 5"):
        steps_to(Goal("teach"), changed, run)
    assert (run / "config.yaml").read_bytes() == written, "what lies there is still what this says"
    refusal = forecast(changed, run, Goal("teach"))["refusal"]
    assert "round-1/student was made with other settings" in refusal


def test_a_dry_run_looks_over_damaged_files(make_config: MakeConfig, tmp_path: Path) -> None:
    run, config = tmp_path / "run", make_config()
    steps_to(Goal("label"), config, run)
    folder = run / "round-1/pseudo-labels"
    record = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps({**record, "state": "unfinished"}))
    next(folder.glob("shard-*.arrow")).write_bytes(b"damaged")
    found = {stage["name"]: stage for stage in forecast(config, run, Goal("label"))["stages"]}
    assert (found["round-1/pseudo-labels"]["action"], found["round-1/pseudo-labels"]["done"]) == ("go on", 0)
