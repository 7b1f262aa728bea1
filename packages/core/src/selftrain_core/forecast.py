"""What a command would do, without doing it: nothing is made, written or locked. No torch here."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from selftrain_core.config import RunConfig
from selftrain_core.errors import RunError
from selftrain_core.event_files import require_tensorboard
from selftrain_core.goals import EVERYTHING, Goal
from selftrain_core.index import Index
from selftrain_core.rounds import rounds
from selftrain_core.run_folder import RunFolder, Stage
from selftrain_core.workshop import INDEX, NEW, PRETRAINING_INDEX, Workshop, joint_index, scan

SKIP, GO_ON, DO, MAKE_AGAIN, REFUSE, REMOVE = "skip", "go on", "do", "make again", "refuse", "remove"


def forecast(config: RunConfig, folder: Path, goal: Goal = EVERYTHING, *, start_over: bool = False) -> dict[str, Any]:
    """Return what `self_train` with the same arguments would do, as JSON values.

    ``images`` counts the images of each part, of ``pretraining`` and of each ``joint.NAME``. Each of ``stages`` has an
    ``action`` (``skip``, ``go on``, ``do``, ``make again``, ``refuse`` or ``remove``), the ``images`` it looks at, its
    ``steps`` if it trains, what is ``done`` of them, and what has changed. ``refusal`` is the message with which the
    command would end, or None.

    Raises:
        SelftrainError: Something is wrong with the configuration, the data or the folder; the message says what.
    """
    require_tensorboard(config)
    run = RunFolder(folder)
    run.refuse_foreign_files()
    _check_writable(folder)
    with TemporaryDirectory(prefix="selftrain-") as elsewhere:
        work = Workshop(config, scan(config, Path(elsewhere)))
        images = _count(config, Path(elsewhere))
    rounds(work, config)
    stages = goal.choose(work.stages, run)
    outlook = [_outlook(run, stage, images, start_over=start_over) for stage in stages]
    changed = [stage for stage in work.stages if run.standing(stage).state == "changed"]
    refused = [] if start_over else changed
    if start_over:
        outlook += [{**_outlook(run, stage, images, start_over=True), "action": REMOVE}
                    for stage in changed if stage not in stages]  # fmt: skip
    return {
        "schema": 1,
        "run": str(folder),
        "in_use": _in_use(folder),
        "images": images,
        "stages": outlook,
        "refusal": run.refusal(refused[0]) if refused else None,
    }


def _count(config: RunConfig, folder: Path) -> dict[str, int]:
    """Return how many images each part has, by what `scan` wrote."""
    images = Index(folder / f"{INDEX}{NEW}").counts()
    if config.pretraining is not None:
        images["pretraining"] = Index(folder / f"{PRETRAINING_INDEX}{NEW}").counts()["unlabelled"]
    for name in config.joint:
        images[f"joint.{name}"] = Index(folder / f"{joint_index(name)}{NEW}").counts()["labelled"]
    return images


def _outlook(run: RunFolder, stage: Stage, images: dict[str, int], *, start_over: bool) -> dict[str, Any]:
    standing = run.standing(stage)
    changed = MAKE_AGAIN if start_over else REFUSE
    action = {"absent": DO, "unfinished": GO_ON, "finished": SKIP, "changed": changed}[standing.state]
    return {
        "name": stage.name,
        "kind": stage.kind,
        "action": action,
        "images": _images(stage, images),
        "steps": stage.settings.get("steps"),
        "done": _done(run.path / stage.name, stage) if action == GO_ON else 0,
        "changes": list(standing.changes),
    }


def _images(stage: Stage, images: dict[str, int]) -> int:
    if stage.kind == "label":
        return images["unlabelled"]
    if stage.kind == "evaluate":
        return images["validation"] + images["test"]
    settings = stage.settings
    return int(settings["steps"] * (settings["human"] + settings["pseudo"])) if "steps" in settings else 0


def _done(folder: Path, stage: Stage) -> int:
    """Return the steps that are saved of a training, or the images of a labelling."""
    if stage.kind == "label":
        return sum(_rows(path) for path in folder.glob("shard-*.arrow"))
    try:
        return int(json.loads((folder / "last.json").read_text(encoding="utf-8"))["step"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return 0  # absent or damaged: the command itself says so, and what to do


def _rows(shard: Path) -> int:
    try:
        with pa.memory_map(str(shard)) as file:
            return int(pa.ipc.open_file(file).read_all().num_rows)
    except (OSError, pa.ArrowException):
        return 0  # as above


def _check_writable(folder: Path) -> None:
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise RunError(f"the run folder {folder} cannot be written to: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunError(f"the run folder {folder} cannot be written to: {nearest} is not writable")


def _in_use(folder: Path) -> bool:
    """Return whether another process has the folder; only looks."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
