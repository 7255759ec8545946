"""Concurrent calls, gathered into one statement.

A lone call goes at once: it never waits for company. Those that come while it is under way are gathered and go together
when it returns; and once there is company, a batch goes when no more seem to come. A member that was cancelled leaves;
what happens to its batch is not its business, and what happened to it is not the batch's.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# An item, its result, and where it comes from.
_Member: TypeAlias = tuple[K, asyncio.Future[V], object]

_NO_CALL: Final = Context()

# Turns of the event loop without a new member, after which a batch goes. A call takes several turns through gRPC, so
# those that arrive together reach us apart: without this, batches of 64 concurrent reads have one member each.
_QUIET_TURNS: Final = 16


class BatchInstruments(Protocol):
    """Metrics and tracing of one coalescer's batches."""

    def observe(self, size: int) -> None:
        """Count a batch of this size."""
        ...

    def here(self) -> object:
        """The caller's span, for `batch`."""
        ...

    def batch(self, members: Sequence[object]) -> AbstractContextManager[None]:
        """A span around one flush, linked to the members' spans."""
        ...


class Coalescer(Generic[K, V]):
    """Gathers items for `flush`, which gives a result for each, in their order.

    An error of `flush` is raised in every member. One of the kind `divide` says that nothing was done, for the sake of
    one or a few members: then the batch goes again in halves, until those few are alone with their error. At most
    `flushes` are under way at a time, of at most `most` members each.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[K]], Awaitable[Sequence[V]]],
        *,
        instruments: BatchInstruments,
        divide: tuple[type[Exception], ...] = (),
        most: int = 128,
        flushes: int = 1,
    ) -> None:
        self._flush = flush
        self._divide = divide
        self._most = most
        self._free = flushes
        self._waiting: deque[_Member[K, V]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._instruments = instruments
        self._company = False

    async def submit(self, item: K) -> V:
        """The result for one item."""
        return await self.join(item)

    def join(self, item: K) -> asyncio.Future[V]:
        """`submit`, for who does not wait for as long as it takes: ending the future leaves the batch."""
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, self._instruments.here()))
        if self._free:
            self._free -= 1
            # In a context of its own: a batch is nobody's call, and has nobody's deadline.
            task = asyncio.get_running_loop().create_task(self._run(), context=_NO_CALL.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._company:
                    await self._more()
                batch = self._gather()
                if batch:
                    await self._serve(batch)
                self._company = len(batch) > 1 or bool(self._waiting)
        finally:
            self._free += 1

    async def _more(self) -> None:
        """Wait while members come, unless the batch is full."""
        seen = quiet = 0
        while quiet < _QUIET_TURNS and len(self._waiting) < self._most:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) <= seen else 0
            seen = len(self._waiting)

    def _gather(self) -> list[_Member[K, V]]:
        batch: list[_Member[K, V]] = []
        while self._waiting and len(batch) < self._most:
            member = self._waiting.popleft()
            if not member[1].done():
                batch.append(member)
        return batch

    async def _serve(self, batch: list[_Member[K, V]]) -> None:
        self._instruments.observe(len(batch))
        try:
            with self._instruments.batch([here for _, _, here in batch]):
                results = await self._flush([item for item, _, _ in batch])
        except Exception as error:  # noqa: BLE001  it is raised again, in every member
            if len(batch) > 1 and isinstance(error, self._divide):
                half = len(batch) // 2
                await self._serve(batch[:half])
                await self._serve(batch[half:])
                return
            for _, future, _ in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future, _), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
