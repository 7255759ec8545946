"""Decisions about lost streams, with a clock that the test controls."""

import math

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsync import CallError
from vsync.errors import error_class
from vsync.reconnect import (
    MAX_DELAY_S,
    MAX_FIRST_MESSAGE_S,
    MIN_DELAY_S,
    SINGLE_ATTEMPT_S,
    Reconnect,
    is_transient,
    message_timeout,
)


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def error(code: grpc.StatusCode, reason: str = "", retry_after: float | None = None) -> CallError:
    return error_class(code, reason)(code, reason=reason, retry_after=retry_after)


AWAY = error(grpc.StatusCode.UNAVAILABLE)


def wait(reconnect: Reconnect, clock: Clock, seconds: float) -> bool:
    """Waits for a message that arrives after this number of seconds. Returns whether it arrived in time."""
    limit = reconnect.begin_wait()
    clock.now += min(seconds, limit)
    reconnect.end_wait()
    return seconds < limit


@pytest.mark.parametrize(
    ("failed", "transient"),
    [
        (error(grpc.StatusCode.UNAVAILABLE), True),
        (error(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"), True),
        (error(grpc.StatusCode.DEADLINE_EXCEEDED, "EXPORT_TIMEOUT"), True),
        (error(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"), True),
        (error(grpc.StatusCode.RESOURCE_EXHAUSTED), False),
        (error(grpc.StatusCode.ABORTED, "CONTENTION"), True),
        (error(grpc.StatusCode.INTERNAL), True),
        (error(grpc.StatusCode.INTERNAL, "INTERNAL"), False),
        (error(grpc.StatusCode.ALREADY_EXISTS, "CID_EXISTS"), False),
        (error(grpc.StatusCode.INVALID_ARGUMENT, "CHUNK_REUSED"), False),
    ],
)
def test_only_transient_errors_are_retried(failed: CallError, transient: bool) -> None:
    assert is_transient(failed) is transient
    reconnect = Reconnect(60)
    if transient:
        assert reconnect.delay_after(failed) > 0
    else:
        with pytest.raises(type(failed)):
            reconnect.delay_after(failed)


def test_delays_grow_up_to_a_limit_and_are_reset_by_progress() -> None:
    reconnect = Reconnect(600)
    delays = [reconnect.delay_after(AWAY) for _ in range(9)]
    assert delays[0] <= MIN_DELAY_S * 1.2
    assert MAX_DELAY_S * 0.8 <= delays[-1] <= MAX_DELAY_S * 1.2
    reconnect.received(progress=False)
    assert reconnect.delay_after(AWAY) >= MAX_DELAY_S * 0.8
    reconnect.received()
    assert reconnect.delay_after(AWAY) <= MIN_DELAY_S * 1.2


def test_the_retry_delay_of_the_server_is_used() -> None:
    asked = error(grpc.StatusCode.UNAVAILABLE, retry_after=3.0)
    assert 2.4 <= Reconnect(60).delay_after(asked) <= 3.6
    assert Reconnect(3).delay_after(asked) <= 1.5, "no time would be left for another attempt"


@given(
    patience=st.floats(0.1, 100),
    attempts=st.lists(st.tuples(st.booleans(), st.floats(0, 1000), st.floats(0, 1000)), min_size=60, max_size=60),
)
def test_the_timeout_limits_the_time_without_progress(
    patience: float, attempts: list[tuple[bool, float, float]]
) -> None:
    """Attempts are refused, never answered, or opened and then silent. Each uses the time that it may."""
    clock = Clock()
    reconnect = Reconnect(patience, clock=clock)
    for opened, first, second in attempts:
        reconnect.begin_attempt()
        if wait(reconnect, clock, first) and opened:
            reconnect.received(progress=False)
            wait(reconnect, clock, second)
        try:
            clock.now += reconnect.delay_after(AWAY)
        except CallError:
            break
        assert clock.now < patience
    assert clock.now <= patience + 1e-6


def test_a_call_without_an_answer_is_repeated_within_the_timeout() -> None:
    clock = Clock()
    reconnect = Reconnect(10, clock=clock)
    limits: list[float] = []

    def attempts() -> None:
        while True:
            attempt()

    def attempt() -> None:
        reconnect.begin_attempt()
        limits.append(reconnect.begin_wait())
        clock.now += limits[-1]
        reconnect.end_wait()
        clock.now += reconnect.delay_after(message_timeout(limits[-1]))

    with pytest.raises(CallError):
        attempts()
    assert len(limits) >= 3
    assert limits[0] <= 2
    assert limits[1] == 2 * limits[0], "a slow server would never be reached"
    assert 9 < clock.now <= 10


def test_a_long_timeout_does_not_lengthen_the_first_attempt() -> None:
    assert Reconnect(100_000).begin_wait() == MAX_FIRST_MESSAGE_S


def test_only_waits_for_the_server_are_counted() -> None:
    clock = Clock()
    reconnect = Reconnect(10, clock=clock)
    reconnect.begin_attempt()
    for _ in range(5):
        assert wait(reconnect, clock, 1)
        reconnect.received()
        clock.now += 1000  # the caller works on the message
    assert reconnect.begin_wait() == 10


def test_silence_of_an_open_watch_is_not_counted() -> None:
    clock = Clock()
    reconnect = Reconnect(10, max_silence=30, clock=clock)
    reconnect.begin_attempt()
    assert wait(reconnect, clock, 1)
    reconnect.received()
    assert wait(reconnect, clock, 29)
    assert not wait(reconnect, clock, 31)
    assert reconnect.delay_after(message_timeout(30)) > 0
    reconnect.begin_attempt()
    assert reconnect.begin_wait() < 10
    assert math.isinf(_opened(Reconnect(10, max_silence=math.inf)).begin_wait())


def _opened(reconnect: Reconnect) -> Reconnect:
    reconnect.begin_attempt()
    reconnect.received()
    return reconnect


def test_a_timeout_of_zero_permits_one_limited_attempt() -> None:
    reconnect = Reconnect(0)
    reconnect.begin_attempt()
    assert reconnect.begin_wait() == SINGLE_ATTEMPT_S
    with pytest.raises(CallError):
        reconnect.delay_after(AWAY)


def test_a_disabled_reconnect_raises_every_error() -> None:
    reconnect = Reconnect(60)
    assert reconnect.delay_after(AWAY) > 0
    reconnect.disable()
    with pytest.raises(CallError):
        reconnect.delay_after(AWAY)
