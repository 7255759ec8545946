"""How far a replica is behind, by what the primary had written when."""

from vsyncd.postgres.replication_lag import ReplicationLag, WalHistory


def test_a_replica_is_as_old_as_the_first_moment_at_which_the_primary_was_further() -> None:
    history = WalHistory(100.0)
    for second in range(10):
        history.note(100.0 + second, 1000 + second)
    assert history.lag(109.0, 1009) == ReplicationLag(0.0, 0)
    assert history.lag(109.0, 1008) == ReplicationLag(0.0, 1)
    assert history.lag(109.0, 1004) == ReplicationLag(4.0, 5)


def test_while_the_primary_writes_nothing_a_replica_that_is_held_up_falls_further_behind() -> None:
    history = WalHistory(0.0)
    history.note(0.0, 1)
    for second in range(1, 6):
        history.note(float(second), 2)
    assert history.lag(5.0, 1) == ReplicationLag(4.0, 1)
    assert history.lag(5.0, 2) == ReplicationLag(0.0, 0)


def test_when_the_primary_is_gone_nobody_falls_behind_it_any_more() -> None:
    history = WalHistory(0.0)
    history.note(0.0, 1)
    history.note(1.0, 2)
    history.note(3.0, 2)
    assert history.lag(3.0, 1) == history.lag(1000.0, 1) == ReplicationLag(2.0, 1)
    # What a replica has received and not replayed was so old when the primary was last seen.
    assert history.lag(3.0, 2, own=5.0) == history.lag(1000.0, 2, own=1002.0) == ReplicationLag(5.0, 0)
    assert history.lag(1000.0, 2, own=5.0) == ReplicationLag(0.0, 0)


def test_without_a_known_primary_the_replicas_own_word_counts_as_of_the_begin() -> None:
    history = WalHistory(100.0)
    assert history.lag(101.0, 7) == ReplicationLag(0.0, 0)
    assert history.lag(101.0, 7, own=61.0) == history.lag(160.0, 7, own=120.0) == ReplicationLag(60.0, 0)


def test_another_primary_that_branched_off_before_begins_anew() -> None:
    history = WalHistory(0.0)
    history.note(0.0, 100)
    history.note(1.0, 200)
    history.note(2.0, 150)
    assert history.lag(2.0, 150) == ReplicationLag(0.0, 0)
    assert history.lag(2.0, 120) == ReplicationLag(0.0, 30)


def test_a_replica_that_was_not_heard_of_since_falls_behind_by_what_the_primary_writes_and_nothing_else() -> None:
    history = WalHistory(0.0)
    assert history.written is None
    history.note(1.0, 100)
    assert history.lag(1.5, 100) == ReplicationLag(0.0, 0)
    history.note(60.0, 100)
    assert history.lag(1.5, 100) == ReplicationLag(0.0, 0)
    assert history.lag(1.5, 100, own=2.0) == ReplicationLag(2.0, 0)
    history.note(61.0, 150)
    history.note(64.0, 180)
    assert history.written == 180
    assert history.lag(1.5, 100) == ReplicationLag(3.0, 80)
