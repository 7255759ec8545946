"""Which backups go."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.backup.manifest import BackupVerification, name_of
from vsyncd.backup.records import Backup
from vsyncd.backup.retention import Retention, apply_retention

NOW = datetime(2026, 11, 20, tzinfo=UTC)
FINE = BackupVerification(at=NOW, restored=False)
RESTORED = BackupVerification(at=NOW, restored=True)
REFUSED = BackupVerification(at=NOW, restored=False, restore_error="pg_restore: could not execute query: ERROR")
BAD = BackupVerification(at=NOW, restored=False, problems=("dump/toc.dat: it is missing",))


def a_backup(hours: float, *, verification: BackupVerification | None = None) -> Backup:
    name = name_of("vsync", NOW - timedelta(hours=hours))
    return Backup(name=name, size=1, manifest=None, verification=verification)


def ages(gone: list[Backup]) -> list[int]:
    return [round((NOW - backup.created_at) / timedelta(hours=1)) for backup in gone]


def test_old_ones_go_and_so_do_those_past_the_count() -> None:
    backups = [a_backup(hours, verification=FINE) for hours in (1, 25, 49, 73)]
    assert ages(apply_retention(backups, Retention(days=2, count=0), now=NOW).expired) == [73, 49]
    assert ages(apply_retention(backups, Retention(days=0, count=3), now=NOW).expired) == [73]
    assert ages(apply_retention(backups, Retention(days=3, count=2), now=NOW).expired) == [73, 49]
    assert apply_retention(backups, Retention(days=0, count=0), now=NOW).expired == []


def test_one_of_a_time_that_is_still_to_come_is_in_nobodys_place() -> None:
    backups = [a_backup(hours, verification=FINE) for hours in (-9000, -2, 1, 25)]
    assert ages(apply_retention(backups, Retention(days=1e-9, count=1), now=NOW).expired) == [25]
    assert ages(
        apply_retention([*backups, a_backup(-0.9, verification=FINE)], Retention(days=0, count=1), now=NOW).expired
    ) == [25, 1]


def test_the_last_good_one_stays_however_old_it_is() -> None:
    backups = [a_backup(900, verification=FINE), a_backup(800, verification=BAD), a_backup(700, verification=BAD)]
    assert ages(apply_retention(backups, Retention(days=1, count=1), now=NOW).expired) == [800, 700]


def test_the_last_verified_one_stays_beside_newer_ones_that_were_not_verified() -> None:
    backups = [a_backup(900), a_backup(800, verification=FINE), a_backup(700), a_backup(600)]
    assert ages(apply_retention(backups, Retention(days=1, count=1), now=NOW).expired) == [900, 700]


def test_the_last_one_that_was_really_restored_stays_beside_newer_ones_whose_files_are_whole() -> None:
    backups = [a_backup(900, verification=RESTORED), a_backup(800, verification=FINE), a_backup(700)]
    assert apply_retention(backups, Retention(days=1, count=1), now=NOW).expired == []


def test_one_that_could_not_be_restored_stays_only_where_there_is_nothing_better() -> None:
    refused = [
        a_backup(900, verification=REFUSED),
        a_backup(800, verification=REFUSED),
        a_backup(700, verification=BAD),
    ]
    assert ages(apply_retention(refused, Retention(days=1, count=1), now=NOW).expired) == [900, 700]
    better = [a_backup(1000, verification=FINE), *refused]
    assert ages(apply_retention(better, Retention(days=1, count=1), now=NOW).expired) == [900, 800, 700]


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.sampled_from([None, FINE, RESTORED, REFUSED, BAD])), max_size=20),
    st.integers(0, 30),
    st.integers(0, 5),
)
def test_never_the_newest_good_nor_the_newest_verified_nor_the_newest_restored(
    parts: list[tuple[float, BackupVerification | None]], days: int, count: int
) -> None:
    backups = [a_backup(hours, verification=verification) for hours, verification in parts]
    gone = {backup.name for backup in apply_retention(backups, Retention(days=days, count=count), now=NOW).expired}
    oldest_first = sorted(backups, key=lambda each: each.created_at)
    for how in ("good", "verified", "restored"):
        kept = [each for each in oldest_first if getattr(each, how)]
        assert not kept or kept[-1].name not in gone


def test_what_stays_past_the_retention_is_named_with_its_reason() -> None:
    backups = [
        a_backup(900, verification=RESTORED),
        a_backup(800, verification=FINE),
        a_backup(700),
        a_backup(-9, verification=FINE),
    ]
    kept = apply_retention(backups, Retention(days=1, count=1), now=NOW).kept
    assert [each.name for each in kept] == [backup.name for backup in backups]
    assert [each.reason for each in kept] == [
        "it is the newest that was restored",
        "it is the newest that was verified",
        "it is the newest good one",
        "it is dated in the future",
    ]
    refused = [a_backup(900, verification=REFUSED)]
    (last,) = apply_retention(refused, Retention(days=1, count=1), now=NOW).kept
    assert last.reason == "it is the newest, and none is good"
