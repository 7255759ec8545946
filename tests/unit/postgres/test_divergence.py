"""Detection of servers that are not replicas of the primary."""

import pytest
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.replication import DivergenceDetector, ServerPosition

PRIMARY, OTHER = 1000.000001, 1000.000002


def primary(lsn: int, *, timeline: int = 1, started_at: float = PRIMARY) -> ServerPosition:
    return ServerPosition(started_at, in_recovery=False, position=WalPosition(timeline, lsn))


def replica(lsn: int, *, timeline: int = 1, started_at: float = OTHER) -> ServerPosition:
    return ServerPosition(started_at, in_recovery=True, position=WalPosition(timeline, lsn))


@pytest.mark.parametrize(
    ("server", "diverged"),
    [
        (replica(99), False),
        (replica(100), False),
        (replica(101), True),
        (replica(99, timeline=2), True),
        (primary(100, started_at=OTHER), True),  # it was promoted
        (primary(100), False),  # it is the primary
        (replica(101, started_at=PRIMARY), False),  # it is the primary, before its promotion
    ],
)
def test_a_server_has_diverged_if_it_is_ahead_of_the_primary_or_takes_writes(
    server: ServerPosition, diverged: bool
) -> None:
    detector = DivergenceDetector()
    detector.record_primary(2.0, primary(100))
    detector.compare(1.0, server)
    assert detector.has_diverged(server.started_at) is diverged


def test_a_server_is_not_compared_with_an_older_answer_of_the_primary() -> None:
    detector = DivergenceDetector()
    detector.compare(0.0, replica(101))
    detector.record_primary(1.0, primary(100))
    detector.compare(1.1, replica(101))
    detector.compare(1.1, primary(100, started_at=OTHER))
    assert not detector.has_diverged(OTHER)


def test_a_server_stays_diverged_until_it_is_restarted() -> None:
    detector = DivergenceDetector()
    detector.record_primary(2.0, primary(100))
    detector.compare(1.0, replica(101))
    detector.record_primary(3.0, primary(200))
    detector.compare(2.5, replica(101))
    assert detector.has_diverged(OTHER)
    assert not detector.has_diverged(OTHER + 1)


def test_no_server_has_diverged_from_an_unknown_primary_and_a_new_primary_clears_the_findings() -> None:
    detector = DivergenceDetector()
    detector.record_primary(2.0, primary(100))
    detector.compare(1.0, primary(90, started_at=OTHER, timeline=2))
    detector.forget_primary()
    assert not detector.has_diverged(OTHER)
    detector.compare(1.0, replica(101, started_at=OTHER + 1))
    detector.record_primary(3.0, primary(100))
    assert detector.has_diverged(OTHER)
    assert not detector.has_diverged(OTHER + 1)
    # The other server becomes the primary.
    detector.record_primary(4.0, primary(95, started_at=OTHER, timeline=2))
    detector.compare(3.5, primary(95, started_at=OTHER, timeline=2))
    detector.record_primary(5.0, primary(100))
    assert not detector.has_diverged(OTHER)
