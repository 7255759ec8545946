"""What can go wrong for a caller: one root, and a leaf for each gRPC code that vsyncd answers with.

Every part of the service raises these; transport/error_mapping.py alone turns them into google.rpc.Status.
Messages and metadata reach callers and logs: they name fields and causes, never a value, a host or SQL.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from grpc import StatusCode


class Violation(NamedTuple):
    """One bad field of a request: its path, as the proto names it, and what it takes."""

    field: str
    description: str


class ServiceError(Exception):
    """The root. `reason` is UPPER_SNAKE_CASE for ErrorInfo; `retry_after` (seconds) becomes RetryInfo."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidArgument(ServiceError):
    """The request cannot be right, whatever is stored."""

    code = StatusCode.INVALID_ARGUMENT


class InvalidFields(InvalidArgument):
    """One or more bad fields, all of them named."""

    def __init__(self, violations: Sequence[Violation], *, reason: str = "INVALID_FIELD") -> None:
        fields = ", ".join(dict.fromkeys(violation.field for violation in violations[:5]))
        more = "" if len(violations) <= 5 else f" and {len(violations) - 5} more"
        super().__init__(reason, f"Bad value in {fields}{more}.", violations=violations)


class Unauthenticated(ServiceError):
    """The caller's credentials are missing or not accepted."""

    code = StatusCode.UNAUTHENTICATED


class NotFound(ServiceError):
    """What was named is not there."""

    code = StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """What was to be created is there already."""

    code = StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The state forbids it; a retry alone will not help."""

    code = StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """Somebody else was faster; read again, then try again."""

    code = StatusCode.ABORTED


class OutOfRange(ServiceError):
    """A position that is no longer, or not yet, there."""

    code = StatusCode.OUT_OF_RANGE


class Unavailable(ServiceError):
    """A dependency cannot serve now; a retry can help."""

    code = StatusCode.UNAVAILABLE


class ResourceExhausted(ServiceError):
    """Too much at once; a retry can help."""

    code = StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(ServiceError):
    """Time ran out. Nothing was changed, unless a commit was under way."""

    code = StatusCode.DEADLINE_EXCEEDED


class QueryTimeout(DeadlineExceeded):
    """A statement, or the call's deadline, ran out of time."""

    def __init__(self) -> None:
        super().__init__("QUERY_TIMEOUT", "The call's time ran out.")


class Unknown(ServiceError):
    """Whether the change took effect is not known."""

    code = StatusCode.UNKNOWN


class Unimplemented(ServiceError):
    """This server does not offer it."""

    code = StatusCode.UNIMPLEMENTED


class Internal(ServiceError):
    """A defect of vsyncd. The answer holds nothing of it; the log holds the error and `log_fields`."""

    code = StatusCode.INTERNAL

    def __init__(self, **log_fields: object) -> None:
        super().__init__("INTERNAL", "An internal error; the server's log has it under the correlation id.")
        self.log_fields = log_fields
