"""``kill -9`` at ten moments of a run, resumed each time: it ends like an undisturbed run, bit by bit.

Seven moments are random. Three are aimed by watching the folder, so that trainings and a half-labelled pool are hit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from selftrain_core.config import RunConfig, dump_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MakeConfig = Callable[..., RunConfig]
SEED = 0
TRAININGS = ("round-0/teacher", "round-1/student")
LABELS = "round-1/pseudo-labels"
POOL = 520
"""Images, in three shards."""
PATIENCE_SECONDS = 300


def start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    # A session of its own, so that the whole group can be killed, or the first process alone.
    with said(run).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", "from selftrain.main import main; main()", "run", str(config), "-o", str(run)],
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )


def said(run: Path) -> Path:
    """Return the file in which a run's messages go; a pipe that nobody reads would stop it."""
    return run.with_suffix(".txt")


def finish(config: Path, run: Path) -> None:
    assert start(config, run).wait(PATIENCE_SECONDS) == 0, said(run).read_text()


def training(run: Path) -> tuple[str, int] | None:
    """Return which training is in the midst of its steps, and how many it has saved."""
    for name in TRAININGS:
        saved = read(run / name / "last.json")
        is_unfinished = read(run / name / "stage.json").get("state") == "unfinished"
        if is_unfinished and (run / name / "last.ckpt").exists() and 0 < saved.get("step", 0) < saved["steps"]:
            return name, saved["step"]
    return None


def half_labelled(run: Path) -> int | None:
    """Return how many shards of the pool's labels are there, where others are not."""
    return len(shards(run)) or None if not (run / LABELS / "manifest.json").exists() else None


Sign = Callable[[Path], object]
SIGNS: tuple[Sign, ...] = (training, half_labelled)
AIMS: tuple[Sign | None, ...] = (training, half_labelled, None, training, None, None, None, None, None, None)
"""What each kill is to hit, None anything."""


def reached(sign: Sign, run: Path) -> Callable[[], bool]:
    """Return a function that tells whether a run, which is about to be started, has come to that, and on from there."""
    before = sign(run)
    return lambda: sign(run) not in (None, before)


def read(path: Path) -> dict[str, Any]:
    """Return what a file says, nothing where there is none; it is replaced as a whole."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return content


def shards(run: Path) -> dict[Path, int]:
    """Return the shards with the times at which they were written."""
    return {path: path.stat().st_mtime_ns for path in sorted((run / LABELS).glob("shard-*"))}


def killed(config: Path, run: Path, is_time: Callable[[], bool], *, group: bool) -> bool:
    """Return whether the run was killed, once it was time, before it ended."""
    process = start(config, run)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while process.poll() is None and not is_time():
            assert time.monotonic() < deadline, said(run).read_text()
            time.sleep(0.01)
        if process.returncode is not None:
            assert process.returncode == 0, said(run).read_text()
            return False
    finally:
        if group or sys.exc_info()[0] is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
    while _works_on(run):
        assert time.monotonic() < deadline, "a stage outlived the run that started it"
        time.sleep(0.05)  # a stage whose run is gone ends by itself, and keeps the folder until then
    return True


def random_moment(within_seconds: float, draw: random.Random) -> Callable[[], bool]:
    moment = time.monotonic() + draw.uniform(0, within_seconds)
    return lambda: time.monotonic() >= moment


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
    files += shards(run)
    found: dict[str, Any] = {str(path.relative_to(run)): path.read_bytes() for path in files}
    return {**found, "summary": without_seconds(json.loads((run / "summary.json").read_text()))}


def left_over(run: Path) -> list[str]:
    return [str(path.relative_to(run)) for path in run.rglob(".*") if path.name.endswith((".tmp", ".trash"))]


def make_large_pool(data: Path) -> None:
    """Give the images of the pool many names."""
    ids = (data / "splits/pool.txt").read_text().split()
    more = [f"pool-{number}" for number in range(len(ids), POOL)]
    for number, id_ in enumerate(more):
        (data / "images" / f"{id_}.png").hardlink_to(data / "images" / f"{ids[number % len(ids)]}.png")
    (data / "splits/pool.txt").write_text("\n".join(ids + more) + "\n")


def test_ten_kills(configure: MakeConfig, squares: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    make_large_pool(squares)
    settings = configure(
        squares,
        teacher={"steps": 40, "human": 2},
        student={"steps": 30, "human": 2, "pseudo": 2},
        baseline=False,
        device={"workers": 1, "predict_batch": 2, "checkpoint_seconds": 0.2},
    )
    config.write_text(dump_config(settings))
    began = time.monotonic()
    finish(config, tmp_path / "undisturbed")
    duration = time.monotonic() - began
    expected = result(tmp_path / "undisturbed")
    assert sum("shard-" in name for name in expected) == 3

    draw = random.Random(SEED)
    runs, written, hits = [tmp_path / "run-0"], dict[Path, int](), Counter[Sign]()
    aims = deque(AIMS)
    while aims:
        has_reached = {sign: reached(sign, runs[-1]) for sign in SIGNS}
        # A quarter of a run at most: most kills hit the same run, further on each time.
        is_time = has_reached[aims[0]] if aims[0] else random_moment(duration / 4, draw)
        if not killed(config, runs[-1], is_time, group=draw.random() < 0.5):
            runs.append(tmp_path / f"run-{len(runs)}")  # one that ended is begun anew
            continue
        written |= shards(runs[-1])
        hit = [sign for sign in SIGNS if has_reached[sign]()]
        hits.update(hit)
        print(f"a kill in {runs[-1].name}", *[sign.__name__ for sign in hit])  # noqa: T201  # shown by -s
        if aims[0] is None or aims[0] in hit:  # or else it came too late, and is aimed again
            aims.popleft()
    assert hits[training]
    assert hits[half_labelled]
    finish(config, runs[-1])
    for run in runs:
        found = result(run)
        assert {key: found[key] == value for key, value in expected.items()} == dict.fromkeys(expected, True)
        assert not left_over(run)
    assert {path: path.stat().st_mtime_ns for path in written} == written, "a whole shard is not made again"
