"""What becomes of one result, before its CID is looked at."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.domains.cids.records import FAILED, SYNCED
from vsyncd.domains.sync_batches.records import RecordOutcome, ReportOutcome, SyncResult
from vsyncd.domains.sync_batches.reports import Held, judge

MINE, OTHER = UUID(int=1), UUID(int=2)
CID = bytes(32)


@given(
    status=st.sampled_from([SYNCED, FAILED]),
    token=st.sampled_from([MINE, OTHER, None]),
    outcome=st.sampled_from([None, *RecordOutcome]),
)
def test_a_result_is_judged_by_whose_the_record_is_and_what_was_said_before(
    status: int, token: UUID | None, outcome: RecordOutcome | None
) -> None:
    judged = judge(SyncResult(CID, status, None), Held(token, outcome), MINE)
    said = {SYNCED: RecordOutcome.SYNCED, FAILED: RecordOutcome.FAILED}[status]
    if token != MINE:
        assert judged is ReportOutcome.STALE
    elif outcome is None:
        assert judged is ReportOutcome.APPLIED
    elif outcome == said:
        assert judged is ReportOutcome.REPEATED
    else:
        assert judged is ReportOutcome.STALE


def test_a_record_that_the_batch_does_not_have_is_stale() -> None:
    assert judge(SyncResult(CID, SYNCED, None), None, MINE) is ReportOutcome.STALE
