"""The line for connections."""

import asyncio
import random

import pytest
from vsyncd.core.errors import ServiceError
from vsyncd.postgres.connection_limiter import ConnectionLimiter
from vsyncd.postgres.error_mapping import CircuitOpen, PoolExhausted


async def in_line(permits: ConnectionLimiter, count: int) -> None:
    """Wait until so many wait."""
    async with asyncio.timeout(60):
        while permits.waiting < count:  # noqa: ASYNC110  permits announce nothing
            await asyncio.sleep(0)


async def test_who_comes_first_is_served_first() -> None:
    permits = ConnectionLimiter(most=1, most_waiting=10)
    await permits.acquire(1)
    served: list[int] = []

    async def wait(number: int) -> None:
        await permits.acquire(60)
        served.append(number)
        permits.release()

    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(wait(number)))
        await in_line(permits, number + 1)
    permits.release()
    await asyncio.gather(*tasks)
    assert served == list(range(5))
    assert (permits.free, permits.waiting) == (1, 0)


async def test_the_line_has_an_end_and_waiting_too() -> None:
    permits = ConnectionLimiter(most=1, most_waiting=1)
    await permits.acquire(1)
    waiting = asyncio.create_task(permits.acquire(1))
    await in_line(permits, 1)
    with pytest.raises(PoolExhausted):
        await permits.acquire(60)
    with pytest.raises(PoolExhausted):
        await waiting
    permits.release()
    assert (permits.free, permits.waiting) == (1, 0)


async def test_everyone_can_be_sent_away() -> None:
    permits = ConnectionLimiter(most=1, most_waiting=9)
    await permits.acquire(1)
    tasks = [asyncio.create_task(permits.acquire(60)) for _ in range(5)]
    await in_line(permits, 5)
    permits.dismiss(CircuitOpen(1))
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, CircuitOpen) for answer in answers)
    permits.release()
    assert (permits.free, permits.waiting) == (1, 0)


async def test_no_permit_is_lost_whoever_is_cancelled_when() -> None:
    permits = ConnectionLimiter(most=3, most_waiting=1000)
    chance = random.Random(7)  # noqa: S311  not a secret

    async def use() -> None:
        await permits.acquire(chance.choice([0.001, 0.01, 5]))
        try:
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
        finally:
            permits.release()

    tasks = [asyncio.create_task(use()) for _ in range(500)]
    for task in chance.sample(tasks, 250):
        await asyncio.sleep(0)
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(answer is None or isinstance(answer, asyncio.CancelledError | ServiceError) for answer in answers)
    assert (permits.free, permits.waiting) == (3, 0)
