"""Having a stage done: in a process of its own, whose events and end this process watches. No torch here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from selftrain_core.errors import RunError, StageFailedError, error_named
from selftrain_core.files import explain
from selftrain_core.plugins import registry
from selftrain_core.progress import EVENTS_FD, Event, Observer
from selftrain_core.run_folder import FINISHED, RunFolder, Stage

LEASH = "SELFTRAIN_LEASH"
"""Set in a stage's environment when its standard input is a pipe that the launching process holds open: when that
process is gone, however it went, the pipe ends and the stage ends with it."""

FAILURE = "failure.json"
"""Where a rank that has no pipe leaves the error that ended it."""

LOCK_FD = "SELFTRAIN_LOCK_FD"
"""Names the run folder's lock in a stage's environment, so that the stage can keep it from the loader's workers, which
only read and may outlive it by seconds."""

LOG_LINES_SHOWN = 15


def launch(run: RunFolder, stage: Stage, observer: Observer, *, in_process: bool) -> None:
    """Have `stage` done, from its start or from where it was interrupted.

    Args:
        run: The run's folder, locked.
        stage: What to do.
        observer: Told what happens.
        in_process: Do it in this process.

    Raises:
        StageFailedError: It ended without finishing; the message says why, or shows the end of its log.
    """
    folder = run.begin(stage)
    observer(Event("started", stage.name))
    if in_process:
        from selftrain_core.stage import work  # imports torch, which this process otherwise never does

        work(folder, observer)
    else:
        _in_own_process(run, folder, stage, observer)
    result = run.result(stage.name)
    observer(Event("finished", stage.name, values={"seconds": float(result.get("seconds", 0.0))}))
    _tell_plugins(run.path, stage.name, result, observer)


def _tell_plugins(run: Path, stage: str, report: dict[str, Any], observer: Observer) -> None:
    arguments = {"run": run, "stage": stage, "report": report}
    for implementation in registry().manager.hook.selftrain_stage_finished.get_hookimpls():
        try:
            implementation.function(*(arguments[name] for name in implementation.argnames))
        except Exception as error:  # who only observes must not end the run
            plugin = implementation.plugin_name
            observer(Event("note", stage, text=f"plugin '{plugin}' failed to observe: {type(error).__name__}: {error}"))


def _in_own_process(run: RunFolder, folder: Path, stage: Stage, observer: Observer) -> None:
    reading, writing = os.pipe()
    environment = {**os.environ, EVENTS_FD: str(writing), LEASH: "1", LOCK_FD: str(run.lock)}
    log = folder / "log.txt"
    failure = folder / FAILURE
    failure.unlink(missing_ok=True)
    failed: Event | None = None
    with _opened(log) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "selftrain_core.stage", str(folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(writing, run.lock),
        )
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as events:
            for line in events:
                if not line.endswith("\n"):
                    break  # the stage was killed in the middle of it
                event = Event.from_line(line)
                if event.kind == "failed":
                    failed = event
                else:
                    observer(event)
        status = process.wait()
    except BaseException:  # Ctrl-C above all: the stage must not outlive this process
        process.kill()
        process.wait()
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()
    if failed is None and failure.is_file():
        failed = Event.from_line(failure.read_text(encoding="utf-8"))
    if failed is not None:
        raise error_named(failed.error)(failed.text)
    record = run.record(stage.name)
    if status != 0 or record is None or record["state"] != FINISHED:
        raise StageFailedError(_how_it_ended(stage, status, log))


def _opened(log: Path) -> BinaryIO:
    try:
        return log.open("ab")
    except OSError as error:
        raise RunError(f"{log} cannot be written: {explain(error)}") from error


def _how_it_ended(stage: Stage, status: int, log: Path) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (the system kills a process that takes more memory than there is)" if name == "SIGKILL" else ""
        return (
            f"the stage {stage.name} was stopped by {name}{hint}\n"
            "  nothing finished is lost: the same command goes on from the last saved step"
        )
    if status == 0:
        return (
            f"the stage {stage.name} ended before it was finished, as it does on SIGTERM\n"
            "  nothing finished is lost: the same command goes on from the last saved step"
        )
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    return "\n".join([f"the stage {stage.name} failed; the end of {log}:", *(f"  {line}" for line in lines)])
