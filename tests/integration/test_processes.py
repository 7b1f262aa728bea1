"""What reaches the user from a stage's own process: its errors, its death, and nothing that outlives the run."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from selftrain_core.config import RunConfig, dump_config
from selftrain_core.errors import DataError, RunError, StageFailedError
from selftrain_core.forecast import forecast
from selftrain_core.goals import Goal
from selftrain_core.progress import Event
from selftrain_core.rounds import self_train

MakeConfig = Callable[..., RunConfig]


def stage_of(run: Path) -> int:
    """Return the process that works on a stage of `run`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"selftrain_core.stage" in command and any(part.startswith(str(run).encode()) for part in command):
            return int(folder.name)
    raise AssertionError("no stage is running")


def test_an_error_in_a_stage_keeps_its_own_words(configure: MakeConfig, squares: Path, tmp_path: Path) -> None:
    (squares / "masks" / "labelled-1.png").unlink()
    with pytest.raises(DataError, match=r"^the mask .*labelled-1\.png does not exist"):
        self_train(configure(squares), tmp_path / "run")
    assert "labelled-1.png does not exist" in (tmp_path / "run/round-0/teacher/log.txt").read_text()


def test_a_killed_stage_is_named_with_what_to_do(make_config: MakeConfig, tmp_path: Path) -> None:
    def kill(event: Event) -> None:
        if event.kind == "progress":
            os.kill(stage_of(tmp_path / "run"), signal.SIGKILL)

    expected = (
        r"round-0/teacher was stopped by SIGKILL \(.*memory.*\)\n.*the same command goes on from the last saved step"
    )
    with pytest.raises(StageFailedError, match=expected):
        self_train(make_config(teacher={"steps": 500}), tmp_path / "run", kill)


def test_a_bug_in_a_stage_shows_the_end_of_its_log(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def break_it(event: Event) -> None:
        if event.kind == "started":
            (run / "index.arrow").write_bytes(b"not an index")

    with pytest.raises(
        StageFailedError, match=r"round-0/teacher failed; the end of .*log\.txt:\n(.*\n)*.*ArrowInvalid"
    ):
        self_train(make_config(), run, break_it)


def test_a_stage_ends_when_the_process_that_started_it_is_gone(tmp_path: Path) -> None:
    # The stage's main thread sleeps; only the leash can end it.
    script = (
        "import threading, time; from selftrain_core import stage; "
        "threading.Thread(target=stage._end_with_parent, daemon=True).start(); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=20) == 1
    process.stdout.close()


@pytest.mark.slow
def test_a_loader_worker_does_not_hold_the_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    """Killed with its run, a stage leaves workers behind for seconds; the next run must not wait for them."""
    run = tmp_path / "run"
    held: list[bool] = []

    def look(event: Event) -> None:
        if event.kind == "progress" and event.stage == "round-0/teacher" and not held:
            stage = stage_of(run)
            workers = Path(f"/proc/{stage}/task/{stage}/children").read_text().split()
            lock = str((run / ".lock").resolve())
            for process in [str(stage), *workers]:
                links = [str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()]
                held.append(lock in links)

    self_train(make_config(device={"workers": 1}, teacher={"steps": 40}), run, look, goal=Goal("teach"))
    assert held[0], "the stage holds the lock"
    assert len(held) > 1
    assert not any(held[1:])


def start(command: str, config: RunConfig, run: Path, largest_file: int | None = None) -> subprocess.Popen[str]:
    """Start a command on `run`, in a session of its own; it and its stages cannot write files over `largest_file`."""
    path = run.with_suffix(".yaml")
    path.write_text(dump_config(config))
    # Ctrl-C works even where this test runs in the background, whose children are born deaf to it.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0] = 'selftrain'; "
        "from selftrain.main import main; main()"
    )

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [sys.executable, "-c", code, command, str(path), "-o", str(run), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=limit,
    )


def error_in(output: str) -> dict[str, str]:
    error: dict[str, str] = json.loads(output)["error"]
    return error


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "whole_group", "code", "word"),
    [
        pytest.param(signal.SIGINT, True, 130, "interrupted", id="ctrl-c"),
        pytest.param(signal.SIGTERM, False, 143, "terminated", id="sigterm", marks=pytest.mark.slow),
    ],
)
def test_what_ends_a_command_ends_its_stage_and_the_same_command_goes_on(
    make_config: MakeConfig, tmp_path: Path, number: int, whole_group: bool, code: int, word: str
) -> None:
    run = tmp_path / "run"
    # A terminal sends Ctrl-C to every process of the group, a batch system SIGTERM to the first.
    config = make_config(teacher={"steps": 100}, validate_every_images=200, device={"checkpoint_seconds": 0.3})
    process = start("teach", config, run)
    deadline = time.monotonic() + 90
    while not (run / "round-0/teacher/last.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stage = stage_of(run)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    output, told = process.communicate(timeout=30)
    message = f"{word}; the same command goes on where it stopped"
    assert process.returncode == code
    assert told.endswith(f"\n{message}\n")
    assert error_in(output) == {"type": word.capitalize(), "message": message}
    assert not Path(f"/proc/{stage}").exists()
    saved = json.loads((run / "round-0/teacher/last.json").read_text())["step"]
    assert 0 < saved < 100
    process = start("teach", config, run)
    output, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    assert json.loads(output)["stages"][0]["result"]["steps"] == 100
    lines = [json.loads(line) for line in (run / "round-0/teacher/metrics.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in lines if "train" in line]
    assert logged == [1, *range(10, 101, 10)], "each step once"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("largest_file", "name"),
    [
        (1000, "index.arrow.new"),
        pytest.param(500_000, "selected.safetensors", marks=pytest.mark.slow),
        pytest.param(3_000_000, "last.ckpt", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_loses_nothing(make_config: MakeConfig, tmp_path: Path, largest_file: int, name: str) -> None:
    run = tmp_path / "run"
    process = start("teach", make_config(), run, largest_file)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 3
    assert re.search(
        rf"{re.escape(name)}.* cannot be written: .*\n  nothing finished is lost: free some space, and the same",
        error_in(output)["message"],
    )
    assert not list(run.rglob("*.tmp"))
    process = start("teach", make_config(), run)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 0, told


def test_a_folder_that_may_not_be_written_to(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o500)
    if os.access(run, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(RunError, match=r"the run folder .*run cannot be written to: Permission denied"):
        self_train(make_config(), run)
    with pytest.raises(RunError, match=r"the run folder .*run cannot be written to: .*run is not writable"):
        forecast(make_config(), run)
