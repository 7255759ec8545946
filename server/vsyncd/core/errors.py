"""The errors that callers get: one root class, and a subclass for each gRPC status code.

Any layer raises them. Only transport/error_mapping.py converts them to google.rpc.Status. Messages and metadata reach
callers and logs: they contain field names and causes, but no values, host names or SQL.
"""

from collections.abc import Mapping, Sequence
from random import uniform
from typing import ClassVar, NamedTuple

from grpc import StatusCode


class Violation(NamedTuple):
    """An invalid field of a request: its path in the proto, and what a valid value is."""

    field: str
    description: str


class ServiceError(Exception):
    """The root class. `reason` (UPPER_SNAKE_CASE) goes into ErrorInfo, `retry_after` (seconds) into RetryInfo."""

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
    """The request is invalid in any state of the database."""

    code = StatusCode.INVALID_ARGUMENT


class InvalidFields(InvalidArgument):
    """One or more fields are invalid."""

    def __init__(self, violations: Sequence[Violation], *, reason: str = "INVALID_FIELD") -> None:
        fields = ", ".join(dict.fromkeys(violation.field for violation in violations[:5]))
        more = "" if len(violations) <= 5 else f" and {len(violations) - 5} more"
        super().__init__(reason, f"Bad value in {fields}{more}.", violations=violations)


class Unauthenticated(ServiceError):
    """The caller's credentials are missing or invalid."""

    code = StatusCode.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The caller is known, and may not do this."""

    code = StatusCode.PERMISSION_DENIED


class NotFound(ServiceError):
    """The named record does not exist."""

    code = StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """The record exists already."""

    code = StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The state of the record or of the server forbids it. A retry alone does not help."""

    code = StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """A concurrent change won. The caller should read again and retry."""

    code = StatusCode.ABORTED


class OutOfRange(ServiceError):
    """A position that no longer exists, or does not exist yet."""

    code = StatusCode.OUT_OF_RANGE


class Unavailable(ServiceError):
    """A dependency is unavailable. A retry can help."""

    code = StatusCode.UNAVAILABLE


class ResourceExhausted(ServiceError):
    """A limit is reached. A retry can help."""

    code = StatusCode.RESOURCE_EXHAUSTED


class Overloaded(ResourceExhausted):
    """The calls in flight are too many or too large. The random delay spreads the retries."""

    def __init__(self) -> None:
        super().__init__("OVERLOADED", "Too many concurrent calls.", retry_after=uniform(0.2, 1.0))  # noqa: S311  no secret


class DeadlineExceeded(ServiceError):
    """The deadline has passed. Nothing was changed, unless a commit was in progress."""

    code = StatusCode.DEADLINE_EXCEEDED


class QueryTimeout(DeadlineExceeded):
    """A statement's timeout or the call's deadline has passed."""

    def __init__(self) -> None:
        super().__init__("QUERY_TIMEOUT", "The deadline or the statement timeout has passed.")


class Unknown(ServiceError):
    """It is unknown whether the change took effect."""

    code = StatusCode.UNKNOWN


class Internal(ServiceError):
    """A defect of vsyncd. The log contains the error and `log_fields`; the answer contains neither."""

    code = StatusCode.INTERNAL

    def __init__(self, **log_fields: object) -> None:
        super().__init__("INTERNAL", "Internal error. The server's log has the details, with the correlation id.")
        self.log_fields = log_fields
