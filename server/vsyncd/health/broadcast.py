"""Notifies waiting tasks of state changes. Changes are not queued: a task reads the present state afterwards."""

import asyncio


class Broadcast:
    """Broadcasts state changes to waiting tasks.

    A task gets the event of the next change, reads the state, and then waits for the event. In this order it misses no
    change.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether no further changes follow."""
        return self._ended

    def next(self) -> asyncio.Event:
        """Returns an event that is set by the next change or the end."""
        return self._next

    def announce(self) -> None:
        """Announces a change to the waiting tasks."""
        event = self._next
        if not self._ended:
            self._next = asyncio.Event()
        event.set()

    def end(self) -> None:
        """Announces the end. Later waits return at once."""
        self._ended = True
        self._next.set()
