"""manifest.json, verification.json and backup names."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.backup.manifest import (
    BackupVerification,
    CidSet,
    ContentSummary,
    NotReadable,
    differences,
    is_name,
    name_of,
    read_manifest,
    read_verification,
    write_verification,
)

AT = datetime(2026, 11, 20, 1, 2, 3, 45678, tzinfo=UTC)


@given(st.text(max_size=80), st.datetimes(datetime(2020, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis takes naive limits
def test_every_database_name_gives_a_valid_backup_name(database: str, at: datetime) -> None:
    assert is_name(name_of(database, at))


@pytest.mark.parametrize("text", ["", "..", "a", ".unfinished-a-20261120T010203045Z", "a/b-20261120T010203045Z"])
def test_other_folder_names_are_no_backup_names(text: str) -> None:
    assert not is_name(text)


def test_a_name_contains_the_time_to_the_millisecond() -> None:
    assert name_of("vsync", AT) == "vsync-20261120T010203045Z"


def test_the_error_of_an_unreadable_manifest_does_not_quote_it() -> None:
    for data in (b"", b"{}", b'{"name": "hunter2"}', b"\xff", b"[1]"):
        with pytest.raises(NotReadable) as caught:
            read_manifest(data)
        assert "hunter2" not in str(caught.value)


def test_a_verification_is_read_back_unchanged() -> None:
    verification = BackupVerification(verified_at=AT, restored=True, problems=("a: b",))
    assert read_verification(write_verification(verification)) == verification
    with pytest.raises(NotReadable):
        read_verification(b"{")


def test_differences_has_one_line_for_each_difference() -> None:
    cids = CidSet(ispb="12345678", key_type=1, count=2, vsync="00" * 32)
    dumped = ContentSummary(
        schema="vsync",
        tables={"a": 1, "b": 2, "c": 0},
        cid_sets=(cids,),
        migrations={"vsync": 1},
        digests={"notes": "2:1a", "same": "2:1b"},
    )
    assert differences(dumped, dumped) == ()
    restored = ContentSummary(
        schema="vsync",
        tables={"a": 1, "b": 3, "d": 0},
        cid_sets=(),
        migrations={},
        digests={"notes": "2:1b", "same": "2:1b"},
    )
    assert differences(dumped, restored) == (
        "b: 3 rows instead of 2",
        "c: no rows instead of 0",
        "d: not in the dump",
        "the CID set of ISPB 12345678, key type 1 differs",
        "the content of notes differs",
        "the versions of the migrations differ",
    )
