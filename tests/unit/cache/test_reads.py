"""The check of recorded histories (tests/harness/reads.py), against histories that are made up."""

import pytest

from tests.harness.reads import ABSENT, Reads, Step


def lag(read: Step, *writes: Step) -> float:
    reads = Reads()
    register = reads.registers[0]
    register.writes += writes
    register.reads.append(read)
    return reads.worst()


FIRST, SECOND = Step(1, 10.0, 10.5), Step(2, 20.0, 20.5)


def test_a_read_of_what_is_there_is_not_behind() -> None:
    assert lag(Step(2, 100.0, 100.1), FIRST, SECOND) == 0


def test_a_read_is_behind_since_the_next_write_had_ended() -> None:
    assert lag(Step(1, 26.5, 26.6), FIRST, SECOND) == 6
    assert lag(Step(ABSENT, 16.5, 16.6), FIRST, SECOND) == 6, "a NOT_FOUND too"


def test_while_a_write_is_under_way_either_may_be_read() -> None:
    for version in (1, 2):
        assert lag(Step(version, 20.1, 20.2), FIRST, SECOND) == 0


def test_what_nobody_had_written_yet_is_no_read_at_all() -> None:
    for read in (Step(7, 30.0, 30.1), Step(2, 15.0, 15.1)):
        with pytest.raises(AssertionError, match="nobody had written"):
            lag(read, FIRST, SECOND)


def test_a_version_that_came_back_counts_from_when_it_was_last_there() -> None:
    gone, back, gone_again = Step(ABSENT, 12.0, 12.5), Step(1, 14.0, 14.5), Step(ABSENT, 16.0, 16.5)
    assert lag(Step(1, 18.5, 18.6), FIRST, gone, back, gone_again) == 2
