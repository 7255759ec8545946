"""The status of a failed call (google.rpc.Status and its details)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, kw_only=True)
class RpcStatus:
    """The status of a failed call."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None
    correlation_id: str = ""
    request_id: str = ""


def read_status(
    code: grpc.StatusCode,
    message: str,
    trailing_metadata: Iterable[tuple[str, str | bytes]],
    *,
    correlation_id: str = "",
    request_id: str = "",
) -> RpcStatus:
    """Returns the status of a failed call. Details that cannot be parsed are omitted.

    `correlation_id` and `request_id` are those of the request. The server's correlation id replaces the former.
    """
    details = _Details()
    for key, value in trailing_metadata:
        if key == CORRELATION_KEY and isinstance(value, str):
            correlation_id = value
        elif key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            details = _Details.parse(value)
    return RpcStatus(
        code=code,
        message=message,
        reason=details.info.reason,
        metadata=dict(details.info.metadata),
        violations=details.violations,
        retry_after=details.retry_after,
        correlation_id=correlation_id,
        request_id=request_id,
    )


class _Details(NamedTuple):
    info: error_details_pb2.ErrorInfo = error_details_pb2.ErrorInfo()
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None

    @classmethod
    def parse(cls, serialized: bytes) -> "_Details":
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry_info = error_details_pb2.RetryInfo()
        retry_after = None
        try:
            for detail in status_pb2.Status.FromString(serialized).details:
                if detail.Unpack(retry_info):
                    retry_after = retry_info.retry_delay.seconds + retry_info.retry_delay.nanos / 1e9
                else:
                    detail.Unpack(info) or detail.Unpack(bad_request)
        except DecodeError:
            return cls()
        violations = tuple(FieldViolation(bad.field, bad.description) for bad in bad_request.field_violations)
        return cls(info, violations, retry_after)
