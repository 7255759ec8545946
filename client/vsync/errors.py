"""The exceptions of the client: one root, and one subclass for each cause that a caller may handle differently.

A failed call raises a subclass of CallError, made from the google.rpc.Status that vsyncd sends (ErrorInfo, BadRequest,
RetryInfo). The gRPC error is its __cause__.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

STATUS_DETAILS_KEY = "grpc-status-details-bin"
CORRELATION_KEY = "x-correlation-id"


class FieldViolation(NamedTuple):
    """An invalid field. Never contains its value."""

    field: str
    """The path in the request: record.cid, records[3].ispb."""
    description: str
    """The rule that the value breaks."""


class VsyncError(Exception):
    """The base class of the errors that this package defines."""


class FileError(VsyncError):
    """A file that cannot be used at all: its format is unknown, its header is wrong, or it is truncated."""


class MissingExtraError(VsyncError):
    """The function needs packages of an extra that is not installed. The message names the extra."""


class DiffIncompleteError(VsyncError):
    """The differences received do not match their summary: a part was lost."""


class CallError(VsyncError):
    """A failed call. This class itself is raised for status codes without a subclass."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str = "",
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
        correlation_id: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.reason = reason
        """In UPPER_SNAKE_CASE; empty if the status does not come from vsyncd."""
        self.metadata = metadata or {}
        """Details of the reason, for example existing_id with CID_EXISTS."""
        self.violations = violations
        """The invalid fields, at most 20. The metadata violations_total is the number of all."""
        self.retry_after = retry_after
        """Seconds after which a retry can succeed; None if the server sent none."""
        self.correlation_id = correlation_id
        """The id of the call in vsyncd's logs and audit entries."""
        self.request_id = request_id
        """The request_id that was sent. A repeated call with it takes effect once. Empty for reads."""

    def __str__(self) -> str:
        """Returns the message, the code, the reason and the correlation id, and one line for each invalid field."""
        parts = [self.code.name, self.reason, self.correlation_id and f"correlation id {self.correlation_id}"]
        summary = f"{self.message or 'the call failed'} ({', '.join(part for part in parts if part)})"
        return "\n".join([summary, *(f"  {name}: {rule}" for name, rule in self.violations)])


class InvalidArgumentError(CallError):
    """INVALID_ARGUMENT: the request has invalid fields."""


class RequestIdReusedError(InvalidArgumentError):
    """REQUEST_ID_REUSED: an earlier request with this request_id had different content."""


class OutOfRangeError(CallError):
    """OUT_OF_RANGE: the data that the token refers to was removed."""


class NotFoundError(CallError):
    """NOT_FOUND: the object does not exist."""


class AlreadyExistsError(CallError):
    """ALREADY_EXISTS: the object exists."""

    @property
    def existing_id(self) -> str:
        """The id of the existing object."""
        return self.metadata.get("existing_id", "")

    @property
    def field(self) -> str:
        """The field whose value exists, for example cid."""
        return self.metadata.get("field", "")

    @property
    def revision(self) -> int | None:
        """The revision of the existing object; None if the server sent none."""
        text = self.metadata.get("revision", "")
        return int(text) if text.isdecimal() else None


class PreconditionFailedError(CallError):
    """FAILED_PRECONDITION: the present state does not permit the call."""


class InvalidTransitionError(PreconditionFailedError):
    """INVALID_TRANSITION: a batch cannot change from its present state to the requested one."""

    @property
    def from_state(self) -> str:
        """The present state."""
        return self.metadata.get("from", "")

    @property
    def to_state(self) -> str:
        """The requested state."""
        return self.metadata.get("to", "")


class SchemaOutOfDateError(PreconditionFailedError):
    """SCHEMA_OUT_OF_DATE: the database lacks migrations that the server needs."""


class AbortedError(CallError):
    """ABORTED: a concurrent change prevented the call."""


class RevisionMismatchError(AbortedError):
    """REVISION_MISMATCH: the record changed after it was read. Read it again."""


class ContentionError(AbortedError):
    """CONTENTION: concurrent transactions conflicted, also after retries. Try again."""


class UnavailableError(CallError):
    """UNAVAILABLE: the server or its database cannot be reached. Try again after retry_after."""


class ReadOnlyModeError(UnavailableError):
    """READ_ONLY_MODE: only replicas answer. Reads work, mutations do not."""


class ResourceExhaustedError(CallError):
    """RESOURCE_EXHAUSTED: a limit was exceeded, for example the size of a message."""


class OverloadedError(ResourceExhaustedError):
    """OVERLOADED: the server has too many concurrent calls. Try again after retry_after."""


class QuotaExceededError(OverloadedError):
    """QUOTA_EXCEEDED: this caller has too many concurrent calls or streams. Try again after retry_after, with fewer."""


class DeadlineExceededError(CallError):
    """DEADLINE_EXCEEDED: the deadline expired. A mutation with a request_id can safely be repeated."""


class CommitUnknownError(CallError):
    """COMMIT_UNKNOWN: the connection broke during the commit of a mutation without a request_id."""


class CallCancelledError(CallError):
    """CANCELLED: the call was cancelled."""


class UnauthenticatedError(CallError):
    """UNAUTHENTICATED: credentials are missing or invalid."""


class PermissionDeniedError(CallError):
    """PERMISSION_DENIED: the caller is not permitted to make this call."""


class UnimplementedError(CallError):
    """UNIMPLEMENTED: the server is older than this client, or is not vsyncd."""


class ServerError(CallError):
    """INTERNAL, UNKNOWN or DATA_LOSS: the server failed."""


_BY_CODE: Mapping[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailedError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.DATA_LOSS: ServerError,
}

_BY_REASON: Mapping[tuple[grpc.StatusCode, str], type[CallError]] = {
    (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"): RequestIdReusedError,
    (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_TRANSITION"): InvalidTransitionError,
    (grpc.StatusCode.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE"): SchemaOutOfDateError,
    (grpc.StatusCode.ABORTED, "REVISION_MISMATCH"): RevisionMismatchError,
    (grpc.StatusCode.ABORTED, "CONTENTION"): ContentionError,
    (grpc.StatusCode.UNAVAILABLE, "READ_ONLY_MODE"): ReadOnlyModeError,
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"): OverloadedError,
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"): QuotaExceededError,
    (grpc.StatusCode.UNKNOWN, "COMMIT_UNKNOWN"): CommitUnknownError,
}


def error_class(code: grpc.StatusCode, reason: str = "") -> type[CallError]:
    """Returns the most specific exception for a status."""
    return _BY_REASON.get((code, reason)) or _BY_CODE.get(code, CallError)


def call_error(
    code: grpc.StatusCode,
    message: str,
    trailing_metadata: Iterable[tuple[str, str | bytes]],
    *,
    correlation_id: str = "",
    request_id: str = "",
) -> CallError:
    """Returns the exception for the status of a failed call. Details that cannot be parsed are omitted.

    `correlation_id` and `request_id` are those of the request. The server's correlation id replaces the former.
    """
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry_info = error_details_pb2.RetryInfo()
    for key, value in trailing_metadata:
        if key == CORRELATION_KEY and isinstance(value, str):
            correlation_id = value
        elif key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):
                for detail in status_pb2.Status.FromString(value).details:
                    detail.Unpack(info) or detail.Unpack(bad_request) or detail.Unpack(retry_info)
    delay = retry_info.retry_delay
    return error_class(code, info.reason)(
        code,
        message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=tuple(FieldViolation(bad.field, bad.description) for bad in bad_request.field_violations),
        retry_after=delay.seconds + delay.nanos / 1e9 if retry_info.HasField("retry_delay") else None,
        correlation_id=correlation_id,
        request_id=request_id,
    )
