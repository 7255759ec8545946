"""Status details become typed exceptions; what cannot be read does not hide the error."""

import grpc
import pytest
import vsync
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from vsync.errors import error_of
from vsync.rpc_status import STATUS_DETAILS_KEY, failure_of

Code = grpc.StatusCode


def status(*details: Message) -> tuple[tuple[str, bytes], ...]:
    packed = []
    for detail in details:
        packed.append(Any())
        packed[-1].Pack(detail)
    return ((STATUS_DETAILS_KEY, status_pb2.Status(code=3, message="no", details=packed).SerializeToString()),)


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="vsyncd", metadata=metadata)


@pytest.mark.parametrize(
    ("code", "reason", "leaf"),
    [
        (Code.INVALID_ARGUMENT, "INVALID_FIELD", vsync.InvalidArgument),
        (Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", vsync.RequestIdReused),
        (Code.OUT_OF_RANGE, "TOKEN_EXPIRED", vsync.OutOfRange),
        (Code.NOT_FOUND, "CID_NOT_FOUND", vsync.NotFound),
        (Code.ALREADY_EXISTS, "CID_EXISTS", vsync.AlreadyExists),
        (Code.FAILED_PRECONDITION, "BATCH_INCOMPLETE", vsync.PreconditionFailed),
        (Code.FAILED_PRECONDITION, "INVALID_TRANSITION", vsync.InvalidTransition),
        (Code.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE", vsync.SchemaOutOfDate),
        (Code.ABORTED, "REVISION_MISMATCH", vsync.RevisionMismatch),
        (Code.ABORTED, "CONTENTION", vsync.Contention),
        (Code.ABORTED, "NEW_REASON", vsync.Aborted),
        (Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", vsync.Unavailable),
        (Code.UNAVAILABLE, "READ_ONLY_MODE", vsync.ReadOnlyMode),
        (Code.RESOURCE_EXHAUSTED, "OVERLOADED", vsync.Overloaded),
        (Code.RESOURCE_EXHAUSTED, "", vsync.ResourceExhausted),
        (Code.DEADLINE_EXCEEDED, "QUERY_TIMEOUT", vsync.DeadlineExceeded),
        (Code.UNKNOWN, "COMMIT_UNKNOWN", vsync.CommitUnknown),
        (Code.UNKNOWN, "", vsync.ServerFault),
        (Code.INTERNAL, "", vsync.ServerFault),
        (Code.CANCELLED, "", vsync.Cancelled),
        (Code.UNAUTHENTICATED, "", vsync.Unauthenticated),
        (Code.PERMISSION_DENIED, "", vsync.PermissionDenied),
        (Code.UNIMPLEMENTED, "", vsync.Unimplemented),
    ],
)
def test_code_and_reason_choose_the_leaf(code: grpc.StatusCode, reason: str, leaf: type[vsync.CallError]) -> None:
    error = error_of(failure_of(code, "no", status(info(reason))))
    assert type(error) is leaf
    assert (error.code, error.reason) == (code, reason)


def test_everything_of_the_details_is_there() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="record.cid", description="takes 64 digits")
    trailing: tuple[tuple[str, str | bytes], ...] = (
        *status(
            info("INVALID_FIELD", violations_total="1"),
            error_details_pb2.BadRequest(field_violations=[violation]),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            error_details_pb2.Help(),
        ),
        ("x-correlation-id", "the server's"),
    )
    error = error_of(failure_of(Code.INVALID_ARGUMENT, "bad", trailing, correlation_id="ours", request_id="r"))
    assert isinstance(error, vsync.InvalidArgument)
    assert error.violations == (vsync.Violation("record.cid", "takes 64 digits"),)
    assert error.metadata == {"violations_total": "1"}
    assert error.retry_after == 1.5
    assert (error.correlation_id, error.request_id) == ("the server's", "r")
    assert str(error) == (
        "bad (INVALID_ARGUMENT, INVALID_FIELD, correlation id the server's)\n  record.cid: takes 64 digits"
    )


def test_already_exists_says_what_is_there() -> None:
    details = status(info("KEY_EXISTS", existing_id="i", field="key_value", revision="7"))
    error = error_of(failure_of(Code.ALREADY_EXISTS, "there", details))
    assert isinstance(error, vsync.AlreadyExists)
    assert (error.existing_id, error.field, error.revision) == ("i", "key_value", 7)


def test_already_exists_without_metadata() -> None:
    error = error_of(failure_of(Code.ALREADY_EXISTS, "there", ()))
    assert isinstance(error, vsync.AlreadyExists)
    assert (error.existing_id, error.field, error.revision, error.retry_after) == ("", "", None, None)


def test_an_invalid_transition_names_both_states() -> None:
    details = status(info("INVALID_TRANSITION", **{"from": "COMPLETED", "to": "RUNNING"}))
    error = error_of(failure_of(Code.FAILED_PRECONDITION, "no", details))
    assert isinstance(error, vsync.InvalidTransition)
    assert (error.from_state, error.to_state) == ("COMPLETED", "RUNNING")


def test_an_error_without_any_detail_still_reads_well() -> None:
    assert str(error_of(failure_of(Code.UNAVAILABLE, "", ()))) == "the call failed (UNAVAILABLE)"


@given(st.binary())
def test_details_that_cannot_be_read_leave_the_code(details: bytes) -> None:
    error = error_of(failure_of(Code.NOT_FOUND, "no", ((STATUS_DETAILS_KEY, details),)))
    assert isinstance(error, vsync.NotFound)
