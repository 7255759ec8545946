"""Long tasks: progress, stopping, and parallel work."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final, NamedTuple, TypeVar

from vsyncd.backup.errors import Interrupted

T = TypeVar("T")
R = TypeVar("R")

TICK_S: Final = 0.25

Check = Callable[[], None]
OnBytes = Callable[[int], None]


class Progress(NamedTuple):
    """A step and its progress: in tables for `dump` and `restore`, otherwise in bytes. A `total` of 0 is unknown.

    `written`: bytes of the dump so far.
    """

    step: str
    done: int = 0
    total: int = 0
    written: int = 0


OnProgress = Callable[[Progress], None]


def ignore_progress(_progress: Progress) -> None:
    """The default OnProgress."""


class Stop:
    """Asks a task of another thread to stop."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def request(self) -> None:
        self._requested.set()

    def check(self) -> None:
        """Raises Interrupted if a stop was requested."""
        if self._requested.is_set():
            raise Interrupted("stopped on request")


class ByteCounter:
    """Counts the bytes of one step in several threads, and reports them as progress."""

    def __init__(self, step: str, total: int, on_progress: OnProgress) -> None:
        self._step = step
        self._total = total
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done = 0

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count

    def report(self) -> None:
        self._on_progress(Progress(self._step, done=self._done, total=self._total))


def await_result(future: Future[R], check: Check) -> R:
    """Wait for a result. `check` is called a few times per second; its exception ends the wait."""
    while not future.done():
        wait([future], timeout=TICK_S)
        check()
    return future.result()


def run_parallel(
    function: Callable[[T, Check], R],
    items: Sequence[T],
    *,
    jobs: int,
    stop: Stop,
    on_tick: Callable[[], None] = lambda: None,
    on_abort: Callable[[], None] = lambda: None,
) -> list[R]:
    """Call `function(item, check)` for each item in up to `jobs` threads. Returns the results in order.

    `on_tick` is called a few times per second. The first exception, `on_tick`'s included, is raised after all threads
    have ended: `check` raises in each of them, and `on_abort` is called repeatedly. Raises Interrupted.
    """
    aborted = Stop()
    failures: list[BaseException] = []

    def check() -> None:
        stop.check()
        aborted.check()

    def call(item: T) -> R:
        try:
            check()
            return function(item, check)
        except BaseException as error:
            failures.append(error)  # before the abort, whose Interrupted in other threads is not the cause
            aborted.request()
            raise

    def raise_failure() -> None:
        if failures:
            raise failures[0]

    with ThreadPoolExecutor(jobs, thread_name_prefix="backup") as threads:
        futures = [threads.submit(call, item) for item in items]
        try:
            on_tick()
            while wait(futures, timeout=TICK_S, return_when=FIRST_EXCEPTION).not_done and not failures:
                stop.check()
                on_tick()
            raise_failure()
            on_tick()
            return [future.result() for future in futures]
        except BaseException:
            aborted.request()
            on_abort()
            while wait(futures, timeout=TICK_S).not_done:
                on_abort()  # a thread may have started a statement after the previous call
            raise
