"""The lookup timeout of a call, and the latency guard."""

import asyncio

import pytest
from vsyncd.cache.lookups import LatencyGuard, LookupDeadline
from vsyncd.cache.operations import CacheError

FAST_S, SLOW_S = 0.001, 0.006


async def test_all_lookups_of_a_call_share_one_timeout() -> None:
    deadline = LookupDeadline()
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[int] = loop.create_future()
    answered.set_result(1)
    assert await deadline.wait(answered) == 1
    with pytest.raises(CacheError):
        await deadline.wait(loop.create_future())
    assert deadline.remaining == 0
    assert not await deadline.sleep(0.001)
    with pytest.raises(CacheError):
        await deadline.wait(loop.create_future())


async def test_an_answer_that_has_arrived_is_used_after_the_deadline() -> None:
    deadline = LookupDeadline()
    with pytest.raises(CacheError):
        await deadline.wait(asyncio.get_running_loop().create_future())
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    answered.set_result(1)
    assert await deadline.wait(answered) == 1


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_repeated_slow_answers_bypass_the_cache() -> None:
    guard = LatencyGuard(Clock())
    for _ in range(7):
        guard.record_answer(SLOW_S, 1)
    guard.record_answer(FAST_S, 1)
    for _ in range(7):
        guard.record_answer(SLOW_S, 1)
        assert not guard.paused
    guard.record_answer(SLOW_S, 1)
    assert guard.paused


def test_slow_answers_to_large_lookups_do_not_bypass_the_cache() -> None:
    guard = LatencyGuard(Clock())
    for _ in range(20):
        guard.record_answer(SLOW_S, 1_000)
    assert not guard.paused


def test_pauses_double_up_to_a_quarter_of_a_second_until_redis_answers_in_time() -> None:
    clock = Clock()
    guard = LatencyGuard(clock)
    for seconds in (0.03, 0.06, 0.12, 0.24, 0.25, 0.25):
        guard.pause()
        clock.now += seconds - 0.001
        assert guard.paused
        clock.now += 0.002
        assert not guard.paused
    guard.record_answer(FAST_S, 1)
    guard.pause()
    clock.now += 0.031
    assert not guard.paused
