"""What follows from the partitions that there are."""

from datetime import UTC, datetime, timedelta

import pytest
from vsyncd.jobs.maintenance.partitions import REQUEST_IDS, Look, Partition, retention

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def month(parent: str, year: int, number: int) -> Partition:
    begins = datetime(year, number, 1, tzinfo=UTC)
    ends = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return Partition(parent, f"{parent}_{year}_{number:02d}", begins, ends)


def look(*partitions: Partition) -> Look:
    return Look(at=NOW, partitions=partitions)


def test_partitions_reach_as_far_as_there_is_no_gap() -> None:
    seen = look(
        month("audit_logs", 2027, 3),
        month("audit_logs", 2026, 12),
        month("audit_logs", 2026, 11),
        month("audit_logs", 2027, 1),
        month("cid_events", 2027, 1),
    )
    assert seen.made_until() == {
        "audit_logs": datetime(2027, 2, 1, tzinfo=UTC),
        "cid_events": NOW,  # nothing takes what comes now
        "request_ids": NOW,
    }


def test_a_table_that_is_not_ours_is_let_be() -> None:
    assert look(month("payments", 2020, 1)).expired(retention(audit_days=1, event_days=1)) == []


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (0, []),
        # October ended 19 days and 12 hours ago.
        (20, ["audit_logs_2020_01", "audit_logs_2026_09"]),
        (19, ["audit_logs_2020_01", "audit_logs_2026_09", "audit_logs_2026_10"]),
        (3650, []),
    ],
)
def test_what_is_past_its_retention_to_its_last_row_is_expired(days: int, expected: list[str]) -> None:
    months = [(2026, 11), (2026, 9), (2020, 1), (2026, 10), (2026, 12)]
    seen = look(*(month("audit_logs", *each) for each in months), month("cid_events", 2020, 1))
    keep = retention(audit_days=days, event_days=0)
    assert [partition.name for partition in seen.expired(keep)] == expected


def test_a_request_id_holds_for_seven_days_at_least() -> None:
    week = timedelta(days=7)
    held = Partition("request_ids", "held", NOW - 2 * week, NOW - week)
    gone = Partition("request_ids", "gone", NOW - 3 * week, NOW - REQUEST_IDS)
    assert look(held, gone).expired(retention(audit_days=0, event_days=0)) == [gone]
