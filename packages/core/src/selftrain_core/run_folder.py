"""A run's folder: who may write to it, which stages are finished, and what is allowed to go on. No torch here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from selftrain_core.digest import difference, digest
from selftrain_core.environment import other_versions
from selftrain_core.errors import RunError
from selftrain_core.files import explain, write_json

FINISHED = "finished"
UNFINISHED = "unfinished"
MAKE_AGAIN = "to make it again: the same command with --start-over, which removes it"
MADE_FROM = "made from"
"""Begins what a stage says of a change in another stage."""
_COMPUTED = {
    "training.steps": "steps of the baseline (follow from rounds, teacher and student)",
    "training.human": "images in a step of the baseline (student.human + student.pseudo)",
}
_DATA = {"images": "number of images", "digest": "names, sizes and times of the files", "sources": "how they are read"}
LOCK_PATIENCE_SECONDS = 10.0
"""How long a second run waits for the folder: a killed run's stage needs a moment to notice."""


@dataclass(frozen=True)
class Stage:
    """One piece of work in a run.

    Attributes:
        kind: What is done: ``pretrain``, ``teach``, ``label``, ``learn``, ``baseline``, ``evaluate`` or ``draw``.
        name: Its folder in the run, such as ``round-1/student``.
        identity: Everything its result depends on, as JSON values; upstream stages by their digest.
        inputs: Names of the stages it reads, by what they are to it.
        settings: What the stage needs to know beside the configuration, such as its number of steps.
    """

    kind: str
    name: str
    identity: dict[str, Any]
    inputs: dict[str, str]
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """Identifies the result."""
        return digest(self.identity)

    def setting_name(self, key: str) -> str:
        """Return what a key of the identity is called in the configuration, or what it is where it is no setting."""
        first, _, rest = key.partition(".")
        if self.kind == "baseline" and key in _COMPUTED:
            return _COMPUTED[key]
        if self.kind == "pretrain" and first == "images":
            return f"pretraining.images, {_DATA.get(rest, rest)}"
        if first == "training":
            return f"{'teacher' if self.kind == 'teach' else 'student'}.{rest}"
        if first in ("labelled", "unlabelled", "validation", "test"):
            return f"data.{first}, {_DATA.get(rest, rest)}"
        if first in ("classes", "allow_missing_classes"):
            return f"data.{key}"
        if not rest and (first in self.inputs or "/" in first):
            return f"{MADE_FROM} {self.inputs.get(first, first)}"
        component, _, last = key.rpartition(".")
        return f"{component}, the version of its numbers" if last == "numerics" else key


@dataclass(frozen=True, slots=True)
class Standing:
    """How a stage stands in a folder.

    Attributes:
        state: ``absent``, ``unfinished`` (it was begun, and can go on), ``finished``, or ``changed``: what is there was
            made with other settings or data.
        changes: What changed, one line each, in the words of the configuration.
    """

    state: Literal["absent", "unfinished", "finished", "changed"]
    changes: tuple[str, ...] = ()


class RunFolder:
    """A run's folder. As a context it is locked and may be written to; without, it may be looked at.

    Args:
        path: The folder; made, with its parents, if it is not there.

    Raises:
        RunError: Another process is using the folder, it holds something else, or it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Take the lock."""
        self.refuse_foreign_files()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        if not _locked(self._lock):
            owner = os.pread(self._lock, 32, 0).decode().strip()
            os.close(self._lock)
            raise RunError(
                f"the run folder {self.path} is in use by process {owner or 'unknown'}; wait for it to end, or give "
                "another folder with -o"
            )
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        except OSError as error:
            os.close(self._lock)
            raise self._unwritable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock."""
        assert self._lock is not None
        os.close(self._lock)
        self._lock = None

    @property
    def lock(self) -> int:
        """The lock's file descriptor. A stage inherits it, so that the folder is free when the last writer is gone."""
        assert self._lock is not None
        return self._lock

    def refuse_foreign_files(self) -> None:
        """Let nothing be written among files that are no run's.

        Raises:
            RunError: The folder is there, and holds files, but no run.
        """
        if not self.path.is_dir() or (self.path / ".lock").exists() or (self.path / "index.arrow").exists():
            return
        try:
            found = sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise self._unwritable(error) from error
        if found:
            more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
            raise RunError(
                f"the folder {self.path} holds no run, but {', '.join(found[:3])}{more}; nothing was written there\n"
                "  give a new or an empty folder with -o"
            )

    def _unwritable(self, error: OSError) -> RunError:
        reason = "it is a file" if self.path.is_file() else explain(error)
        return RunError(f"the run folder {self.path} cannot be written to: {reason}")

    def standing(self, stage: Stage) -> Standing:
        """Return how `stage` stands here."""
        record = self.record(stage.name)
        if record is None or self._is_empty(stage, record):
            return Standing("absent")
        if record["digest"] != stage.digest:
            return Standing("changed", tuple(difference(record["identity"], stage.identity, stage.setting_name)))
        return Standing("finished" if record["state"] == FINISHED else "unfinished")

    def _is_empty(self, stage: Stage, record: dict[str, Any]) -> bool:
        """Return whether what is there was made for something else and nothing of it has been saved yet.

        Nothing is lost by beginning such a stage anew.
        """
        folder = self.path / stage.name
        saved = [*folder.glob("last.ckpt"), *folder.glob("shard-*")]
        return record["digest"] != stage.digest and record["state"] != FINISHED and not saved

    def refuse_changes(
        self,
        stages: Sequence[Stage],
        *,
        start_over: bool = False,
        remedy: str = MAKE_AGAIN,
    ) -> None:
        """Let no stage go on from what was made with other settings or data.

        Args:
            stages: What is going to be done.
            start_over: Remove what was made otherwise, rather than refuse; the summary goes with it.
            remedy: What the message says to somebody who wants the stage made again.

        Raises:
            RunError: A stage is there with another identity; the message shows what changed.
        """
        standings = [self.standing(stage) for stage in stages]
        changed = [stage for stage, standing in zip(stages, standings, strict=True) if standing.state == "changed"]
        if changed and not start_over:
            raise RunError(self.refusal(changed[0], remedy))
        for stage in changed:
            for stale in (self.path / "summary.json", self.path / "summary.md"):
                stale.unlink(missing_ok=True)
            if (self.path / stage.name).exists():  # an evaluation lies within its model, and may have gone with it
                _remove(self.path / stage.name)

    def refusal(self, stage: Stage, remedy: str = MAKE_AGAIN) -> str:
        """Return why a changed stage is refused, and how to go on."""
        changes = "\n".join(f"    {line}" for line in self.standing(stage).changes)
        return (
            f"{self.path / stage.name} was made with other settings or data:\n{changes}\n"
            f"  to keep it: give another folder with -o\n  {remedy}"
        )

    def record(self, name: str) -> dict[str, Any] | None:
        """Return the ``stage.json`` of a stage, None where there is none.

        Raises:
            RunError: It is damaged.
        """
        path = self.path / name / "stage.json"
        if not path.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}); delete {path.parent} and run the same command") from error
        return record

    def begin(self, stage: Stage) -> Path:
        """Write down that `stage` is being worked on, and return its folder.

        Raises:
            RunError: The folder cannot be written to.
        """
        folder = self.path / stage.name
        record = self.record(stage.name)
        if folder.exists() and (record is None or record["digest"] != stage.digest):
            _remove(folder)  # half-removed, not ours, or begun with other settings and never saved
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {explain(error)}") from error
        write_json(
            folder / "stage.json",
            {
                "kind": stage.kind,
                "name": stage.name,
                "state": UNFINISHED,
                "digest": stage.digest,
                "inputs": stage.inputs,
                "settings": stage.settings,
                "identity": stage.identity,
            },
        )
        return folder

    def other_versions(self, name: str) -> str:
        """Return which package versions a finished stage was made with, where they differ from today's."""
        record = self.record(name)
        changes = other_versions(record["environment"]) if record else ""
        return f"made with other versions: {changes}" if changes else ""

    def result(self, name: str) -> dict[str, Any]:
        """Return what a finished stage reported.

        Raises:
            RunError: The stage is not finished.
        """
        record = self.record(name)
        if record is None or record["state"] != FINISHED:
            raise RunError(f"{self.path / name} is not finished")
        result: dict[str, Any] = record["result"]
        return result


def _locked(descriptor: int) -> bool:
    """Return whether the lock could be taken; a stage that has just lost its run is given time to end."""
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def _remove(folder: Path) -> None:
    # Under another name first: a removal that is cut short leaves nothing that looks like a stage.
    trash = folder.with_name(f".{folder.name}.trash")
    try:
        if trash.exists():
            shutil.rmtree(trash)
        folder.rename(trash)
        shutil.rmtree(trash)
    except OSError as error:
        raise RunError(f"{folder} cannot be removed: {explain(error)}") from error


def finish(folder: Path, result: dict[str, Any], environment: dict[str, str]) -> None:
    """Write down, as the last thing a stage does, that it is finished, and what came of it."""
    path = folder / "stage.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**record, "state": FINISHED, "result": result, "environment": environment})
