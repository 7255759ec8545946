"""The staleness check of recorded histories (tests/harness/histories.py)."""

import pytest

from tests.harness.histories import ABSENT, History, Operation


def staleness(read: Operation, *writes: Operation) -> float:
    history = History()
    record = history.records[0]
    record.writes += writes
    record.reads.append(read)
    return history.max_staleness()


FIRST, SECOND = Operation(1, 10.0, 10.5), Operation(2, 20.0, 20.5)


def test_a_read_of_the_current_version_is_not_stale() -> None:
    assert staleness(Operation(2, 100.0, 100.1), FIRST, SECOND) == 0


def test_a_read_is_stale_since_the_end_of_the_next_write() -> None:
    assert staleness(Operation(1, 26.5, 26.6), FIRST, SECOND) == 6
    assert staleness(Operation(ABSENT, 16.5, 16.6), FIRST, SECOND) == 6, "NOT_FOUND too"


def test_during_a_write_both_versions_may_be_read() -> None:
    for version in (1, 2):
        assert staleness(Operation(version, 20.1, 20.2), FIRST, SECOND) == 0


def test_a_read_of_a_version_that_was_not_written_yet_fails_the_check() -> None:
    for read in (Operation(7, 30.0, 30.1), Operation(2, 15.0, 15.1)):
        with pytest.raises(AssertionError, match="had not been written"):
            staleness(read, FIRST, SECOND)


def test_the_staleness_of_a_restored_version_counts_from_its_last_replacement() -> None:
    deleted, restored, deleted_again = (
        Operation(ABSENT, 12.0, 12.5),
        Operation(1, 14.0, 14.5),
        Operation(ABSENT, 16.0, 16.5),
    )
    assert staleness(Operation(1, 18.5, 18.6), FIRST, deleted, restored, deleted_again) == 2
