"""Limits of similar log events."""

from vsyncd.observability.logs import Sample


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_events_of_a_second_are_accepted_and_the_others_counted() -> None:
    clock = Clock()
    sample = Sample(2, clock=clock)
    assert [sample.take("a") for _ in range(5)] == [0, 0, None, None, None]
    clock.now += 0.9
    assert sample.take("a") is None
    clock.now += 0.2
    assert [sample.take("a") for _ in range(3)] == [4, 0, None]
    clock.now += 50
    assert [sample.take("a") for _ in range(2)] == [1, 0]
    clock.now += 50
    assert sample.take("a") == 0


def test_each_kind_has_its_own_limit() -> None:
    sample = Sample(1, clock=Clock())
    assert [sample.take(kind) for kind in "abab"] == [0, 0, None, None]
