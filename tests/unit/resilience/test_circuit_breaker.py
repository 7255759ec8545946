"""The states of the circuit breaker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.resilience.circuit_breaker import CLOSED, FAILURE_INTERVAL_S, HALF_OPEN, OPEN, CircuitBreaker

RESET = 2.0
FAILURES = 3


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("postgresql-primary", failures=FAILURES, reset=RESET, clock=clock)


def fail(breaker: CircuitBreaker, clock: Clock, times: int = FAILURES) -> None:
    """Failures far enough apart to count separately."""
    for _ in range(times):
        clock.now += FAILURE_INTERVAL_S
        breaker.failed()


def test_it_opens_after_consecutive_failures(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, clock, FAILURES - 1)
    breaker.succeeded()
    fail(breaker, clock, FAILURES - 1)
    assert breaker.state == CLOSED
    fail(breaker, clock, 1)
    assert (breaker.state, breaker.trips, breaker.closed) == (OPEN, 1, False)


def test_simultaneous_failures_count_once(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(100):
        breaker.failed()
    assert breaker.state == CLOSED
    clock.now += FAILURE_INTERVAL_S
    breaker.failed()
    assert breaker.state == CLOSED


def test_an_open_breaker_rejects_calls_and_reports_the_time_of_the_next_trial(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    breaker.trip()
    clock.now += RESET / 2
    assert not breaker.begin_trial()
    assert not breaker.closed
    assert 0.4 * RESET <= breaker.seconds_to_trial <= 0.5 * RESET


def test_one_trial_at_a_time(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip()
    clock.now += RESET
    assert breaker.begin_trial()
    assert breaker.state == HALF_OPEN
    for _ in range(20):
        assert not breaker.begin_trial()
        assert not breaker.closed
    breaker.abandon()  # without a result
    assert breaker.state == HALF_OPEN
    assert breaker.begin_trial()


def test_a_successful_trial_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    states: list[str] = []
    breaker.on_change.append(states.append)
    breaker.trip()
    clock.now += RESET
    trial = breaker.begin_trial()
    breaker.succeeded()  # a call from before the outage
    assert breaker.state == HALF_OPEN
    breaker.succeeded(trial=trial)
    assert states == [OPEN, HALF_OPEN, CLOSED]
    assert breaker.closed
    assert not breaker.begin_trial()


def test_failed_trials_are_spaced_by_up_to_one_and_a_half_of_reset(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip()
    for longer in (1.0, 1.25, 1.5, 1.5, 1.5):
        assert 0.9 * longer * RESET <= breaker.seconds_to_trial <= longer * RESET
        clock.now += breaker.seconds_to_trial
        assert breaker.begin_trial()
        breaker.failed()
        breaker.abandon()
        assert not breaker.begin_trial()
    assert (breaker.state, breaker.trips) == (OPEN, 1)


def test_earlier_attempts_do_not_decide_a_trial(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip()
    clock.now += RESET
    assert breaker.begin_trial()
    breaker.failed()  # a statement from before the outage, whose connection is found to be lost now
    breaker.trip()
    assert breaker.state == HALF_OPEN
    breaker.succeeded(trial=True)
    assert breaker.state == CLOSED


def test_a_successful_trial_closes_it_even_after_it_was_abandoned(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip()
    clock.now += RESET
    trial = breaker.begin_trial()
    breaker.failed()
    breaker.abandon()
    assert breaker.state == OPEN
    breaker.succeeded(trial=trial)
    assert breaker.state == CLOSED


@given(st.lists(st.sampled_from(["begin", "succeed", "stale", "fail", "trip", "abandon", "wait"]), max_size=60))
def test_only_the_single_current_trial_ends_an_outage(events: list[str]) -> None:
    clock = Clock()
    breaker = CircuitBreaker("x", failures=FAILURES, reset=RESET, clock=clock)
    trying = failed = False
    for event in events:
        before = breaker.state
        if event == "begin":
            begun = breaker.begin_trial()
            assert not (begun and (trying or before == CLOSED))
            trying, failed = trying or begun, failed and not begun
        elif event == "succeed" and trying:
            breaker.succeeded(trial=True)
            trying = False
            assert breaker.state == CLOSED
        elif event == "abandon" and trying:
            breaker.abandon()
            trying = False
            assert breaker.state == (OPEN if failed else HALF_OPEN)
        elif event == "stale":
            breaker.succeeded()
        elif event in {"fail", "trip"}:
            breaker.failed() if event == "fail" else breaker.trip()
            failed = True
        else:
            clock.now += 2 * RESET
        # Nobody but the trial ends an outage, or the trial.
        assert not trying or breaker.state == HALF_OPEN
        assert before == CLOSED or event in {"begin", "succeed", "abandon"} or breaker.state == before
    breaker.abandon()
    clock.now += 2 * RESET
    breaker.succeeded(trial=breaker.begin_trial())
    assert breaker.state == CLOSED
