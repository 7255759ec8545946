"""Gathers concurrent calls into one statement.

A single call is executed at once. Calls that arrive while a batch is in progress are gathered and executed together
when it ends. While calls are concurrent, a batch waits until no more calls seem to arrive. A cancelled call leaves its
batch; neither affects the other.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final, Generic, NamedTuple, TypeVar

from vsyncd.observability.metrics import BATCH_CALLS
from vsyncd.observability.tracing import TRACES

K = TypeVar("K")
V = TypeVar("V")

_NO_CALL: Final = Context()

# A batch is executed after this many turns of the event loop without a new member. A call takes several turns through
# gRPC, so calls that arrive together reach this module apart: without this, batches of 64 concurrent reads have one
# member each.
_QUIET_TURNS: Final = 16


class _Member(NamedTuple, Generic[K, V]):
    item: K
    result: asyncio.Future[V]
    span: object


class Coalescer(Generic[K, V]):
    """Gathers items for `flush`, which returns one result per item, in the same order.

    An error of `flush` is raised in every member. An error of the type `split_on` means that nothing was done because
    of some members: the batch is then executed again in halves, until only those members get the error. At most
    `max_flushes` flushes of at most `max_size` items run at a time. `name` names the batches in metrics and traces.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[K]], Awaitable[Sequence[V]]],
        *,
        name: str,
        split_on: tuple[type[Exception], ...] = (),
        max_size: int = 128,
        max_flushes: int = 1,
    ) -> None:
        self._flush = flush
        self._split_on = split_on
        self._max_size = max_size
        self._free_flushes = max_flushes
        self._waiting: deque[_Member[K, V]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._span = f"batch {name}"
        self._sizes = BATCH_CALLS.labels(name)
        self._is_concurrent = False

    async def submit(self, item: K) -> V:
        return await self.join(item)

    def join(self, item: K) -> asyncio.Future[V]:
        """Returns the future result for one item. Cancelling the future removes the item from its batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V] = loop.create_future()
        self._waiting.append(_Member(item, future, TRACES.current_span()))
        if self._free_flushes:
            self._free_flushes -= 1
            # An empty context: a batch belongs to no call and has no deadline.
            task = loop.create_task(self._run(), context=_NO_CALL.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._is_concurrent:
                    await self._wait_for_members()
                batch = self._take_batch()
                if batch:
                    await self._execute(batch)
                self._is_concurrent = len(batch) > 1 or bool(self._waiting)
        finally:
            self._free_flushes += 1

    async def _wait_for_members(self) -> None:
        """Waits while members arrive, until the batch is full."""
        seen = quiet = 0
        while quiet < _QUIET_TURNS and len(self._waiting) < self._max_size:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) <= seen else 0
            seen = len(self._waiting)

    def _take_batch(self) -> list[_Member[K, V]]:
        batch: list[_Member[K, V]] = []
        while self._waiting and len(batch) < self._max_size:
            member = self._waiting.popleft()
            if not member.result.done():
                batch.append(member)
        return batch

    async def _execute(self, batch: list[_Member[K, V]]) -> None:
        self._sizes.observe(len(batch))
        try:
            with TRACES.batch(self._span, [member.span for member in batch]):
                results = await self._flush([member.item for member in batch])
        except Exception as error:  # noqa: BLE001  it is raised in every member
            if len(batch) > 1 and isinstance(error, self._split_on):
                half = len(batch) // 2
                await self._execute(batch[:half])
                await self._execute(batch[half:])
                return
            for member in batch:
                if not member.result.done():
                    member.result.set_exception(error)
        else:
            for member, result in zip(batch, results, strict=True):
                if not member.result.done():
                    member.result.set_result(result)
