"""What reaches the user from a stage's own process: its errors, its death, and nothing that outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from selftrain_core.config import RunConfig
from selftrain_core.errors import DataError, StageFailedError
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

    self_train(make_config(device={"workers": 1}, teacher={"steps": 40}, baseline=False), run, look)
    assert held[0], "the stage holds the lock"
    assert len(held) > 1
    assert not any(held[1:])
