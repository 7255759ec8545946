"""What can go wrong, as exceptions: one root, a leaf for each cause that a caller may want to tell apart.

A call that fails raises a leaf of CallError, made from the google.rpc.Status that vsyncd sends (ErrorInfo, BadRequest,
RetryInfo). The gRPC error stays as __cause__.
"""
# ruff: noqa: N818 - the leaves are named after what happened; "Error" behind each would say nothing more

from collections.abc import Mapping

import grpc

from vsync.rpc_status import RpcStatus, Violation


class VsyncError(Exception):
    """The root of every error that this package raises on its own account."""


class FileError(VsyncError):
    """A file that cannot be read or written as a whole: its format is unknown, its header is wrong, it is cut off."""


class DifferencesIncomplete(VsyncError):
    """What came of a comparison is not what its summary is of: something was lost on the way."""


class CallError(VsyncError):
    """A call that failed. The leaves say how; this class itself stands for codes without a leaf."""

    def __init__(self, failure: RpcStatus) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        """One line: the message, then what to quote when asking for help."""
        parts = [self.code.name, self.reason]
        if self.correlation_id:
            parts.append(f"correlation id {self.correlation_id}")
        return f"{self.failure.message or 'the call failed'} ({', '.join(part for part in parts if part)})"

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code."""
        return self.failure.code

    @property
    def reason(self) -> str:
        """What happened, in UPPER_SNAKE_CASE; empty when the answer did not come from vsyncd."""
        return self.failure.reason

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the reason comes with, e.g. existing_id with CID_EXISTS."""
        return self.failure.metadata

    @property
    def correlation_id(self) -> str:
        """The id under which vsyncd logged the call and wrote its audit entry."""
        return self.failure.correlation_id

    @property
    def request_id(self) -> str:
        """The request_id that was sent: repeat the call with it, and it takes effect once. Empty for reads."""
        return self.failure.request_id

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a retry can help; None when nothing was said."""
        return self.failure.retry_after


class InvalidArgument(CallError):
    """A bad request: INVALID_ARGUMENT."""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """The bad fields, at most the first 20; see violations_total in the metadata."""
        return self.failure.violations

    def __str__(self) -> str:
        """The bad fields, one a line, below the message."""
        return "\n".join([super().__str__(), *(f"  {name}: {takes}" for name, takes in self.violations)])


class RequestIdReused(InvalidArgument):
    """The same request_id came with other content before: REQUEST_ID_REUSED."""


class OutOfRange(CallError):
    """A token that points where nothing is any more: OUT_OF_RANGE."""


class NotFound(CallError):
    """It is not there: NOT_FOUND."""


class AlreadyExists(CallError):
    """It is there already: ALREADY_EXISTS."""

    @property
    def existing_id(self) -> str:
        """The id of what is there."""
        return self.metadata.get("existing_id", "")

    @property
    def field(self) -> str:
        """The field that clashes, e.g. cid."""
        return self.metadata.get("field", "")

    @property
    def revision(self) -> int | None:
        """The revision of what is there; None when nothing was said."""
        text = self.metadata.get("revision", "")
        return int(text) if text.isdecimal() else None


class PreconditionFailed(CallError):
    """The present state forbids it: FAILED_PRECONDITION."""


class InvalidTransition(PreconditionFailed):
    """A batch cannot go from where it is to where it was asked to: INVALID_TRANSITION."""

    @property
    def from_state(self) -> str:
        """The present state."""
        return self.metadata.get("from", "")

    @property
    def to_state(self) -> str:
        """The state asked for."""
        return self.metadata.get("to", "")


class SchemaOutOfDate(PreconditionFailed):
    """The database is not migrated to what the server needs: SCHEMA_OUT_OF_DATE."""


class Aborted(CallError):
    """Someone else was faster: ABORTED."""


class RevisionMismatch(Aborted):
    """The record was changed since it was read: REVISION_MISMATCH. Read it again."""


class Contention(Aborted):
    """Concurrent transactions were in each other's way, also after retries: CONTENTION. Try again."""


class Unavailable(CallError):
    """The server, or its database, cannot be reached now: UNAVAILABLE. Try again after retry_after."""


class ReadOnlyMode(Unavailable):
    """Only replicas answer: reads work, mutations do not: READ_ONLY_MODE."""


class ResourceExhausted(CallError):
    """Too much of something, e.g. a message past its limit: RESOURCE_EXHAUSTED."""


class Overloaded(ResourceExhausted):
    """Too many calls at once: OVERLOADED. Try again after retry_after."""


class DeadlineExceeded(CallError):
    """The call's time ran out: DEADLINE_EXCEEDED. With a request_id it is safe to call again."""


class CommitUnknown(CallError):
    """The connection broke during the commit and there was no request_id: whether it took effect is not known."""


class Cancelled(CallError):
    """The call was cancelled: CANCELLED."""


class Unauthenticated(CallError):
    """The server does not know who calls: UNAUTHENTICATED."""


class PermissionDenied(CallError):
    """The caller may not do this: PERMISSION_DENIED."""


class Unimplemented(CallError):
    """The server is older than this client, or something else answers at the address: UNIMPLEMENTED."""


class ServerFault(CallError):
    """The server failed for a reason of its own: INTERNAL, UNKNOWN or DATA_LOSS."""


_BY_CODE: Mapping[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: ServerFault,
    grpc.StatusCode.UNKNOWN: ServerFault,
    grpc.StatusCode.DATA_LOSS: ServerFault,
}

_BY_REASON: Mapping[tuple[grpc.StatusCode, str], type[CallError]] = {
    (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"): RequestIdReused,
    (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_TRANSITION"): InvalidTransition,
    (grpc.StatusCode.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE"): SchemaOutOfDate,
    (grpc.StatusCode.ABORTED, "REVISION_MISMATCH"): RevisionMismatch,
    (grpc.StatusCode.ABORTED, "CONTENTION"): Contention,
    (grpc.StatusCode.UNAVAILABLE, "READ_ONLY_MODE"): ReadOnlyMode,
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"): Overloaded,
    (grpc.StatusCode.UNKNOWN, "COMMIT_UNKNOWN"): CommitUnknown,
}


def error_of(failure: RpcStatus) -> CallError:
    """The narrowest exception for a failure."""
    leaf = _BY_REASON.get((failure.code, failure.reason)) or _BY_CODE.get(failure.code, CallError)
    return leaf(failure)
