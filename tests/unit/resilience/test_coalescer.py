"""Concurrent calls are gathered without affecting each other."""

import asyncio
from collections.abc import Sequence

import pytest
from vsyncd.core.context import RequestContext, current_context, reset_current_context, set_current_context
from vsyncd.resilience.coalescer import Coalescer


class Flushes:
    """A flush that the test can block. It doubles each number, and fails if a 13 is among them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


async def submit(coalescer: Coalescer[int, int], items: Sequence[int]) -> list["asyncio.Task[int]"]:
    """Submits each item in its own task, so far apart that a batch does not wait for the next item."""
    tasks = []
    for item in items:
        tasks.append(asyncio.create_task(coalescer.submit(item)))
        await turns(20)
    return tasks


async def turns(number: int) -> None:
    """Runs this number of turns of the event loop."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_single_call_is_executed_at_once() -> None:
    flushes = Flushes()
    flushes.gate.set()
    coalescer = Coalescer(flushes, name="test")
    assert await coalescer.submit(1) == 2
    assert await coalescer.submit(2) == 4
    assert flushes.batches == [[1], [2]]


async def test_calls_of_one_turn_are_one_batch() -> None:
    flushes = Flushes()
    flushes.gate.set()
    coalescer = Coalescer(flushes, name="test")
    assert await asyncio.gather(*(coalescer.submit(n) for n in range(3))) == [0, 2, 4]
    assert flushes.batches == [[0, 1, 2]]


async def test_while_calls_are_concurrent_calls_a_few_turns_apart_are_one_batch() -> None:
    flushes = Flushes()
    flushes.gate.set()
    coalescer = Coalescer(flushes, name="test")
    await asyncio.gather(coalescer.submit(8), coalescer.submit(9))
    tasks = []
    for item in range(4):
        tasks.append(asyncio.create_task(coalescer.submit(item)))
        await turns(8)
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6]
    assert flushes.batches == [[8, 9], [0, 1, 2, 3]]


async def test_a_call_that_is_single_again_does_not_wait() -> None:
    flushes = Flushes()
    flushes.gate.set()
    coalescer = Coalescer(flushes, name="test")
    await asyncio.gather(coalescer.submit(8), coalescer.submit(9))
    await coalescer.submit(1)  # it may still wait for concurrent calls
    task = asyncio.create_task(coalescer.submit(2))
    await turns(2)
    assert flushes.batches[-1] == [2]
    assert await task == 4


async def test_a_full_batch_does_not_wait() -> None:
    flushes = Flushes()
    coalescer = Coalescer(flushes, name="test", max_size=3)
    tasks = [asyncio.create_task(coalescer.submit(item)) for item in range(3)]
    await turns(3)
    assert flushes.batches == [[0, 1, 2]]
    flushes.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4]


async def test_calls_during_a_flush_are_gathered_in_order_up_to_the_maximum_size() -> None:
    flushes = Flushes()
    tasks = await submit(Coalescer(flushes, name="test", max_size=3), range(8))
    assert flushes.batches == [[0]]
    flushes.gate.set()
    assert await asyncio.gather(*tasks) == [2 * n for n in range(8)]
    assert flushes.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]


async def test_the_number_of_concurrent_flushes_is_limited() -> None:
    flushes = Flushes()
    tasks = await submit(Coalescer(flushes, name="test", max_flushes=2), range(5))
    assert flushes.batches == [[0], [1]]
    flushes.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]
    assert sorted(map(len, flushes.batches)) == [1, 1, 3]


async def test_an_error_is_raised_in_every_member_of_its_batch_only() -> None:
    flushes = Flushes()
    tasks = await submit(Coalescer(flushes, name="test", max_size=2), [1, 13, 2, 3])
    flushes.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result if isinstance(result, int) else type(result) for result in results] == [2, ValueError, ValueError, 6]


async def test_a_member_cancelled_before_the_flush_is_left_out() -> None:
    flushes = Flushes()
    tasks = await submit(Coalescer(flushes, name="test"), range(4))
    tasks[2].cancel()
    await asyncio.sleep(0)
    flushes.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(2), asyncio.CancelledError)
    assert results == [0, 2, 6]
    assert flushes.batches == [[0], [1, 3]]


@pytest.mark.parametrize("last", [2, 13])
async def test_a_member_cancelled_during_the_flush_does_not_affect_others(last: int) -> None:
    flushes = Flushes()
    coalescer = Coalescer(flushes, name="test")
    tasks = await submit(coalescer, [0])
    tasks[0].cancel()
    tasks += await submit(coalescer, [1, last])
    flushes.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == 2 if last == 2 else isinstance(results[1], ValueError)
    assert await coalescer.submit(5) == 10


async def test_a_batch_runs_outside_of_any_call() -> None:
    """Its statement must not end at the deadline of its first member."""
    seen: list[str] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        seen.append(current_context().method)
        return items

    token = set_current_context(RequestContext(method="vsync.v1.CidService/GetCid", deadline=0.0))
    try:
        await Coalescer(flush, name="test").submit(1)
    finally:
        reset_current_context(token)
    assert seen == [""]


class SpoiltError(Exception):
    """Nothing was done because of one member."""


async def test_a_batch_that_fails_because_of_one_member_is_split_until_it_is_alone() -> None:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        await gate.wait()
        if 5 in items:
            raise SpoiltError
        return [2 * item for item in items]

    tasks = await submit(Coalescer(flush, name="test", split_on=(SpoiltError,)), range(9))
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(5), SpoiltError)
    assert results == [0, 2, 4, 6, 8, 12, 14, 16]
    assert batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8], [5, 6], [5], [6], [7, 8]]
