"""What a stage tells while it works: JSON lines on a pipe, from the stage's process to the one that shows them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import IO, Any

EVENTS_FD = "SELFTRAIN_EVENTS_FD"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: ``started``, ``progress``, ``score``, ``finished``, ``skipped`` or ``note``; ``failed`` is sent by a
            stage's process alone, and becomes the error that the run raises.
        stage: The stage's name, such as ``round-1/student``.
        done: Units of work done, for ``progress``.
        total: Units of work in all.
        unit: What is counted: ``images``.
        text: For people.
        values: Numbers, for example the losses.
        error: Name of the error's class, for ``failed``.
    """

    kind: str
    stage: str
    done: int = 0
    total: int = 0
    unit: str = "images"
    text: str = ""
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def to_line(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Event:
        """Return what `to_line` wrote."""
        return cls(**json.loads(line))


Observer = Callable[[Event], None]


def quiet(event: Event) -> None:
    """Show nothing."""


class Reporter:
    """Tells what a stage does. Only rank 0 speaks, and only if somebody listens.

    Args:
        stage: The stage's name.
        observer: Called in this process; None writes to the pipe the environment names, if it names one.
    """

    def __init__(self, stage: str, observer: Observer | None = None) -> None:
        self.stage = stage
        self._observer = observer
        self._pipe: IO[str] | None = None
        descriptor = os.environ.get(EVENTS_FD)
        if observer is None and descriptor and os.environ.get("LOCAL_RANK", "0") == "0":
            self._pipe = os.fdopen(int(descriptor), "w", buffering=1, encoding="utf-8", closefd=False)

    def tell(self, kind: str, **values: Any) -> None:
        """Send an event of this stage."""
        self.send(Event(kind, self.stage, **values))

    def send(self, event: Event) -> None:
        """Send one event."""
        if self._observer:
            self._observer(event)
        elif self._pipe:
            self._pipe.write(event.to_line() + "\n")
