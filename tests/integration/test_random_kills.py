"""``kill -9`` at ten random moments of a run, resumed each time: it ends like an undisturbed run, bit by bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftrain_core.config import RunConfig, dump_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MakeConfig = Callable[..., RunConfig]
SEED = 0
KILLS = 10
TRAININGS = ("round-0/teacher", "round-1/student")


def start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    # A session of its own, so that the whole group can be killed, or the first process alone.
    return subprocess.Popen(
        [sys.executable, "-c", "from selftrain.main import main; main()", "run", str(config), "-o", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(config: Path, run: Path) -> None:
    process = start(config, run)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said.decode()


def killed(config: Path, run: Path, after_seconds: float, *, group: bool) -> bool:
    """Return whether the run was killed before it ended."""
    process = start(config, run)
    try:
        _, said = process.communicate(timeout=after_seconds)
    except subprocess.TimeoutExpired:
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        while _works_on(run):
            time.sleep(0.05)  # a stage whose run is gone ends by itself, and keeps the folder until then
        return True
    assert process.returncode == 0, said.decode()
    return False


def _works_on(run: Path) -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"selftrain_core.stage\0{run}/".encode() in (folder / "cmdline").read_bytes():
                return True
        except OSError:  # it has just ended
            continue
    return False


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(each) for key, each in value.items() if "seconds" not in key}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


def result(run: Path) -> dict[str, Any]:
    """Return everything that may not differ between two runs."""
    files = [run / name / file for name in TRAININGS for file in ("model.safetensors", "selected.safetensors")]
    files += [run / name / "metrics.jsonl" for name in TRAININGS]
    files += sorted((run / "round-1/pseudo-labels").glob("shard-*"))
    found: dict[str, Any] = {str(path.relative_to(run)): path.read_bytes() for path in files}
    return {**found, "summary": without_seconds(json.loads((run / "summary.json").read_text()))}


def left_over(run: Path) -> list[str]:
    return [str(path.relative_to(run)) for path in run.rglob(".*") if path.name.endswith((".tmp", ".trash"))]


def test_ten_kills_at_random_moments(configure: MakeConfig, shared_squares: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    settings = configure(
        shared_squares,
        teacher={"steps": 60, "human": 2},
        student={"steps": 40, "human": 2, "pseudo": 2},
        baseline=False,
        device={"workers": 1, "predict_batch": 1, "checkpoint_seconds": 0.2},
    )
    config.write_text(dump_config(settings))
    began = time.monotonic()
    finish(config, tmp_path / "undisturbed")
    duration = time.monotonic() - began
    expected = result(tmp_path / "undisturbed")

    # A third of a run at most: most of the ten hit the same run, further on each time. One that ends is begun anew.
    draw = random.Random(SEED)
    runs, kills = [tmp_path / "run-0"], 0
    while kills < KILLS:
        if killed(config, runs[-1], draw.uniform(0, duration / 3), group=draw.random() < 0.5):
            kills += 1
            done = [path for path in runs[-1].rglob("stage.json") if '"finished"' in path.read_text()]
            print(f"kill {kills} in run {len(runs)}: {len(done)} stages finished")  # noqa: T201  # shown by -s
        else:
            runs.append(tmp_path / f"run-{len(runs)}")
    finish(config, runs[-1])
    for run in runs:
        found = result(run)
        assert {key: found[key] == value for key, value in expected.items()} == dict.fromkeys(expected, True)
        assert not left_over(run)
