"""Which servers are found to be no replicas of the primary."""

import pytest
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.divergence import DivergenceDetector, ServerPosition

PRIMARY, OTHER = 1000.000001, 1000.000002


def primary(lsn: int, *, timeline: int = 1, began: float = PRIMARY) -> ServerPosition:
    return ServerPosition(began, in_recovery=False, position=WalPosition(timeline, lsn))


def replica(lsn: int, *, timeline: int = 1, began: float = OTHER) -> ServerPosition:
    return ServerPosition(began, in_recovery=True, position=WalPosition(timeline, lsn))


@pytest.mark.parametrize(
    ("place", "diverged"),
    [
        (replica(99), False),
        (replica(100), False),
        (replica(101), True),
        (replica(99, timeline=2), True),
        (primary(100, began=OTHER), True),  # somebody has promoted it
        (primary(100), False),  # it is the primary
        (replica(101, began=PRIMARY), False),  # and was not yet
    ],
)
def test_nobody_is_ahead_of_his_primary_and_nobody_else_takes_writes(place: ServerPosition, diverged: bool) -> None:
    branches = DivergenceDetector()
    branches.note(2.0, primary(100))
    branches.judge(1.0, place)
    assert branches.diverged(place.began) is diverged


def test_a_primary_that_was_asked_before_says_nothing() -> None:
    branches = DivergenceDetector()
    branches.judge(0.0, replica(101))
    branches.note(1.0, primary(100))
    branches.judge(1.1, replica(101))
    branches.judge(1.1, primary(100, began=OTHER))
    assert not branches.diverged(OTHER)


def test_it_stays_so_when_the_primary_has_written_more_until_it_is_started_anew() -> None:
    branches = DivergenceDetector()
    branches.note(2.0, primary(100))
    branches.judge(1.0, replica(101))
    branches.note(3.0, primary(200))
    branches.judge(2.5, replica(101))
    assert branches.diverged(OTHER)
    assert not branches.diverged(OTHER + 1)


def test_without_a_known_primary_nobody_has_diverged_and_with_another_one_it_begins_anew() -> None:
    branches = DivergenceDetector()
    branches.note(2.0, primary(100))
    branches.judge(1.0, primary(90, began=OTHER, timeline=2))
    branches.lost()
    assert not branches.diverged(OTHER)
    branches.judge(1.0, replica(101, began=OTHER + 1))
    branches.note(3.0, primary(100))
    assert branches.diverged(OTHER)
    assert not branches.diverged(OTHER + 1)
    # That one was promoted on purpose.
    branches.note(4.0, primary(95, began=OTHER, timeline=2))
    branches.judge(3.5, primary(95, began=OTHER, timeline=2))
    branches.note(5.0, primary(100))
    assert not branches.diverged(OTHER)
