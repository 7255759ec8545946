"""The life of a batch, as a pure machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsync.v1 import sync_batch_pb2 as pb
from vsyncd.domains.sync_batches.records import ReportOutcome
from vsyncd.domains.sync_batches.states import (
    NEXT,
    BatchStatus,
    InvalidTransition,
    check_running,
    check_transition,
    state_after_retry,
)

statuses = st.sampled_from(BatchStatus)
PENDING, STARTING, RUNNING = BatchStatus.PENDING, BatchStatus.STARTING, BatchStatus.RUNNING
COMPLETED, FAILED = BatchStatus.COMPLETED, BatchStatus.FAILED


def test_the_numbers_are_the_contracts() -> None:
    assert {f"SYNC_BATCH_STATUS_{status.name}": int(status) for status in BatchStatus} == {
        name: number for name, number in pb.SyncBatchStatus.items() if number
    }
    assert {f"REPORT_OUTCOME_{outcome.name}": int(outcome) for outcome in ReportOutcome} == {
        name: number for name, number in pb.ReportOutcome.items() if number
    }


@given(present=statuses, asked=statuses)
def test_a_transition_is_allowed_or_names_both_states(present: BatchStatus, asked: BatchStatus) -> None:
    allowed = {
        (PENDING, STARTING), (STARTING, RUNNING), (RUNNING, COMPLETED),
        (PENDING, FAILED), (STARTING, FAILED), (RUNNING, FAILED),
        (FAILED, PENDING), (FAILED, RUNNING),
    }  # fmt: skip
    if (present, asked) in allowed:
        check_transition(present, asked)
        return
    with pytest.raises(InvalidTransition) as raised:
        check_transition(present, asked)
    assert raised.value.metadata == {"from": present.name, "to": asked.name}
    assert raised.value.message.startswith(f"The batch is {present.name}; only one that is ")


@given(present=statuses, was_running=st.booleans())
def test_only_a_failed_batch_is_retried(present: BatchStatus, was_running: bool) -> None:
    if present is FAILED:
        assert state_after_retry(present, was_running=was_running) is (RUNNING if was_running else PENDING)
        return
    with pytest.raises(InvalidTransition) as raised:
        state_after_retry(present, was_running=was_running)
    assert raised.value.message == f"The batch is {present.name}; only one that is FAILED can be retried."


@given(st.lists(statuses, max_size=30))
def test_no_way_leads_out_of_completed_and_none_to_it_but_through_running(wishes: list[BatchStatus]) -> None:
    way = [PENDING]
    for wish in wishes:
        if wish in NEXT[way[-1]]:
            way.append(wish)
    if COMPLETED in way:
        assert way.index(COMPLETED) == len(way) - 1
        assert way[-2] is RUNNING


@given(st.lists(st.sampled_from(["start", "run", "fail", "retry"]), max_size=30))
def test_a_retry_leads_to_where_the_batch_had_come(actions: list[str]) -> None:
    status, was_running = PENDING, False
    for action in actions:
        asked = {
            "start": STARTING,
            "run": RUNNING,
            "fail": FAILED,
            "retry": status if status is not FAILED else state_after_retry(status, was_running=was_running),
        }[action]
        if asked not in NEXT[status] or (status is FAILED and action != "retry"):
            continue
        status = asked
        was_running = was_running or status is RUNNING
        assert status in {FAILED, RUNNING} or not was_running


@given(statuses)
def test_only_a_running_batch_hands_out_records(present: BatchStatus) -> None:
    if present is RUNNING:
        check_running(present)
    else:
        with pytest.raises(InvalidTransition):
            check_running(present)
