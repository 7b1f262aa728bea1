"""The commands that work in a run's folder: what they hand on, what they print, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from selftrain import going
from selftrain.main import main
from selftrain_core.errors import DataError, RunError, StageFailedError
from selftrain_core.goals import Goal

CONFIG = """
data:
  sources: {all: {name: core/images, images: images}}
  labelled: all
  unlabelled: all
  validation: all
  test: all
  classes: [background, cat]
task: segmentation/semantic
"""
MODEL = {
    "name": "teacher", "round": 0, "checkpoint": "last", "val": 31.2, "test": 30.1, "images_seen": 2000,
    "seconds": 54.0, "images_to_reach": 2000, "gain": None, "joint_images_seen": {},
}  # fmt: skip
SUMMARY = {
    "metric": "miou",
    "unit": "% mIoU",
    "models": [MODEL],
    "teacher_converged": True,
    "labelling": {"images": 0, "seconds": 0.0, "states": {}, "nothing_kept": [], "views": 1},
    "pretraining": None,
}
TEACHER: dict[str, Any] = {
    "name": "round-0/teacher", "kind": "teach", "made": False, "validation": 31.2,
    "result": {"images_seen": 2000, "seconds": 60.0, "training_seconds": 54.0},
}  # fmt: skip
LABELS = {
    "name": "round-1/pseudo-labels", "kind": "label", "made": True,
    "result": {"images": 1012, "seconds": 20.0, "states": {"labelled": 1010, "unreadable": 2}},
}  # fmt: skip
OUTLOOK = {
    "run": "out",
    "in_use": True,
    "images": {"labelled": 6, "unlabelled": 1012},
    "stages": [
        {"name": "round-0/teacher", "action": "go on", "images": 2000, "steps": 250, "done": 120, "changes": []},
        {"name": "round-1/pseudo-labels", "action": "make again", "images": 1012, "steps": None, "done": 0,
         "changes": ["labelling.flip: False → True", "made from round-0/teacher: ab → cd"]},
    ],
    "refusal": None,
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return str(path)


def answer(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> list[tuple[Any, ...]]:
    """Let a function of core return or raise `value`, and return the list of what it is called with."""
    calls: list[tuple[Any, ...]] = []

    def stand_in(*given: Any, **named: Any) -> Any:
        calls.append((*given, named))
        if isinstance(value, BaseException):
            raise value
        return value

    monkeypatch.setattr(going, name, stand_in)
    return calls


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("arguments", "goal"),
    [
        (["run"], Goal()),
        (["teach"], Goal("teach")),
        (["label"], Goal("label")),
        (["label", "--round", "2"], Goal("label", 2)),
        (["learn", "--round", "3"], Goal("learn", 3)),
        (["evaluate"], Goal("evaluate")),
    ],
)
def test_each_command_has_its_goal(
    monkeypatch: pytest.MonkeyPatch, config: str, arguments: list[str], goal: Goal
) -> None:
    calls = answer(monkeypatch, "self_train", SUMMARY if goal.has_summary else {"schema": 1, "stages": [TEACHER]})
    done = invoke(*arguments, config, "-o", "out", "--set", "seed=3", "--start-over")
    assert done.exit_code == 0, done.output
    ((given, folder, _, named),) = calls
    assert (given.seed, folder) == (3, Path("out"))
    assert named == {"goal": goal, "in_process": False, "start_over": True}


def test_what_a_stage_came_to_is_a_table(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answer(monkeypatch, "self_train", {"schema": 1, "stages": [TEACHER, LABELS]})
    assert invoke("label", config, "-o", "out").stdout == (
        "\n"
        "stage                             validation  images  time\n"
        "---------------------  ---------  ----------  ------  ----\n"
        "round-0/teacher        was there       31.20   2,000  0:54\n"
        "round-1/pseudo-labels  made                –   1,012  0:20\n"
        "\n"
        "- 1,010 labelled, 2 unreadable\n"
        "\n"
        "  out/round-1/pseudo-labels\n"
    )


def test_images_of_joint_streams_are_told_beside_the_table(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    joint = {**TEACHER, "result": {**TEACHER["result"], "joint_images_seen": {"digits": 1_200}}}
    answer(monkeypatch, "self_train", {"schema": 1, "stages": [joint]})
    shown = invoke("teach", config, "-o", "out").stdout
    assert "\n\n- round-0/teacher: beside its own 1,200 images of joint.digits\n\n" in shown


def test_a_summary_without_a_student_is_a_table(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answer(monkeypatch, "self_train", SUMMARY)
    shown = invoke("evaluate", config, "-o", "out").stdout
    assert "teacher  last          31.20  30.10     –        2,000  0:54" in shown
    assert "There is no student yet" in shown


@pytest.mark.parametrize("command", ["run", "teach"])
def test_json_is_all_of_stdout(monkeypatch: pytest.MonkeyPatch, config: str, command: str) -> None:
    result = SUMMARY if command == "run" else {"schema": 1, "stages": [TEACHER]}
    answer(monkeypatch, "self_train", result)
    assert json.loads(invoke(command, config, "-o", "out", "--json").stdout) == result


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("no image"), 2),
        (RunError("in use"), 3),
        (StageFailedError("ended"), 4),
    ],
)
@pytest.mark.parametrize("command", ["run", "teach", "label", "learn", "evaluate"])
def test_an_error_as_json_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, config: str, command: str, error: Exception, code: int
) -> None:
    answer(monkeypatch, "self_train", error)
    failed = invoke(command, config, "-o", "out", "--json")
    assert failed.exit_code == code
    assert json.loads(failed.stdout) == {"error": {"type": type(error).__name__, "message": str(error)}}
    assert failed.stderr == f"error: {error}\n"
    assert invoke(command, config, "-o", "out").stdout == ""


def test_an_interrupt_as_json(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answer(monkeypatch, "self_train", KeyboardInterrupt())
    failed = invoke("run", config, "-o", "out", "--json")
    assert failed.exit_code == 130
    assert json.loads(failed.stdout)["error"]["type"] == "Interrupted"


def test_a_typo_as_json(config: str) -> None:
    failed = invoke("run", config, "-o", "out", "--json", "--set", "sead=3")
    assert failed.exit_code == 2
    assert "did you mean 'seed'" in json.loads(failed.stdout)["error"]["message"]


def test_a_dry_run_is_a_table(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    calls = answer(monkeypatch, "forecast", OUTLOOK)
    shown = invoke("learn", config, "-o", "out", "--dry-run", "--start-over")
    assert shown.exit_code == 0
    assert calls[0][1:] == (Path("out"), Goal("learn"), {"start_over": True})
    assert shown.stdout == (
        "In out; this only looks, and changes nothing.\n"
        "\n"
        "stage                  what would be done     steps  images\n"
        "---------------------  ---------------------  -----  ------\n"
        "round-0/teacher        go on after step 120     250   2,000\n"
        "round-1/pseudo-labels  remove and make again          1,012\n"
        "\n"
        "round-1/pseudo-labels was made with other settings or data:\n"
        "    labelling.flip: False → True\n"
        "\n"
        "images: 6 labelled, 1,012 unlabelled\n"
        "The folder is in use by another process: until that ends, the command would be refused.\n"
    )


def test_a_dry_run_of_what_would_be_refused_has_the_refusals_code(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answer(monkeypatch, "forecast", {**OUTLOOK, "refusal": "made with other settings"})
    for options in (["--dry-run"], ["--dry-run", "--json"]):
        refused = invoke("run", config, "-o", "out", *options)
        assert refused.exit_code == 3
        assert refused.stderr == "error: made with other settings\n"
    assert json.loads(refused.stdout)["error"]["message"] == "made with other settings"


def test_a_dry_run_as_json(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answer(monkeypatch, "forecast", OUTLOOK)
    assert json.loads(invoke("run", config, "-o", "out", "--dry-run", "--json").stdout) == OUTLOOK
