"""Working in several threads at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@contextmanager
def shared_out(lanes: int) -> Iterator[None]:
    """Let each of `lanes` threads that call torch have its share of torch's own threads."""
    threads = torch.get_num_threads()
    if lanes > 1:
        torch.set_num_threads(threads // lanes)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_threads(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], threads: int = 1, ahead: int = 1
) -> Generator[ResultT]:
    """Yield ``function(item)`` of each item in order, computed in other threads while the next items come.

    Closed early, it drops what has not begun, and waits for what has.

    Args:
        function: Runs at most `threads` times at once.
        items: Taken in this thread.
        threads: How many.
        ahead: Items that may be on their way.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[ResultT]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
