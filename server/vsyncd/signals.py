"""Stops the process on SIGTERM and SIGINT, and reloads files on SIGHUP."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from vsyncd.observability import logs

# Exit codes of a process that ends without a clean stop. A shell adds the signal's number in the same way.
_SIGNAL_EXIT_CODE: Final = 128
_TIMEOUT_EXIT_CODE: Final = 1

_log = logs.logger(__name__)


class StopSignals:
    """The first signal requests a clean stop. A second one ends the process at once, with exit code 128 plus its
    number.

    A stop that takes longer than `timeout` seconds ends the process with exit code 1, even if the event loop hangs.

    SIGHUP calls `on_reload`. If the process has lost its terminal, SIGHUP requests a stop instead: the terminal was
    closed.
    """

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive, number)
        self.on_reload: Callable[[], None] = lambda: None
        self._had_terminal = _has_terminal()
        loop.add_signal_handler(signal.SIGHUP, self._receive_hangup)

    async def wait(self) -> None:
        """Waits until a stop is requested."""
        await self._requested.wait()

    async def run_until_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs `work`, which a stop cancels. Returns whether it completed. Raises what it raises."""
        working, stop = asyncio.create_task(work), asyncio.create_task(self.wait())
        try:
            await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            await working
            return True
        finally:
            stop.cancel()
            working.cancel()
            await asyncio.wait({working, stop})

    def _receive(self, number: signal.Signals) -> None:
        if self._requested.is_set():
            _log.warning("process ended by a second signal", signal=number.name)
            _end(_SIGNAL_EXIT_CODE + number)
        self._requested.set()
        # A daemon thread: the event loop may hang, or another thread that the interpreter joins at exit.
        timer = threading.Timer(self._timeout, self._exit_late)
        timer.daemon = True
        timer.start()
        # Last, because writing fails if the terminal is gone.
        _log.info("stopping", signal=number.name)

    def _receive_hangup(self) -> None:
        if self._had_terminal and not _has_terminal():
            if not self._requested.is_set():
                self._receive(signal.SIGHUP)
        else:
            self.on_reload()
            _log.info("reloading", signal=signal.SIGHUP.name)

    def _exit_late(self) -> None:
        _log.error("stop timed out", seconds=self._timeout)
        _end(_TIMEOUT_EXIT_CODE)


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
