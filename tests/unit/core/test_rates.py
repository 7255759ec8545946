"""Rates of growing counts."""

from vsyncd.core.rates import Rates


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_that_of_the_last_two_minutes() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    rates.observe({"a": 100})
    assert rates.per_second("a") is None
    for second in range(1, 301):
        clock.now = float(second)
        rates.observe({"a": 100 + (10 * second if second < 200 else 2000 + 2 * (second - 200))})
    rate = rates.per_second("a")
    assert rate is not None
    assert 2 <= rate < 4


def test_a_count_that_stops_has_the_rate_0_and_one_that_falls_begins_again() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    for clock.now in (0.0, 60.0, 120.0, 180.0, 240.0):
        rates.observe({"a": 7, "b": 7})
    assert rates.per_second("a") == 0
    rates.observe({"a": 3})
    assert rates.per_second("a") is None
    assert rates.per_second("b") is None
