from __future__ import annotations

import io

import pytest
from rich.console import Console

from selftrain.pace import Pace
from selftrain.progress_display import Bars, Lines, progress_display
from selftrain_core.progress import Event

STAGE = "round-1/student"


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def progress(done: int, total: int = 1000, **values: float) -> Event:
    return Event("progress", STAGE, done, total, values=values)


def test_rate_and_remaining_time() -> None:
    pace = Pace(0.0)
    pace.update(Event("started", STAGE), 0.0)
    pace.update(progress(10), 5.0)
    assert pace.rate is None
    assert pace.remaining is None
    pace.update(progress(210), 15.0)
    assert pace.rate == pytest.approx(20)
    assert pace.remaining == pytest.approx((1000 - 210) / 20)


def test_a_resumed_stage_does_not_count_what_was_done_before() -> None:
    pace = Pace(0.0)
    pace.update(Event("started", STAGE, done=800, total=1000), 0.0)
    pace.update(progress(810), 5.0)
    pace.update(progress(830), 15.0)
    assert pace.rate == pytest.approx(2)
    assert pace.remaining == pytest.approx(85)


def test_a_stage_that_counts_anew_starts_its_rate_anew() -> None:
    pace = Pace(0.0)
    for done, now in ((10, 1.0), (60, 2.0), (5, 10.0), (25, 12.0)):
        pace.update(progress(done, 60), now)
    assert pace.done == 25
    assert pace.rate == pytest.approx(10)


def test_a_score_tells_how_far_training_is_but_not_how_fast() -> None:
    pace = Pace(0.0)
    pace.update(progress(0), 0.0)
    pace.update(progress(100), 10.0)
    pace.update(Event("score", STAGE, done=140, values={"miou": 43.21}), 12.0)
    assert pace.done == 140
    assert pace.rate == pytest.approx(10)
    assert pace.newest() == "miou 43.21"


def test_lines_come_at_most_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    show = Lines(clock)
    show(Event("started", STAGE))
    for second in range(35):
        clock.now = 1000.0 + second
        show(progress(8 * second, loss=0.5))
    clock.now += 1
    show(Event("score", STAGE, done=280, values={"miou": 43.214}))
    clock.now = 1125.0
    show(Event("finished", STAGE, values={"seconds": 125.0}))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "round-1/student: started",
        "round-1/student: 80/1,000 images, 8 images/s, ETA 1:55, loss 0.5",
        "round-1/student: 160/1,000 images, 8 images/s, ETA 1:45, loss 0.5",
        "round-1/student: 240/1,000 images, 8 images/s, ETA 1:35, loss 0.5",
        "round-1/student: miou 43.21, 280/1,000 images, 8 images/s, ETA 1:30",
        "round-1/student: finished in 2:05, 280/1,000 images, 8 images/s",
    ]


def test_stages_have_clocks_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    show = Lines(clock)
    for stage in ("a", "b"):
        show(Event("started", stage))
        clock.now += 9
        show(Event("progress", stage, 1, 2))
    assert capsys.readouterr().err.splitlines() == ["a: started", "b: started"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event("skipped", STAGE, text="finished before"), "round-1/student: skipped, finished before"),
        (Event("note", STAGE, text="2 images cannot be read"), "round-1/student: 2 images cannot be read"),
        (Event("failed", STAGE, text="out of memory"), "round-1/student: failed, out of memory"),
        (Event("started", STAGE, done=80, total=100), "round-1/student: started, 80/100 images"),
    ],
)
def test_each_kind_of_event_has_its_line(event: Event, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    Lines(FakeClock())(event)
    assert capsys.readouterr().err == f"{line}\n"


def terminal() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=True, width=160, color_system=None), written


def test_bars_show_one_line_per_stage() -> None:
    console, written = terminal()
    clock = FakeClock()
    bars = Bars(console, clock)
    bars(Event("started", STAGE))
    bars(progress(0, loss=0.7))
    clock.now += 10
    bars(progress(250, loss=0.4123))
    bars(Event("started", "round-1/[odd]"))
    (student, odd) = bars.progress.tasks
    assert (student.completed, student.total) == (250, 1000)
    assert student.fields["count"] == "250/1,000 images"
    assert student.fields["rate"] == "25 images/s"
    assert student.fields["time"] == "ETA 0:30"
    assert student.fields["newest"] == "loss 0.4123"
    assert odd.total is None
    console.print(bars.progress)
    assert "round-1/[odd]" in written.getvalue()


def test_a_finished_bar_is_full_and_shows_what_it_took() -> None:
    clock = FakeClock()
    bars = Bars(terminal()[0], clock)
    bars(Event("started", STAGE))
    clock.now += 61
    bars(Event("finished", STAGE, values={"seconds": 61.0}))
    (task,) = bars.progress.tasks
    assert task.finished
    assert task.fields["time"] == "1:01"
    assert task.fields["newest"] == ""


def test_skipped_and_failed_stages_are_lines_above_the_bars() -> None:
    console, written = terminal()
    bars = Bars(console, FakeClock())
    bars(Event("skipped", "round-0/[teacher]", text="finished before"))
    bars(Event("failed", STAGE, text="out of memory"))
    assert bars.progress.tasks == []
    assert written.getvalue().splitlines() == [
        "round-0/[teacher]: skipped, finished before",
        "round-1/student: failed, out of memory",
    ]


def test_the_console_decides() -> None:
    with progress_display(terminal()[0]) as shown:
        assert isinstance(shown, Bars)
    with progress_display(Console(file=io.StringIO())) as shown:
        assert isinstance(shown, Lines)
