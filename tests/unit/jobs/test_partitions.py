"""How far partitions reach, and which have expired."""

from datetime import UTC, datetime, timedelta

import pytest
from vsyncd.jobs.maintenance.partitions import Partition, PartitionSnapshot, drop_mark, parse_drop_mark

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def month(parent: str, year: int, number: int) -> Partition:
    begins = datetime(year, number, 1, tzinfo=UTC)
    ends = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return Partition(parent, f"{parent}_{year}_{number:02d}", begins, ends)


def snapshot(*partitions: Partition, audit_days: int = 0) -> PartitionSnapshot:
    """Returns the registered tables with these partitions."""
    registered = [("audit_logs", "AUDIT_RETENTION_DAYS", None), ("newer", "UNKNOWN", None), ("request_ids", None, 8)]
    empty = (None, None, None, None)
    rows: list[tuple[object, ...]] = [(NOW, *table, *empty) for table in registered]
    rows += [(NOW, *table, *each[1:5]) for each in partitions for table in registered if table[0] == each.parent]
    return PartitionSnapshot.from_rows(rows, {"AUDIT_RETENTION_DAYS": audit_days})


def test_partitions_reach_until_the_first_gap() -> None:
    seen = snapshot(
        month("audit_logs", 2027, 3),
        month("audit_logs", 2026, 12),
        month("audit_logs", 2026, 11),
        month("audit_logs", 2027, 1),
        month("newer", 2027, 1),
    )
    assert seen.complete_until() == {
        "audit_logs": datetime(2027, 2, 1, tzinfo=UTC),
        "newer": NOW,  # no partition for a row of now
        "request_ids": NOW,
    }


def test_a_table_whose_setting_is_unknown_is_kept_forever() -> None:
    assert snapshot(month("newer", 2020, 1), audit_days=1).expired() == []


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
def test_a_partition_expires_with_its_last_row(days: int, expected: list[str]) -> None:
    months = [(2026, 11), (2026, 9), (2020, 1), (2026, 10), (2026, 12)]
    seen = snapshot(*(month("audit_logs", *each) for each in months), month("newer", 2020, 1), audit_days=days)
    assert [partition.name for partition in seen.expired()] == expected


def test_a_request_id_is_kept_for_at_least_seven_days() -> None:
    week = timedelta(days=7)
    kept = Partition("request_ids", "kept", NOW - 2 * week, NOW - week)
    expired = Partition("request_ids", "expired", NOW - 3 * week, NOW - timedelta(days=8))
    assert [each.name for each in snapshot(kept, expired).expired()] == ["expired"]


def test_a_detached_partition_expires_only_if_its_table_is_registered() -> None:
    detached = [month(parent, 2020, 1)._replace(is_detached=True) for parent in ("audit_logs", "other")]
    assert snapshot(audit_days=1).expired(detached) == detached[:1]


def test_the_mark_on_a_detached_table_has_its_time_range() -> None:
    partition = month("audit_logs", 2020, 1)
    assert parse_drop_mark(partition.name, drop_mark(partition)) == partition._replace(is_detached=True)
    assert parse_drop_mark("kept", "vsyncd: another comment") is None
    assert parse_drop_mark("broken", drop_mark(partition)[:-5] + "never") is None
