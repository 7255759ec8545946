"""The replication lag, measured by the primary's positions over time."""

from vsyncd.postgres.replication import ReplicationLag, WalHistory


def test_the_lag_is_the_age_of_the_first_position_ahead_of_the_replica() -> None:
    history = WalHistory(100.0)
    for second in range(10):
        history.record(100.0 + second, 1000 + second)
    assert history.lag(109.0, 1009) == ReplicationLag(0.0, 0)
    assert history.lag(109.0, 1008) == ReplicationLag(0.0, 1)
    assert history.lag(109.0, 1004) == ReplicationLag(4.0, 5)


def test_the_lag_of_a_stuck_replica_grows_while_the_primary_is_idle() -> None:
    history = WalHistory(0.0)
    history.record(0.0, 1)
    for second in range(1, 6):
        history.record(float(second), 2)
    assert history.lag(5.0, 1) == ReplicationLag(4.0, 1)
    assert history.lag(5.0, 2) == ReplicationLag(0.0, 0)


def test_the_lag_is_frozen_while_the_primary_is_unreachable() -> None:
    history = WalHistory(0.0)
    history.record(0.0, 1)
    history.record(1.0, 2)
    history.record(3.0, 2)
    assert history.lag(3.0, 1) == history.lag(1000.0, 1) == ReplicationLag(2.0, 1)
    # The reported lag counts as of the time at which the primary was last seen.
    assert (
        history.lag(3.0, 2, reported_lag=5.0) == history.lag(1000.0, 2, reported_lag=1002.0) == ReplicationLag(5.0, 0)
    )
    assert history.lag(1000.0, 2, reported_lag=5.0) == ReplicationLag(0.0, 0)


def test_without_a_known_primary_the_reported_lag_counts_as_of_the_start() -> None:
    history = WalHistory(100.0)
    assert history.lag(101.0, 7) == ReplicationLag(0.0, 0)
    assert (
        history.lag(101.0, 7, reported_lag=61.0) == history.lag(160.0, 7, reported_lag=120.0) == ReplicationLag(60.0, 0)
    )


def test_a_new_primary_at_an_earlier_position_clears_the_history() -> None:
    history = WalHistory(0.0)
    history.record(0.0, 100)
    history.record(1.0, 200)
    history.record(2.0, 150)
    assert history.lag(2.0, 150) == ReplicationLag(0.0, 0)
    assert history.lag(2.0, 120) == ReplicationLag(0.0, 30)


def test_the_lag_of_an_unreachable_replica_grows_only_by_what_the_primary_writes() -> None:
    history = WalHistory(0.0)
    assert history.last_lsn is None
    history.record(1.0, 100)
    assert history.lag(1.5, 100) == ReplicationLag(0.0, 0)
    history.record(60.0, 100)
    assert history.lag(1.5, 100) == ReplicationLag(0.0, 0)
    assert history.lag(1.5, 100, reported_lag=2.0) == ReplicationLag(2.0, 0)
    history.record(61.0, 150)
    history.record(64.0, 180)
    assert history.last_lsn == 180
    assert history.lag(1.5, 100) == ReplicationLag(3.0, 80)
