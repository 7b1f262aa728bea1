"""Shows what stages tell: bars on a terminal, plain lines everywhere else. Both go to stderr; results go to stdout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from selftrain.pace import Clock, Pace
from selftrain.summary_table import format_seconds
from selftrain_core.progress import Event, Observer

LINE_SECONDS = 10.0
"""Least time between two progress lines of one stage."""


@contextmanager
def progress_display(console: Console | None = None, clock: Clock = time.monotonic) -> Iterator[Observer]:
    """Give the observer that suits the console for as long as the context lasts.

    Args:
        console: Where to show; None is stderr.
        clock: Seconds from any origin.
    """
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Lines(clock)
        return
    bars = Bars(console, clock)
    with bars.progress:
        yield bars


class Lines:
    """Plain lines, for logs and pipes: what begins and ends, each score, and progress every ten seconds.

    Args:
        clock: Seconds from any origin.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._paces: dict[str, Pace] = {}
        self._shown: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        now = self._clock()
        if event.kind == "started" or event.stage not in self._paces:
            self._paces[event.stage], self._shown[event.stage] = Pace(now), now
        pace = self._paces[event.stage]
        pace.update(event, now)
        if event.kind == "progress":
            if now - self._shown[event.stage] < LINE_SECONDS:
                return
            self._shown[event.stage] = now
        click.echo(f"{event.stage}: {_line(event, pace, now)}", err=True)


def _line(event: Event, pace: Pace, now: float) -> str:
    if event.kind == "progress":
        parts = [_count(pace), *_speed(pace), pace.newest()]
    elif event.kind == "score":
        scores = "  ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        parts = [scores, _count(pace), *_speed(pace)]
    elif event.kind == "finished":
        rate = [_rate(pace)] if pace.rate else []
        parts = [f"finished in {format_seconds(now - pace.started)}", *([_count(pace)] if pace.done else []), *rate]
    elif event.kind == "started":
        parts = ["started", *([_count(pace)] if pace.done or pace.total else [])]
    elif event.kind == "note":
        parts = []
    else:
        parts = [event.kind]
    return ", ".join(part for part in [*parts, event.text] if part)


def _count(pace: Pace) -> str:
    return f"{pace.done:,}/{pace.total:,} {pace.unit}" if pace.total else f"{pace.done:,} {pace.unit}"


def _rate(pace: Pace) -> str:
    return f"{pace.rate:.3g} {pace.unit}/s" if pace.rate else ""


def _speed(pace: Pace) -> list[str]:
    left = pace.remaining
    return [_rate(pace), "" if left is None else f"ETA {format_seconds(left)}"]


class Bars:
    """One line per stage on a terminal: name, bar, count, rate, ETA, newest loss or score.

    Args:
        console: The terminal.
        clock: Seconds from any origin.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._paces: dict[str, Pace] = {}
        self._tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", justify="right"),
            TextColumn("{task.fields[rate]}", justify="right"),
            TextColumn("{task.fields[time]}", justify="right"),
            TextColumn("{task.fields[newest]}"),
            console=console,
            get_time=clock,
        )

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind in ("skipped", "note", "failed"):
            self._print(event)
            if event.kind == "skipped" or event.stage not in self._tasks:
                return
        now = self._clock()
        if event.kind == "started" or event.stage not in self._paces:
            self._paces[event.stage] = Pace(now)
        pace = self._paces[event.stage]
        pace.update(event, now)
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self.progress.add_task(
                escape(event.stage), total=None, count="", rate="", time="", newest=""
            )
        self._show(event, pace, now)

    def _print(self, event: Event) -> None:
        word, style = {"skipped": ("skipped", "dim"), "failed": ("failed", "red")}.get(event.kind, ("", ""))
        text = ", ".join(part for part in (word, event.text) if part)
        self.progress.console.print(f"{event.stage}: {text}", style=style, markup=False)

    def _show(self, event: Event, pace: Pace, now: float) -> None:
        task = self._tasks[event.stage]
        total, done = pace.total or None, pace.done
        if event.kind == "finished":
            # A stage that counts nothing has a full bar when it ends.
            total = total or max(done, 1)
            done = total
            self.progress.stop_task(task)
            shown = format_seconds(now - pace.started)
        else:
            shown = "" if pace.remaining is None else f"ETA {format_seconds(pace.remaining)}"
        self.progress.update(
            task,
            total=total,
            completed=done,
            count=_count(pace) if pace.done or pace.total else "",
            rate=_rate(pace),
            time=shown,
            newest=escape(pace.newest()),
        )
