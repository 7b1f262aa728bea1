"""Working in several threads at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


_SHARING = threading.Lock()


@contextmanager
def shared_out(lanes: int) -> Iterator[None]:
    """Let each of `lanes` threads that call torch have its share of torch's own threads.

    The number of these is the whole process's: who comes while another shares them out finds them shared out.
    """
    if lanes < 2 or not _SHARING.acquire(blocking=False):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // lanes))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _SHARING.release()


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
