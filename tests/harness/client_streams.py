"""Reads the client's five resumable streams the same way with both clients."""

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
"""Returns whether the messages received are enough, so that the reader can stop."""


def never(_messages: Sequence[Any]) -> bool:
    """Reads a stream until its end."""
    return False


@dataclass
class Reader:
    """Reads a stream with one kind of client. `messages` has the messages received so far."""

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
            # In a separate thread, because the loop's executor has few threads.
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
