"""google.rpc.Status of errors: complete, and at most 4 KiB."""

from google.rpc import error_details_pb2
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.core.errors import InvalidFields, NotFound, Unavailable, Violation
from vsyncd.transport.error_mapping import MAX_BYTES, MAX_VIOLATIONS, status_of

from tests.harness.cids import unpacked


def test_the_status_has_reason_metadata_and_retry_delay() -> None:
    status = status_of(Unavailable("POOL_EXHAUSTED", "No connection.", metadata={"a": "b"}, retry_after=0.25))
    info = unpacked(status, error_details_pb2.ErrorInfo())
    assert (status.code, status.message) == (StatusCode.UNAVAILABLE.value[0], "No connection.")
    assert (info.reason, info.domain, dict(info.metadata)) == ("POOL_EXHAUSTED", "vsyncd", {"a": "b"})
    assert unpacked(status, error_details_pb2.RetryInfo()).retry_delay.ToMilliseconds() == 250


def test_the_status_has_only_known_details() -> None:
    assert len(status_of(NotFound("CID_NOT_FOUND", "There is no such record.")).details) == 1


@given(st.lists(st.builds(Violation, st.text(max_size=300), st.text(max_size=500)), min_size=1, max_size=60))
def test_the_status_has_as_many_violations_as_fit_and_their_total(violations: list[Violation]) -> None:
    status = status_of(InvalidFields(violations))
    assert status.ByteSize() <= MAX_BYTES or not unpacked(status, error_details_pb2.BadRequest()).field_violations
    told = unpacked(status, error_details_pb2.BadRequest()).field_violations
    assert [Violation(one.field, one.description) for one in told] == violations[: len(told)]
    assert len(told) <= MAX_VIOLATIONS
    total = unpacked(status, error_details_pb2.ErrorInfo()).metadata["violations_total"]
    assert total == str(len(violations))
