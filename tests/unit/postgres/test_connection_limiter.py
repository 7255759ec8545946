"""The limit on connections in use, and its queue."""

import asyncio
import random

import pytest
from vsyncd.core.errors import ServiceError
from vsyncd.postgres.error_mapping import CircuitOpen, PoolExhausted
from vsyncd.postgres.pool import ConnectionLimiter


async def queued(limiter: ConnectionLimiter, count: int) -> None:
    """Waits until `count` callers wait for a connection."""
    async with asyncio.timeout(60):
        while limiter.waiting < count:  # noqa: ASYNC110  the limiter has no event to wait for
            await asyncio.sleep(0)


async def test_callers_are_served_in_order_of_arrival() -> None:
    limiter = ConnectionLimiter(max_connections=1, max_waiting=10)
    await limiter.acquire(1)
    served: list[int] = []

    async def wait(number: int) -> None:
        await limiter.acquire(60)
        served.append(number)
        limiter.release()

    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(wait(number)))
        await queued(limiter, number + 1)
    limiter.release()
    await asyncio.gather(*tasks)
    assert served == list(range(5))
    assert (limiter.free, limiter.waiting) == (1, 0)


async def test_the_queue_and_the_wait_are_bounded() -> None:
    limiter = ConnectionLimiter(max_connections=1, max_waiting=1)
    await limiter.acquire(1)
    waiting = asyncio.create_task(limiter.acquire(1))
    await queued(limiter, 1)
    with pytest.raises(PoolExhausted):
        await limiter.acquire(60)
    with pytest.raises(PoolExhausted):
        await waiting
    limiter.release()
    assert (limiter.free, limiter.waiting) == (1, 0)


async def test_all_waiting_callers_can_be_failed() -> None:
    limiter = ConnectionLimiter(max_connections=1, max_waiting=9)
    await limiter.acquire(1)
    tasks = [asyncio.create_task(limiter.acquire(60)) for _ in range(5)]
    await queued(limiter, 5)
    limiter.fail_waiting(CircuitOpen(1))
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, CircuitOpen) for answer in answers)
    limiter.release()
    assert (limiter.free, limiter.waiting) == (1, 0)


async def test_a_cancelled_caller_never_loses_a_connection() -> None:
    limiter = ConnectionLimiter(max_connections=3, max_waiting=1000)
    chance = random.Random(7)  # noqa: S311  not a secret

    async def use() -> None:
        await limiter.acquire(chance.choice([0.001, 0.01, 5]))
        try:
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
        finally:
            limiter.release()

    tasks = [asyncio.create_task(use()) for _ in range(500)]
    for task in chance.sample(tasks, 250):
        await asyncio.sleep(0)
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(answer is None or isinstance(answer, asyncio.CancelledError | ServiceError) for answer in answers)
    assert (limiter.free, limiter.waiting) == (3, 0)
