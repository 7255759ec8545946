"""When to stop: SIGTERM and SIGINT."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final

from vsyncd.observability import logs

# Exit codes of a process that did not end in good order: as a shell puts a death by a signal, and our own.
_BY_SIGNAL: Final = 128
_OVERDUE: Final = 1

_log = logs.logger(__name__)


class StopSignals:
    """The first signal asks for a stop in good order. A second one ends the process at once, with exit code 128 and
    the signal's number; so does, with 1, a stop that takes longer than `most` seconds, whatever it hangs on."""

    def __init__(self, *, most: float) -> None:
        self._most = most
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive, number)

    async def wait(self) -> None:
        """Until a stop is asked for."""
        await self._asked.wait()

    async def unless_asked(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do it, and say whether it was done: a stop cancels it. Raises what it raises."""
        working, asked = asyncio.create_task(work), asyncio.create_task(self.wait())
        try:
            await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            await working
            return True
        finally:
            asked.cancel()
            working.cancel()
            await asyncio.wait({working, asked})

    def _receive(self, number: signal.Signals) -> None:
        if self._asked.is_set():
            _log.warning("ended by a second signal", signal=number.name)
            _end(_BY_SIGNAL + number)
        _log.info("stopping", signal=number.name)
        self._asked.set()
        # A thread: what hangs may be the event loop, or another thread that Python would wait for at its end.
        overdue = threading.Timer(self._most, self._give_up)
        overdue.daemon = True
        overdue.start()

    def _give_up(self) -> None:
        _log.error("the stop takes too long", seconds=self._most)
        _end(_OVERDUE)


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
