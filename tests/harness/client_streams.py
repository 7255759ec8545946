"""The client's five resumable streams, over both kinds of channel, read alike."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Final

import vsync

TWINS: Final = ("async", "sync")
Start = Callable[[Any], Any]
"""Starts a stream with a Client or a SyncClient."""
Enough = Callable[[Sequence[Any]], bool]
"""Says whether the messages received are all that the reader wants."""


def never(_messages: Sequence[Any]) -> bool:
    """For streams that have an end."""
    return False


@dataclass
class Reader:
    """Reads a stream over one kind of channel. `messages` has what arrived so far."""

    twin: str
    target: str
    start: Start
    enough: Enough = never

    def __post_init__(self) -> None:
        self.messages: list[Any] = []

    async def read(self) -> list[Any]:
        """Reads until the stream's end, or until it is enough. Raises what the stream raises."""
        if self.twin == "async":
            await self._read_async()
        else:
            # A thread of its own: those of the loop's executor are few.
            with ThreadPoolExecutor(1) as executor:
                await asyncio.get_running_loop().run_in_executor(executor, self._read_sync)
        return self.messages

    async def _read_async(self) -> None:
        async with vsync.connect(self.target) as client, aclosing(self.start(client)) as stream:
            async for message in stream:
                self.messages.append(message)
                if self.enough(self.messages):
                    return

    def _read_sync(self) -> None:
        with vsync.connect_sync(self.target) as client, closing(self.start(client)) as stream:
            for message in stream:
                self.messages.append(message)
                if self.enough(self.messages):
                    return
