"""News for many: who waits is woken, and then looks at the present state. Nothing is queued for anyone."""

import asyncio


class Broadcast:
    """A bell. Take `next` before looking at the state, so that no change after the look is missed."""

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether there will be no more of them."""
        return self._ended

    def next(self) -> asyncio.Event:
        """Is set at the next change, or the end."""
        return self._next

    def announce(self) -> None:
        """Wake everyone who waits."""
        woken = self._next
        if not self._ended:
            self._next = asyncio.Event()
        woken.set()

    def end(self) -> None:
        """There is nothing more to wait for: whoever waits, now or later, goes on at once."""
        self._ended = True
        self._next.set()
