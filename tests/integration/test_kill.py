"""``kill -9`` in each stage of a run in processes, then the same command: it ends like an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from selftrain_core.config import RunConfig, dump_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MakeConfig = Callable[..., RunConfig]
# Where to strike, and the file whose appearance says that the stage is in the middle of its work.
STRIKES = (
    ("round-0/teacher", "last.ckpt"),
    ("round-0/teacher/evaluation", "log.txt"),
    ("round-1/pseudo-labels", "log.txt"),
    ("round-1/student", "last.ckpt"),
    ("round-1/student/evaluation", "log.txt"),
    ("round-0/baseline", "last.ckpt"),
)


def start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    # A session of its own, so that the whole group can be killed, or the first process alone.
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("selftrain")), "run", str(config), "-o", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(config: Path, run: Path) -> dict[str, object]:
    process = start(config, run)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output.decode()
    summary: dict[str, object] = json.loads((run / "summary.json").read_text())
    return summary


def stage_processes(run: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"selftrain_core.stage" in command and any(str(run).encode() in part for part in command):
            found.append(int(folder.name))
    return found


def strike(config: Path, run: Path, stage: str, sign: str, *, parent_only: bool) -> None:
    process = start(config, run)
    deadline = time.monotonic() + 300
    while not (run / stage / sign).exists():
        assert process.poll() is None, "the run ended before the stage was reached"
        assert time.monotonic() < deadline, f"{stage} was not reached"
        time.sleep(0.02)
    if parent_only:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    while stage_processes(run):
        assert time.monotonic() < deadline, "a stage outlived the run that started it"
        time.sleep(0.05)
    state = json.loads((run / stage / "stage.json").read_text())["state"]
    assert state == "unfinished", f"{stage} finished before it was struck; give it more to do"


def comparable(summary: dict[str, object]) -> list[dict[str, object]]:
    models = summary["models"]
    assert isinstance(models, list)
    return [{**model, "seconds": None} for model in models]


def test_kill_9_in_each_stage(configure: MakeConfig, shared_squares: Path, tmp_path: Path) -> None:
    # Many small validations and pool images: every stage has a middle.
    config = configure(
        shared_squares,
        teacher={"steps": 60, "human": 3},
        student={"steps": 40, "human": 2, "pseudo": 2},
        device={"workers": 1, "predict_batch": 1, "checkpoint_seconds": 0.5},
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    undisturbed = finish(path, tmp_path / "undisturbed")
    run = tmp_path / "run"
    for number, (stage, sign) in enumerate(STRIKES):
        strike(path, run, stage, sign, parent_only=number % 2 == 1)
    assert comparable(finish(path, run)) == comparable(undisturbed)
    for name in ("round-0/teacher", "round-1/student", "round-0/baseline"):
        ours, theirs = (
            (folder / name / "model.safetensors").read_bytes() for folder in (run, tmp_path / "undisturbed")
        )
        assert ours == theirs
