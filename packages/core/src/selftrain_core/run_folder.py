"""A run's folder: who may write to it, which stages are finished, and what is allowed to go on. No torch here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from selftrain_core.digest import difference, digest
from selftrain_core.environment import other_versions
from selftrain_core.errors import RunError
from selftrain_core.files import write_json

FINISHED = "finished"
UNFINISHED = "unfinished"
LOCK_PATIENCE_SECONDS = 10.0
"""How long a second run waits for the folder: a killed run's stage needs a moment to notice."""


@dataclass(frozen=True)
class Stage:
    """One piece of work in a run.

    Attributes:
        kind: What is done: ``teach``, ``label``, ``learn``, ``baseline``, ``evaluate`` or ``draw``.
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


class RunFolder:
    """A run's folder, locked for as long as the context lasts.

    Args:
        path: The folder; made if it is not there.
        start_over: Whether a stage that was made with other settings or data is removed and made again, rather than
            refused.

    Raises:
        RunError: Another process is using the folder, or it cannot be written to.
    """

    def __init__(self, path: Path, *, start_over: bool = False) -> None:
        self.path = path
        self.start_over = start_over
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Take the lock."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            reason = "it is a file" if self.path.is_file() else error.strerror
            raise RunError(f"the run folder {self.path} cannot be written to: {reason}") from error
        if not _locked(self._lock):
            owner = os.pread(self._lock, 32, 0).decode().strip()
            os.close(self._lock)
            raise RunError(
                f"the run folder {self.path} is in use by process {owner or 'unknown'}; wait for it to end, or give "
                "another folder with -o"
            )
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
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

    def is_finished(self, stage: Stage) -> bool:
        """Return whether `stage` has been done, with the same identity.

        Raises:
            RunError: The folder holds the stage with another identity; the message shows what changed.
        """
        record = self.record(stage.name)
        if record is None:
            return False
        if record["digest"] != stage.digest and (self.start_over or self._is_empty(stage.name, record)):
            _remove(self.path / stage.name)
            return False
        if record["digest"] != stage.digest:
            changes = "\n".join(f"    {line}" for line in difference(record["identity"], stage.identity))
            raise RunError(
                f"{self.path / stage.name} was made with other settings or data:\n{changes}\n"
                f"  to keep it: give another folder with -o\n"
                f"  to make it again: the same command with --start-over, which removes it"
            )
        return bool(record["state"] == FINISHED)

    def _is_empty(self, name: str, record: dict[str, Any]) -> bool:
        """Return whether nothing of a stage has been saved yet, so that nothing is lost by beginning it anew."""
        folder = self.path / name
        saved = [*folder.glob("last.ckpt"), *folder.glob("shard-*")]
        return record["state"] != FINISHED and not saved

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
        if self.record(stage.name) is None and folder.exists():
            _remove(folder)  # what lies there belongs to no stage: half-removed, or not ours
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}") from error
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
    if trash.exists():
        shutil.rmtree(trash)
    folder.rename(trash)
    shutil.rmtree(trash)


def finish(folder: Path, result: dict[str, Any], environment: dict[str, str]) -> None:
    """Write down, as the last thing a stage does, that it is finished, and what came of it."""
    path = folder / "stage.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**record, "state": FINISHED, "result": result, "environment": environment})
