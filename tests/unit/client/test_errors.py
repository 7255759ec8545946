"""The details of a status become a typed exception. Invalid details do not hide the error."""

import grpc
import pytest
import vsync
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from vsync.errors import STATUS_DETAILS_KEY, call_error

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
        (Code.INVALID_ARGUMENT, "INVALID_FIELD", vsync.InvalidArgumentError),
        (Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", vsync.RequestIdReusedError),
        (Code.OUT_OF_RANGE, "TOKEN_EXPIRED", vsync.OutOfRangeError),
        (Code.NOT_FOUND, "CID_NOT_FOUND", vsync.NotFoundError),
        (Code.ALREADY_EXISTS, "CID_EXISTS", vsync.AlreadyExistsError),
        (Code.FAILED_PRECONDITION, "BATCH_INCOMPLETE", vsync.PreconditionFailedError),
        (Code.FAILED_PRECONDITION, "INVALID_TRANSITION", vsync.InvalidTransitionError),
        (Code.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE", vsync.SchemaOutOfDateError),
        (Code.ABORTED, "REVISION_MISMATCH", vsync.RevisionMismatchError),
        (Code.ABORTED, "CONTENTION", vsync.ContentionError),
        (Code.ABORTED, "NEW_REASON", vsync.AbortedError),
        (Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", vsync.UnavailableError),
        (Code.UNAVAILABLE, "READ_ONLY_MODE", vsync.ReadOnlyModeError),
        (Code.RESOURCE_EXHAUSTED, "OVERLOADED", vsync.OverloadedError),
        (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", vsync.QuotaExceededError),
        (Code.RESOURCE_EXHAUSTED, "", vsync.ResourceExhaustedError),
        (Code.DEADLINE_EXCEEDED, "QUERY_TIMEOUT", vsync.DeadlineExceededError),
        (Code.UNKNOWN, "COMMIT_UNKNOWN", vsync.CommitUnknownError),
        (Code.UNKNOWN, "", vsync.ServerError),
        (Code.INTERNAL, "", vsync.ServerError),
        (Code.CANCELLED, "", vsync.CallCancelledError),
        (Code.UNAUTHENTICATED, "", vsync.UnauthenticatedError),
        (Code.PERMISSION_DENIED, "", vsync.PermissionDeniedError),
        (Code.UNIMPLEMENTED, "", vsync.UnimplementedError),
    ],
)
def test_code_and_reason_select_the_exception(code: grpc.StatusCode, reason: str, leaf: type[vsync.CallError]) -> None:
    error = call_error(code, "no", status(info(reason)))
    assert type(error) is leaf
    assert (error.code, error.reason) == (code, reason)


def test_an_error_has_every_detail_of_the_status() -> None:
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
    error = call_error(Code.INVALID_ARGUMENT, "bad", trailing, correlation_id="ours", request_id="r")
    assert isinstance(error, vsync.InvalidArgumentError)
    assert error.violations == (vsync.FieldViolation("record.cid", "takes 64 digits"),)
    assert error.metadata == {"violations_total": "1"}
    assert error.retry_after == 1.5
    assert (error.correlation_id, error.request_id) == ("the server's", "r")
    assert str(error) == (
        "bad (INVALID_ARGUMENT, INVALID_FIELD, correlation id the server's)\n  record.cid: takes 64 digits"
    )


def test_already_exists_identifies_the_existing_object() -> None:
    details = status(info("KEY_EXISTS", existing_id="i", field="key_value", revision="7"))
    error = call_error(Code.ALREADY_EXISTS, "there", details)
    assert isinstance(error, vsync.AlreadyExistsError)
    assert (error.existing_id, error.field, error.revision) == ("i", "key_value", 7)


def test_already_exists_without_metadata() -> None:
    error = call_error(Code.ALREADY_EXISTS, "there", ())
    assert isinstance(error, vsync.AlreadyExistsError)
    assert (error.existing_id, error.field, error.revision, error.retry_after) == ("", "", None, None)


def test_an_invalid_transition_names_both_states() -> None:
    details = status(info("INVALID_TRANSITION", **{"from": "COMPLETED", "to": "RUNNING"}))
    error = call_error(Code.FAILED_PRECONDITION, "no", details)
    assert isinstance(error, vsync.InvalidTransitionError)
    assert (error.from_state, error.to_state) == ("COMPLETED", "RUNNING")


def test_an_error_without_details_has_a_readable_text() -> None:
    assert str(call_error(Code.UNAVAILABLE, "", ())) == "the call failed (UNAVAILABLE)"


@given(st.binary())
def test_invalid_details_are_ignored(details: bytes) -> None:
    error = call_error(Code.NOT_FOUND, "no", ((STATUS_DETAILS_KEY, details),))
    assert isinstance(error, vsync.NotFoundError)
