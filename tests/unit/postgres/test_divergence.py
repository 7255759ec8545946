"""Detection of servers that are not replicas of the primary."""

import pytest
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.replication import DivergenceDetector, ReplicationLag, ServerStatus

PRIMARY, OTHER = 1000.000001, 1000.000002


def server(at: float, lsn: int, *, timeline: int = 1, started_at: float = OTHER, replica: bool = True) -> ServerStatus:
    return ServerStatus(
        observed_at=at,
        in_recovery=replica,
        read_only=False,
        position=WalPosition(timeline, lsn),
        lag=ReplicationLag(0.0, 0),
        reported_lag=0.0,
        started_at=started_at,
        diverged=False,
    )


@pytest.mark.parametrize(
    ("other", "diverged"),
    [
        (server(1.0, 99), False),
        (server(1.0, 100), False),
        (server(1.0, 101), True),
        (server(1.0, 99, timeline=2), True),
        (server(1.0, 100, replica=False), True),  # it was promoted
        (server(1.0, 100, started_at=PRIMARY, replica=False), False),  # it is the primary
        (server(1.0, 101, started_at=PRIMARY), False),  # it is the primary, before its promotion
    ],
)
def test_a_server_has_diverged_if_it_is_ahead_of_the_primary_or_takes_writes(
    other: ServerStatus, diverged: bool
) -> None:
    detector = DivergenceDetector()
    detector.record_primary(2.0, PRIMARY, WalPosition(1, 100))
    detector.compare(other)
    assert detector.has_diverged(other.started_at) is diverged


def test_a_server_is_not_compared_with_an_older_answer_of_the_primary() -> None:
    detector = DivergenceDetector()
    detector.compare(server(0.0, 101))
    detector.record_primary(1.0, PRIMARY, WalPosition(1, 100))
    detector.compare(server(1.1, 101))
    detector.compare(server(1.1, 100, replica=False))
    assert not detector.has_diverged(OTHER)


def test_a_server_stays_diverged_until_it_is_restarted() -> None:
    detector = DivergenceDetector()
    detector.record_primary(2.0, PRIMARY, WalPosition(1, 100))
    detector.compare(server(1.0, 101))
    detector.record_primary(3.0, PRIMARY, WalPosition(1, 200))
    detector.compare(server(2.5, 101))
    assert detector.has_diverged(OTHER)
    assert not detector.has_diverged(OTHER + 1)


def test_no_server_has_diverged_from_an_unknown_primary_and_a_new_primary_clears_the_findings() -> None:
    detector = DivergenceDetector()
    detector.record_primary(2.0, PRIMARY, WalPosition(1, 100))
    detector.compare(server(1.0, 90, timeline=2, replica=False))
    detector.forget_primary()
    assert not detector.has_diverged(OTHER)
    detector.compare(server(1.0, 101, started_at=OTHER + 1))
    detector.record_primary(3.0, PRIMARY, WalPosition(1, 100))
    assert detector.has_diverged(OTHER)
    assert not detector.has_diverged(OTHER + 1)
    # The other server becomes the primary.
    detector.record_primary(4.0, OTHER, WalPosition(2, 95))
    detector.compare(server(3.5, 95, timeline=2, replica=False))
    detector.record_primary(5.0, PRIMARY, WalPosition(1, 100))
    assert not detector.has_diverged(OTHER)
