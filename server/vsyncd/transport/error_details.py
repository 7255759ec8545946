"""Creates google.rpc.Status with details (AIP-193), at most 4 KiB: larger trailers break Java clients."""

from typing import Final

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from vsyncd.core.errors import ServiceError

DOMAIN: Final = "vsyncd"
MAX_BYTES: Final = 4096
MAX_VIOLATIONS: Final = 20


def status_of(error: ServiceError) -> status_pb2.Status:
    """Returns the status of an error: ErrorInfo, and BadRequest and RetryInfo if it has violations or `retry_after`."""
    violations = error.violations[:MAX_VIOLATIONS]
    status = _assemble(error, len(violations))
    while status.ByteSize() > MAX_BYTES and violations:
        violations = violations[:-1]
        status = _assemble(error, len(violations))
    return status


def _assemble(error: ServiceError, violations: int) -> status_pb2.Status:
    metadata = dict(error.metadata)
    if error.violations:
        metadata["violations_total"] = str(len(error.violations))
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in error.violations[:violations]
                ]
            )
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
