"""Long tasks: progress, stopping, and parallel work."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final, NamedTuple, TypeVar

from vsyncd.backup.errors import Interrupted

T = TypeVar("T")
R = TypeVar("R")

TICK_S: Final = 0.25

OnBytes = Callable[[int], None]


class Progress(NamedTuple):
    """A step and its progress: in tables for `dump` and `restore`, otherwise in bytes. A `total` of 0 is unknown.

    `written`: bytes of the dump so far.
    """

    step: str
    done: int = 0
    total: int = 0
    written: int = 0


class Task:
    """One operation: reports its progress to `on_progress`, and can be stopped by another thread or a signal."""

    def __init__(self, on_progress: Callable[[Progress], None] = lambda _progress: None) -> None:
        self.report = on_progress
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Makes `check` raise Interrupted."""
        self._stopped.set()

    def check(self) -> None:
        if self._stopped.is_set():
            raise Interrupted("stopped on request")

    def count_bytes(self, step: str, total: int) -> OnBytes:
        """Returns a function for several threads that adds bytes to a step's progress. It raises Interrupted.

        It reports the first bytes, and then a few times per second.
        """
        lock, done, reported_at = threading.Lock(), 0, 0.0

        def on_bytes(count: int) -> None:
            nonlocal done, reported_at
            self.check()
            with lock:
                done += count
                if time.monotonic() >= reported_at + TICK_S:
                    reported_at = time.monotonic()
                    self.report(Progress(step, done=done, total=total))

        return on_bytes

    def await_result(self, future: Future[R]) -> R:
        """Wait for a result. Raises Interrupted."""
        while wait([future], timeout=TICK_S).not_done:
            self.check()
        return future.result()


def run_parallel(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    jobs: int,
    task: Task,
    on_abort: Callable[[], None] = lambda: None,
) -> list[R]:
    """Call the function for each item in up to `jobs` threads. Returns the results in order.

    The first exception stops the task, and is raised when all threads have ended. Until then `on_abort` is called
    repeatedly. Raises Interrupted.
    """
    failures: list[BaseException] = []

    def call(item: T) -> R:
        try:
            task.check()
            return function(item)
        except BaseException as error:
            failures.append(error)  # before the stop, whose Interrupted in other threads is not the cause
            task.stop()
            raise

    with ThreadPoolExecutor(jobs, thread_name_prefix="backup") as threads:
        futures = [threads.submit(call, item) for item in items]
        try:
            while wait(futures, timeout=TICK_S, return_when=FIRST_EXCEPTION).not_done:
                task.check()  # raises after a failure too
        except (Interrupted, KeyboardInterrupt) as error:
            cause = failures[0] if failures else error
            task.stop()
            on_abort()
            while wait(futures, timeout=TICK_S).not_done:
                on_abort()  # a thread may have started a statement after the previous call
            raise cause from None
        if failures:
            raise failures[0]
        return [future.result() for future in futures]
