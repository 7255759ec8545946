"""The encoding of a batch in the answer of a request_id."""

from datetime import UTC, date, datetime

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.domains.sync_batches.records import SyncBatch

times = st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  timezones adds it
counts = st.integers(0, 2**63 - 1)
batches = st.builds(
    SyncBatch,
    id=st.uuids(),
    ispb=st.sampled_from(["", "12345678"]),
    batch_date=st.dates(min_value=date(1, 1, 1)),
    status=st.integers(1, 5),
    total_records=counts,
    synced_records=counts,
    failed_records=counts,
    skipped_records=counts,
    leased_records=counts,
    started_at=st.none() | times,
    completed_at=st.none() | times,
    error_message=st.text(max_size=20),
    revision=counts,
    created_at=times,
    updated_at=times,
    oldest_lease_expires_at=st.none() | times,
)


@given(batches)
def test_a_batch_is_loaded_as_it_was_dumped(batch: SyncBatch) -> None:
    assert SyncBatch.load(batch.dump()) == batch
