"""How long Redis is waited for: one time for all that a call asks, and not at all while it is too slow."""

import asyncio

import pytest
from vsyncd.cache.errors import CacheUnavailable
from vsyncd.cache.lookup_timeout import LatencyGuard, LookupTimeout

QUICK, SLOW = 0.001, 0.006


async def test_what_a_call_asks_shares_one_time() -> None:
    patience = LookupTimeout()
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[int] = loop.create_future()
    answered.set_result(1)
    assert await patience.wait(answered) == 1
    with pytest.raises(CacheUnavailable):
        await patience.wait(loop.create_future())
    assert patience.left == 0
    assert not await patience.pause(0.001)
    with pytest.raises(CacheUnavailable):
        await patience.wait(loop.create_future())


async def test_an_answer_that_is_there_is_taken_however_late_one_looks() -> None:
    patience = LookupTimeout()
    with pytest.raises(CacheUnavailable):
        await patience.wait(asyncio.get_running_loop().create_future())
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    answered.set_result(1)
    assert await patience.wait(answered) == 1


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_slow_answer_is_none_and_many_are_enough() -> None:
    pace = LatencyGuard(Clock())
    for _ in range(7):
        pace.answered(SLOW, 1)
    pace.answered(QUICK, 1)
    for _ in range(7):
        pace.answered(SLOW, 1)
        assert not pace.resting
    pace.answered(SLOW, 1)
    assert pace.resting


def test_a_long_question_may_take_long() -> None:
    pace = LatencyGuard(Clock())
    for _ in range(20):
        pace.answered(SLOW, 1_000)
    assert not pace.resting


def test_rests_grow_to_a_quarter_of_a_second_until_it_answers_in_time() -> None:
    clock = Clock()
    pace = LatencyGuard(clock)
    for seconds in (0.03, 0.06, 0.12, 0.24, 0.25, 0.25):
        pace.missed()
        clock.now += seconds - 0.001
        assert pace.resting
        clock.now += 0.002
        assert not pace.resting
    pace.answered(QUICK, 1)
    pace.missed()
    clock.now += 0.031
    assert not pace.resting
