"""What a backup says of itself."""

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


@given(st.text(max_size=80), st.datetimes(datetime(2020, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  hypothesis wants them so
def test_every_database_gives_a_name_that_leads_nowhere_else(database: str, at: datetime) -> None:
    assert is_name(name_of(database, at))


@pytest.mark.parametrize("text", ["", "..", "a", ".unfinished-a-20261120T010203045Z", "a/b-20261120T010203045Z"])
def test_other_folders_are_no_backups(text: str) -> None:
    assert not is_name(text)


def test_a_name_has_the_time_to_the_millisecond() -> None:
    assert name_of("vsync", AT) == "vsync-20261120T010203045Z"


def test_what_is_no_manifest_is_not_quoted() -> None:
    for data in (b"", b"{}", b'{"name": "hunter2"}', b"\xff", b"[1]"):
        with pytest.raises(NotReadable) as caught:
            read_manifest(data)
        assert "hunter2" not in str(caught.value)


def test_a_verification_is_read_as_it_was_written() -> None:
    verification = BackupVerification(at=AT, restored=True, problems=("a: b",))
    assert read_verification(write_verification(verification)) == verification
    with pytest.raises(NotReadable):
        read_verification(b"{")


def test_each_difference_has_a_line() -> None:
    cids = CidSet(ispb="12345678", key_type=1, count=2, vsync="00" * 32)
    dumped = ContentSummary(schema="vsync", tables={"a": 1, "b": 2, "c": 0}, cid_sets=(cids,), migrations={"vsync": 1})
    assert differences(dumped, dumped) == ()
    restored = ContentSummary(schema="vsync", tables={"a": 1, "b": 3, "d": 0}, cid_sets=(), migrations={})
    assert differences(dumped, restored) == (
        "b: 3 rows, and 2 were dumped",
        "c: 0 rows, and 0 were dumped",
        "d: it was not dumped",
        "the CID set of ispb 12345678, key type 1 is another one",
        "the versions of the migrations are others",
    )
