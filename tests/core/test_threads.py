"""Threads give results in order, stop at errors, and give torch its own back."""

import threading
from collections.abc import Iterator

import pytest

from selftrain_core.threads import in_threads


def test_what_a_thread_makes_comes_in_order() -> None:
    threads: set[int] = set()

    def square(number: int) -> int:
        threads.add(threading.get_ident())
        return number**2

    assert list(in_threads(square, range(20))) == [number**2 for number in range(20)]
    assert len(threads) == 1 and threading.get_ident() not in threads
    assert list(in_threads(square, [])) == []


def test_a_thread_stays_no_further_behind_than_it_may() -> None:
    """While the thread works on one item, the next is made, and no more of them."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(9):
            taken.append(number)
            yield number

    for done in in_threads(lambda number: number, items()):
        assert len(taken) <= done + 2
    assert len(taken) == 9


def test_an_error_in_a_thread_is_raised_and_ends_it() -> None:
    made: list[float] = []

    def invert(number: int) -> None:
        made.append(1 / number)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(invert, [2, 0, 1, 1, 1]))
    assert len(made) <= 2


def test_closed_early_a_thread_drops_what_has_not_begun() -> None:
    made: list[int] = []
    results = in_threads(made.append, range(9))
    next(results)
    results.close()
    assert len(made) <= 2
