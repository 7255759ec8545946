"""When the circuit breaker lets whom through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.postgres.breaker import CLOSED, HALF_OPEN, OPEN, SPACING, Breaker
from vsyncd.postgres.failures import CircuitOpen

RESET = 2.0
FAILURES = 3


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("postgresql-primary", failures=FAILURES, reset=RESET, clock=clock)


def fail(breaker: Breaker, clock: Clock, times: int = FAILURES) -> None:
    """Failures that lie apart."""
    for _ in range(times):
        clock.now += SPACING
        breaker.failed()


def test_it_opens_after_failures_in_a_row(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, clock, FAILURES - 1)
    breaker.succeeded()
    fail(breaker, clock, FAILURES - 1)
    assert breaker.state == CLOSED
    fail(breaker, clock, 1)
    assert (breaker.state, breaker.trips, breaker.closed) == (OPEN, 1, False)


def test_what_fails_at_once_is_one_failure(breaker: Breaker, clock: Clock) -> None:
    for _ in range(100):
        breaker.failed()
    assert breaker.state == CLOSED
    clock.now += SPACING
    breaker.failed()
    assert breaker.state == CLOSED


def test_while_it_is_open_nobody_gets_through_and_is_told_when_to_come_back(breaker: Breaker, clock: Clock) -> None:
    breaker.trip()
    clock.now += RESET / 2
    assert not breaker.begin_trial()
    with pytest.raises(CircuitOpen) as raised:
        breaker.check()
    assert (raised.value.reason, raised.value.retry_after) == ("CIRCUIT_OPEN", RESET / 2)


def test_one_trial_at_a_time(breaker: Breaker, clock: Clock) -> None:
    breaker.trip()
    clock.now += RESET
    assert breaker.begin_trial()
    assert breaker.state == HALF_OPEN
    for _ in range(20):
        assert not breaker.begin_trial()
        with pytest.raises(CircuitOpen):
            breaker.check()
    breaker.abandon()
    assert breaker.begin_trial()


def test_a_trial_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    states: list[str] = []
    breaker.on_change.append(states.append)
    breaker.trip()
    clock.now += RESET
    trial = breaker.begin_trial()
    breaker.succeeded()  # somebody who was in from before
    assert breaker.state == HALF_OPEN
    breaker.succeeded(trial=trial)
    assert states == [OPEN, HALF_OPEN, CLOSED]
    breaker.check()
    assert not breaker.begin_trial()


def test_a_trial_that_fails_opens_it_for_as_long_again(breaker: Breaker, clock: Clock) -> None:
    breaker.trip()
    clock.now += RESET
    breaker.begin_trial()
    breaker.failed()
    breaker.abandon()
    assert (breaker.state, breaker.trips, breaker.seconds_to_trial) == (OPEN, 1, RESET)
    assert not breaker.begin_trial()


@given(st.lists(st.sampled_from(["begin", "succeed", "fail", "trip", "abandon", "wait"]), max_size=60))
def test_whatever_happens_there_is_at_most_one_trial_and_a_way_back(events: list[str]) -> None:
    clock = Clock()
    breaker = Breaker("x", failures=FAILURES, reset=RESET, clock=clock)
    trying = False
    for event in events:
        if event == "begin":
            begun = breaker.begin_trial()
            assert not (begun and (trying or breaker.closed))
            trying = trying or begun
        elif event == "succeed":
            breaker.succeeded(trial=trying)
        elif event == "fail":
            breaker.failed()
        elif event == "trip":
            breaker.trip()
        elif event == "abandon" and trying:
            breaker.abandon()
        else:
            clock.now += RESET
        if breaker.state != HALF_OPEN or event == "abandon":
            trying = False
    breaker.abandon()
    clock.now += 10 * RESET
    breaker.succeeded(trial=breaker.begin_trial())
    assert breaker.state == CLOSED
