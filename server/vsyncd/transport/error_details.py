"""google.rpc.Status with details (AIP-193), at most 4 KiB: larger trailers break clients in Java."""

from typing import Final

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from vsyncd.core.errors import ServiceError

DOMAIN: Final = "vsyncd"
MAX_BYTES: Final = 4096
MAX_VIOLATIONS: Final = 20


def status_of(failure: ServiceError) -> status_pb2.Status:
    """The status for a failure: ErrorInfo always, BadRequest with the first violations, RetryInfo when known."""
    violations = failure.violations[:MAX_VIOLATIONS]
    status = _assemble(failure, len(violations))
    while status.ByteSize() > MAX_BYTES and violations:
        violations = violations[:-1]
        status = _assemble(failure, len(violations))
    return status


def _assemble(failure: ServiceError, violations: int) -> status_pb2.Status:
    metadata = dict(failure.metadata)
    if failure.violations:
        metadata["violations_total"] = str(len(failure.violations))
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=metadata)
    ]
    if failure.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in failure.violations[:violations]
                ]
            )
        )
    if failure.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(failure.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=failure.code.value[0], message=failure.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
