"""Worker processes that end when their parent does.

Spawned, not forked: a fork of a process whose torch has threads may hang, CUDA does not survive it, and notebooks have threads.
Only the standard library is imported here, so that a worker takes no longer to start than its own work needs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def worker_pool(workers: int, prepare: Callable[..., None] | None = None, *given: Any) -> Iterator[ProcessPoolExecutor]:
    """So many processes; each calls ``prepare(*given)`` first. Work that has not begun is dropped when the block is left."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (prepare, given))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(pool: Executor, work: Callable[[T], R], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    """``work`` of every task, in the order of the tasks, with no more than ``ahead`` of them handed out at a time.

    ``pool.map`` would hand out all at once, and keep every result that nobody has asked for yet.
    """
    waiting: deque[Future[R]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin(prepare: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, which then ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare:
        prepare(*given)


def _end_with_parent() -> None:
    """A parent that is killed ends nobody: without this its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
