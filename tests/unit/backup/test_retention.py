"""Which backups expire."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.backup.manifest import BackupVerification, name_of
from vsyncd.backup.records import Backup, Retention, apply_retention

NOW = datetime(2026, 11, 20, tzinfo=UTC)
VERIFIED = BackupVerification(verified_at=NOW, restored=False)
RESTORED = BackupVerification(verified_at=NOW, restored=True)
UNRESTORABLE = BackupVerification(
    verified_at=NOW, restored=False, restore_error="pg_restore: could not execute query: ERROR"
)
DAMAGED = BackupVerification(verified_at=NOW, restored=False, problems=("dump/toc.dat: missing",))


def a_backup(hours: float, *, verification: BackupVerification | None = None) -> Backup:
    name = name_of("vsync", NOW - timedelta(hours=hours))
    return Backup(name=name, size=1, manifest=None, verification=verification)


def ages(expired: list[Backup]) -> list[int]:
    return [round((NOW - backup.created_at) / timedelta(hours=1)) for backup in expired]


def test_backups_expire_by_age_and_by_count() -> None:
    backups = [a_backup(hours, verification=VERIFIED) for hours in (1, 25, 49, 73)]
    assert ages(apply_retention(backups, Retention(days=2, count=0), now=NOW).expired) == [73, 49]
    assert ages(apply_retention(backups, Retention(days=0, count=3), now=NOW).expired) == [73]
    assert ages(apply_retention(backups, Retention(days=3, count=2), now=NOW).expired) == [73, 49]
    assert apply_retention(backups, Retention(days=0, count=0), now=NOW).expired == []


def test_a_postdated_backup_does_not_count() -> None:
    backups = [a_backup(hours, verification=VERIFIED) for hours in (-9000, -2, 1, 25)]
    assert ages(apply_retention(backups, Retention(days=1e-9, count=1), now=NOW).expired) == [25]
    assert ages(
        apply_retention([*backups, a_backup(-0.9, verification=VERIFIED)], Retention(days=0, count=1), now=NOW).expired
    ) == [25, 1]


def test_the_newest_good_backup_is_kept_at_any_age() -> None:
    backups = [
        a_backup(900, verification=VERIFIED),
        a_backup(800, verification=DAMAGED),
        a_backup(700, verification=DAMAGED),
    ]
    assert ages(apply_retention(backups, Retention(days=1, count=1), now=NOW).expired) == [800, 700]


def test_the_newest_verified_backup_is_kept_beside_newer_unverified_ones() -> None:
    backups = [a_backup(900), a_backup(800, verification=VERIFIED), a_backup(700), a_backup(600)]
    assert ages(apply_retention(backups, Retention(days=1, count=1), now=NOW).expired) == [900, 700]


def test_the_newest_restored_backup_is_kept_beside_newer_verified_ones() -> None:
    backups = [a_backup(900, verification=RESTORED), a_backup(800, verification=VERIFIED), a_backup(700)]
    assert apply_retention(backups, Retention(days=1, count=1), now=NOW).expired == []


def test_an_unrestorable_backup_is_kept_only_if_no_backup_is_good() -> None:
    unrestorable = [
        a_backup(900, verification=UNRESTORABLE),
        a_backup(800, verification=UNRESTORABLE),
        a_backup(700, verification=DAMAGED),
    ]
    assert ages(apply_retention(unrestorable, Retention(days=1, count=1), now=NOW).expired) == [900, 700]
    better = [a_backup(1000, verification=VERIFIED), *unrestorable]
    assert ages(apply_retention(better, Retention(days=1, count=1), now=NOW).expired) == [900, 800, 700]


@given(
    st.lists(
        st.tuples(st.floats(0, 1000), st.sampled_from([None, VERIFIED, RESTORED, UNRESTORABLE, DAMAGED])), max_size=20
    ),
    st.integers(0, 30),
    st.integers(0, 5),
)
def test_the_newest_good_verified_and_restored_backups_never_expire(
    ages_and_verifications: list[tuple[float, BackupVerification | None]], days: int, count: int
) -> None:
    backups = [a_backup(hours, verification=verification) for hours, verification in ages_and_verifications]
    expired = {backup.name for backup in apply_retention(backups, Retention(days=days, count=count), now=NOW).expired}
    oldest_first = sorted(backups, key=lambda each: each.created_at)
    for states in (
        {"unverified", "verified", "restored"},
        {"verified", "restored"},
        {"restored"},
    ):
        kept = [each for each in oldest_first if each.state in states]
        assert not kept or kept[-1].name not in expired


def test_expired_backups_that_are_kept_are_reported_with_the_reason() -> None:
    backups = [
        a_backup(900, verification=RESTORED),
        a_backup(800, verification=VERIFIED),
        a_backup(700),
        a_backup(-9, verification=VERIFIED),
    ]
    kept = apply_retention(backups, Retention(days=1, count=1), now=NOW).kept
    assert [each.name for each in kept] == [backup.name for backup in backups]
    assert [each.reason for each in kept] == [
        "newest restored backup",
        "newest verified backup",
        "newest good backup",
        "dated in the future",
    ]
    unrestorable = [a_backup(900, verification=UNRESTORABLE)]
    (last,) = apply_retention(unrestorable, Retention(days=1, count=1), now=NOW).kept
    assert last.reason == "newest backup, and none is good"
