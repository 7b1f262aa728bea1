"""What ``selftrain run`` says to a run folder that it cannot use, and to an interruption. What was finished is kept."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from selftrain.main import main
from selftrain_core import run_folder
from selftrain_core.config import RunConfig, dump_config

MakeConfig = Callable[..., RunConfig]
TEACHER, STUDENT, STORE = "round-0/teacher", "round-1/student", "round-1/pseudo-labels"


class Hostile:
    """Makes a folder called 'hostile' beside the test's data when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hostile",)


@pytest.fixture(autouse=True)
def nothing_hostile_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "hostile").exists()


@pytest.fixture
def config(tmp_path: Path, make_config: MakeConfig) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config()))
    return path


def command(config: Path, run: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["run", str(config), "-o", str(run), "--in-process", *more])


def assert_refused(result: Result, code: int, message: str) -> None:
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert re.search(message, result.stderr), result.stderr
    assert result.exit_code == code
    assert "Traceback" not in result.output


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(each) for key, each in value.items() if "seconds" not in key}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


def assert_like(run: Path, undisturbed: Path) -> None:
    summaries = [without_seconds(json.loads((each / "summary.json").read_text())) for each in (run, undisturbed)]
    assert summaries[0] == summaries[1]
    for name in (TEACHER, STUDENT):
        for file in ("model.safetensors", "selected.safetensors", "metrics.jsonl"):
            assert (run / name / file).read_bytes() == (undisturbed / name / file).read_bytes(), (name, file)


def forget(run: Path, *stages: str) -> None:
    """Remove stages, so that they are done again and read what was made before them."""
    for name in stages:
        shutil.rmtree(run / name)


def unfinish(run: Path, name: str, checkpoint: bytes) -> None:
    (run / name / "last.ckpt").write_bytes(checkpoint)
    path = run / name / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "unfinished"}))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def spoil_pictures(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x89PNX"))


AGAIN = r"\n  delete .*{} and run the same command: the stage is done again"
MADE_AGAIN = r"delete the folder .*pseudo-labels and run the same command: it is made again"
HOSTILE = pickle.dumps(Hostile(), protocol=2)
# What is damaged, what reads it then, what is said, and what to delete where the message says so.
DAMAGE: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], str, str]] = {
    "weights cut short": (
        lambda run: os.truncate(run / TEACHER / "model.safetensors", 1000),
        (f"{TEACHER}/evaluation",),
        r"the weights .*model\.safetensors cannot be loaded: .*" + AGAIN.format(TEACHER),
        TEACHER,
    ),
    "hostile weights": (
        lambda run: (run / TEACHER / "model.safetensors").write_bytes(HOSTILE),
        (STUDENT,),
        r"the weights .*model\.safetensors cannot be loaded: .*" + AGAIN.format(TEACHER),
        TEACHER,
    ),
    "description": (
        lambda run: (run / TEACHER / "model.json").write_text("{"),
        (f"{TEACHER}/evaluation",),
        r"model\.json cannot be read: .*" + AGAIN.format(TEACHER),
        TEACHER,
    ),
    "statistics": (
        lambda run: (run / TEACHER / "labelled-statistics.json").write_text("[]"),
        (STUDENT,),
        r"labelled-statistics\.json cannot be read: .*" + AGAIN.format(TEACHER),
        TEACHER,
    ),
    "log": (
        lambda run: (run / TEACHER / "metrics.jsonl").write_text("nonsense\n"),
        (),
        r"metrics\.jsonl is damaged: .*" + AGAIN.format(TEACHER),
        TEACHER,
    ),
    "hostile checkpoint": (
        lambda run: unfinish(run, STUDENT, HOSTILE),
        (),
        r"student/last\.ckpt cannot be read \(it holds more than tensors and numbers, and was not run\); delete it",
        f"{STUDENT}/last.ckpt",
    ),
    "empty checkpoint": (
        lambda run: unfinish(run, STUDENT, b""),
        (),
        r"student/last\.ckpt cannot be read \(it is cut short\); delete it to train this stage from its start",
        f"{STUDENT}/last.ckpt",
    ),
    "manifest": (
        lambda run: (run / STORE / "manifest.json").write_text("{"),
        (STUDENT,),
        r"manifest\.json is damaged: .*\n  " + MADE_AGAIN,
        STORE,
    ),
    "class names of the store": (
        lambda run: edit_json(run / STORE / "manifest.json", classes=["ground", "green", "red"]),
        (STUDENT,),
        (
            r"pseudo-labels was made for other classes\n  the store's: \['ground', 'green', 'red'\]\n"
            r"  the student's: \['ground', 'red', 'green'\]\n  " + MADE_AGAIN
        ),
        STORE,
    ),
    "shard cut short": (
        lambda run: os.truncate(run / STORE / "shard-00000.arrow", 1000),
        (STUDENT,),
        r"shard-00000\.arrow is damaged .*" + MADE_AGAIN,
        STORE,
    ),
    "hostile shard": (
        lambda run: (run / STORE / "shard-00000.arrow").write_bytes(HOSTILE),
        (STUDENT,),
        r"shard-00000\.arrow is damaged .*" + MADE_AGAIN,
        STORE,
    ),
    "class maps in a shard": (
        lambda run: spoil_pictures(run / STORE / "shard-00000.arrow"),
        (STUDENT,),
        r"the labels of 'pool-\d' in .*pseudo-labels are damaged: .*\n  delete that folder and run the same command",
        STORE,
    ),
    "record": (
        lambda run: (run / STUDENT / "stage.json").write_text("{"),
        (),
        r"student/stage\.json is damaged .*; delete .*student and run the same command",
        STUDENT,
    ),
}
# One for each remedy is followed to the end; the others differ in what is said alone.
FOLLOWED = ("weights cut short", "hostile checkpoint", "class maps in a shard")


@pytest.mark.parametrize("line", DAMAGE)
def test_damaged_files_of_finished_stages(config: Path, finished: Path, undisturbed: Path, line: str) -> None:
    damage, read_by, message, remedy = DAMAGE[line]
    damage(finished)
    forget(finished, *read_by)
    kept = {path: path.read_bytes() for path in finished.rglob("*.safetensors")}
    assert_refused(command(config, finished), 3, message)
    assert {path: path.read_bytes() for path in kept} == kept
    if line in FOLLOWED:
        path = finished / remedy
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert command(config, finished).exit_code == 0
        assert_like(finished, undisturbed)


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "index.arrow"])
@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_files_that_are_written_anew(
    config: Path, finished: Path, undisturbed: Path, name: str, content: bytes | None
) -> None:
    (finished / name).unlink()
    if content:
        (finished / name).write_bytes(content)
    result = command(config, finished)
    assert result.exit_code == 0, result.output
    assert "started" not in result.stderr
    assert_like(finished, undisturbed)
    assert (finished / name).read_bytes()[:20] == (undisturbed / name).read_bytes()[:20]


def test_a_folder_of_another_configuration(config: Path, finished: Path, undisturbed: Path) -> None:
    message = r"teacher was made with other settings or data:\n    teacher\.steps: 8 → 9\n.*another folder with -o\n"
    assert_refused(command(config, finished, "--set", "teacher.steps=9"), 3, message)
    assert command(config, finished).exit_code == 0
    assert_like(finished, undisturbed)


@pytest.mark.parametrize(
    ("folder", "reason"), [("config.yaml", "it is a file"), ("/proc/run", ""), ("config.yaml/run", "Not a directory")]
)
def test_a_folder_that_cannot_be_written_to(config: Path, tmp_path: Path, folder: str, reason: str) -> None:
    assert_refused(command(config, tmp_path / folder), 3, rf"the run folder .*{folder} cannot be written to: {reason}")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "written"), [(1000, "index"), (40_000, "safetensors")])
def test_a_full_disk(config: Path, finished: Path, undisturbed: Path, size: int, written: str) -> None:
    forget(finished, STUDENT)
    with largest_file(size):
        result = command(config, finished)
    message = rf"{written}\S* cannot be written: .*\n  nothing finished is lost: free some space, and the same command"
    assert_refused(result, 3, message)
    assert not list(finished.rglob(".*.tmp"))
    assert command(config, finished).exit_code == 0
    assert_like(finished, undisturbed)


def stage_of(run: Path, process: subprocess.Popen[str], sign: str) -> int:
    """Return the process of a stage of `run` once `sign` is there."""
    deadline = time.monotonic() + 300
    while not (run / sign).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command_line = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if f"selftrain_core.stage\0{run}/".encode() in command_line and parent == process.pid:
            return int(folder.name)
    raise AssertionError("no stage is running")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interruptions(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run, ``kill -9`` of a stage, Ctrl-C: each says how to go on, and the same command does."""
    settings = yaml.safe_load(config.read_text())
    settings["teacher"]["steps"] = 150
    settings["device"]["checkpoint_seconds"] = 0
    config.write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from selftrain.main import main; main()", "run", str(config), "-o", str(run)],
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    first = start()
    stage = stage_of(run, first, f"{TEACHER}/last.ckpt")
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE_SECONDS", 0.2)
    in_use = rf"the run folder .*run is in use by process {first.pid}; wait for it to end, or give another folder"
    assert_refused(command(config, run), 3, in_use)
    os.kill(stage, signal.SIGKILL)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 4
    assert re.search(r"error: the stage round-0/teacher was stopped by SIGKILL .*\n  nothing finished is lost: ", said)
    assert "Traceback" not in said

    (run / f"{TEACHER}/last.json").unlink(missing_ok=True)  # the kill may have come before it; it is written anew
    second = start()
    stage_of(run, second, f"{TEACHER}/last.json")
    os.killpg(second.pid, signal.SIGINT)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 130
    assert said.endswith("\ninterrupted; the same command goes on where it stopped\n")
    assert "Traceback" not in said

    assert command(config, run).exit_code == 0
    assert command(config, tmp_path / "undisturbed").exit_code == 0
    assert_like(run, tmp_path / "undisturbed")
