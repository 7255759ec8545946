"""The outcome of one result if its CID has not changed."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.domains.cids.records import FAILED, SYNCED
from vsyncd.domains.sync_batches.claims import BatchRecord, report_outcome
from vsyncd.domains.sync_batches.records import RecordOutcome, ReportOutcome, SyncResult

MINE, OTHER = UUID(int=1), UUID(int=2)
CID = bytes(32)


@given(
    status=st.sampled_from([SYNCED, FAILED]),
    token=st.sampled_from([MINE, OTHER, None]),
    outcome=st.sampled_from([None, *RecordOutcome]),
)
def test_the_outcome_depends_on_the_claim_and_the_earlier_result(
    status: int, token: UUID | None, outcome: RecordOutcome | None
) -> None:
    reported = report_outcome(SyncResult(CID, status, None), BatchRecord(token, outcome), MINE)
    earlier = {SYNCED: RecordOutcome.SYNCED, FAILED: RecordOutcome.FAILED}[status]
    if token != MINE:
        assert reported is ReportOutcome.STALE
    elif outcome is None:
        assert reported is ReportOutcome.APPLIED
    elif outcome == earlier:
        assert reported is ReportOutcome.REPEATED
    else:
        assert reported is ReportOutcome.STALE


def test_a_result_for_an_unknown_record_is_stale() -> None:
    assert report_outcome(SyncResult(CID, SYNCED, None), None, MINE) is ReportOutcome.STALE
