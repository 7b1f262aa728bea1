"""``python -m selftrain_core.stage FOLDER``: the process that does one stage.

The folder's ``stage.json`` says what to do. Everything that belongs to the work (memory, a GPU's context, process
groups) ends with the process. Extra ranks are this same command, started again by Lightning.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

from selftrain_core.environment import environment
from selftrain_core.errors import SelftrainError
from selftrain_core.files import write_text
from selftrain_core.launch import FAILURE, LEASH, LOCK_FD
from selftrain_core.progress import Event, Observer, Reporter


def work(folder: Path, observer: Observer | None = None) -> None:
    """Do the stage whose folder is `folder`, and mark it as finished.

    Args:
        folder: Holds ``stage.json``.
        observer: Told what happens; None tells the process at the other end of the pipe.
    """
    from selftrain_core.run_folder import finish
    from selftrain_core.stage_context import StageContext
    from selftrain_core.stages import STAGES

    started = time.monotonic()
    context = StageContext.read(folder, observer)
    result = STAGES[context.kind](context)
    if context.is_main_rank:
        finish(folder, {"seconds": time.monotonic() - started, **result}, environment())


def main() -> int:
    """Return the exit status of the stage named on the command line."""
    folder = Path(sys.argv[1])
    if os.environ.get(LEASH):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if LOCK_FD in os.environ and os.environ.get("LOCAL_RANK", "0") == "0":
        os.register_at_fork(after_in_child=partial(os.close, int(os.environ[LOCK_FD])))
    try:
        work(folder)
    except SelftrainError as error:
        failed = Event("failed", folder.name, text=str(error), error=type(error).__name__)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            Reporter(folder.name).send(failed)
        else:
            write_text(folder / FAILURE, failed.to_line())
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    # Blocks until the launching process closes its end of the pipe, which the system does for it if it was killed.
    # The raw descriptor, because a buffered reader that still waits at exit would make the interpreter abort.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
