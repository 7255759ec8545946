"""The state machine of a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsync.v1 import sync_batch_pb2 as pb
from vsyncd.domains.sync_batches.records import ReportOutcome
from vsyncd.domains.sync_batches.states import (
    TRANSITIONS,
    BatchStatus,
    InvalidTransition,
    check_running,
    check_transition,
    status_after_retry,
)

statuses = st.sampled_from(BatchStatus)
PENDING, STARTING, RUNNING = BatchStatus.PENDING, BatchStatus.STARTING, BatchStatus.RUNNING
COMPLETED, FAILED = BatchStatus.COMPLETED, BatchStatus.FAILED


def test_the_numbers_match_the_protos() -> None:
    assert {f"SYNC_BATCH_STATUS_{status.name}": int(status) for status in BatchStatus} == {
        name: number for name, number in pb.SyncBatchStatus.items() if number
    }
    assert {f"REPORT_OUTCOME_{outcome.name}": int(outcome) for outcome in ReportOutcome} == {
        name: number for name, number in pb.ReportOutcome.items() if number
    }


@given(current=statuses, requested=statuses)
def test_a_forbidden_transition_names_both_statuses(current: BatchStatus, requested: BatchStatus) -> None:
    allowed = {
        (PENDING, STARTING), (STARTING, RUNNING), (RUNNING, COMPLETED),
        (PENDING, FAILED), (STARTING, FAILED), (RUNNING, FAILED),
        (FAILED, PENDING), (FAILED, RUNNING),
    }  # fmt: skip
    if (current, requested) in allowed:
        check_transition(current, requested)
        return
    with pytest.raises(InvalidTransition) as raised:
        check_transition(current, requested)
    assert raised.value.metadata == {"from": current.name, "to": requested.name}
    assert raised.value.message.startswith(f"The batch is {current.name}; only a batch that is ")


@given(current=statuses, was_running=st.booleans())
def test_only_a_failed_batch_can_be_retried(current: BatchStatus, was_running: bool) -> None:
    if current is FAILED:
        assert status_after_retry(current, was_running=was_running) is (RUNNING if was_running else PENDING)
        return
    with pytest.raises(InvalidTransition) as raised:
        status_after_retry(current, was_running=was_running)
    assert raised.value.message == f"The batch is {current.name}; only a batch that is FAILED can be retried."


@given(st.lists(statuses, max_size=30))
def test_completed_is_final_and_only_reached_from_running(requests: list[BatchStatus]) -> None:
    path = [PENDING]
    for status in requests:
        if status in TRANSITIONS[path[-1]]:
            path.append(status)
    if COMPLETED in path:
        assert path.index(COMPLETED) == len(path) - 1
        assert path[-2] is RUNNING


@given(st.lists(st.sampled_from(["start", "run", "fail", "retry"]), max_size=30))
def test_a_retry_returns_to_running_only_if_the_batch_was_running(actions: list[str]) -> None:
    status, was_running = PENDING, False
    for action in actions:
        requested = {
            "start": STARTING,
            "run": RUNNING,
            "fail": FAILED,
            "retry": status if status is not FAILED else status_after_retry(status, was_running=was_running),
        }[action]
        if requested not in TRANSITIONS[status] or (status is FAILED and action != "retry"):
            continue
        status = requested
        was_running = was_running or status is RUNNING
        assert status in {FAILED, RUNNING} or not was_running


@given(statuses)
def test_records_can_only_be_claimed_from_a_running_batch(current: BatchStatus) -> None:
    if current is RUNNING:
        check_running(current)
    else:
        with pytest.raises(InvalidTransition):
            check_running(current)
