"""How fast a stage works, and how long it will take: counted in this process alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from selftrain_core.progress import Event

Clock = Callable[[], float]


@dataclass
class Pace:
    """The progress of one stage.

    A resumed stage begins with work that was done before; it must not make the rate look better. So the rate counts
    from the first progress event on, which also leaves out the time in which the stage starts up.

    Attributes:
        started: Seconds on the clock when the stage began in this process.
        done: Units of work done, earlier ones included.
        total: Units of work in all, 0 while unknown.
        unit: What is counted.
        values: The newest losses and scores.
    """

    started: float
    done: int = 0
    total: int = 0
    unit: str = "images"
    values: dict[str, float] = field(default_factory=dict)
    _first: tuple[float, int] | None = None
    _last: tuple[float, int] = (0.0, 0)

    def update(self, event: Event, now: float) -> None:
        """Take in an event of the stage, which happened at `now` seconds on the clock."""
        if event.kind == "started":
            self.done, self.total, self.unit = event.done, event.total, event.unit
        elif event.kind == "progress":
            if self._first is None or event.done < self.done:
                # A stage may count several times, such as once for validation and once for test.
                self._first = (now, event.done)
            self._last = (now, event.done)
            self.done, self.total, self.unit = event.done, event.total, event.unit
            self.values.update(event.values)
        elif event.kind == "score":
            self.done = event.done or self.done
            self.values.update(event.values)

    @property
    def rate(self) -> float | None:
        """Units per second up to the last progress; None before the second."""
        if self._first is None:
            return None
        (since, before), (until, done) = self._first, self._last
        return (done - before) / (until - since) if until > since and done > before else None

    @property
    def remaining(self) -> float | None:
        """Seconds until the end at this rate; None while unknown."""
        if not self.rate or not self.total:
            return None
        return max(0, self.total - self.done) / self.rate

    def newest(self) -> str:
        """Return the newest losses and scores, such as ``loss 0.412``."""
        return "  ".join(f"{name} {value:.4g}" for name, value in self.values.items())
