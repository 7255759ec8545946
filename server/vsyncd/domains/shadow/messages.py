"""Reads and validates the messages of shadow.proto, and builds messages from records."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from vsync.shadow.v1 import shadow_pb2 as pb

from vsyncd.core.ids import id_range, new_id, time_of
from vsyncd.core.structs import Json, UnfitStruct, plain_object, struct_of
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import NO_ID, Validator
from vsyncd.domains.shadow.divergence import canonical_text, differing_paths, stored_bytes
from vsyncd.domains.shadow.records import (
    MAX_LATENCY_S,
    MAX_NAME_CHARS,
    MAX_PATHS,
    MAX_RESULT_BYTES,
    Candidate,
    DivergenceSummary,
    Evaluation,
    EvaluationFilter,
    NewEvaluation,
    RecordedEvaluation,
)

MAX_RANGE: Final = timedelta(days=31)
_HOUR: Final = timedelta(hours=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_UUID_VERSION: Final = 7
_FINGERPRINT_FORM = re.compile(r"[0-9a-fA-F]{64}").fullmatch


class Reader:
    """Reads messages. `tolerance` is the largest difference between equal numbers."""

    def __init__(self, *, tolerance: float) -> None:
        self._tolerance = tolerance

    def evaluation(self, validator: Validator, field: str, message: pb.Evaluation) -> NewEvaluation:
        """Reads a new evaluation and compares its results. `field` is its path in the request."""
        evaluation_id = _evaluation_id(validator, f"{field}.evaluation_id", message.evaluation_id)
        candidate = read_candidate(validator, f"{field}.candidate", message)
        fingerprint = _fingerprint(validator, f"{field}.input_fingerprint", message.input_fingerprint)
        primary, primary_text = _result(validator, f"{field}.primary_result", message, "primary_result")
        shadow, shadow_text = _result(validator, f"{field}.shadow_result", message, "shadow_result")
        paths = list(differing_paths(primary, shadow, tolerance=self._tolerance))
        return NewEvaluation(
            evaluation_id=evaluation_id,
            candidate=candidate,
            input_fingerprint=fingerprint,
            primary_result=primary_text,
            shadow_result=shadow_text,
            primary_latency_us=_latency(validator, f"{field}.primary_latency", message, "primary_latency"),
            shadow_latency_us=_latency(validator, f"{field}.shadow_latency", message, "shadow_latency"),
            differing_path_count=len(paths),
            differing_paths=paths[:MAX_PATHS],
        )


def content_of(new: NewEvaluation, message: pb.Evaluation) -> tuple[object, ...]:
    """Returns the fields of the caller, for the fingerprint of a request."""
    return (message.evaluation_id.lower(), *new[1:7])


def read_candidate(validator: Validator, field: str, message: Any) -> Candidate:  # noqa: ANN401  messages with a candidate
    """Reads the required candidate of a message."""
    if not message.HasField("candidate"):
        validator.add(field, "is required")
        return Candidate("", "")
    return Candidate(
        name=validator.text(f"{field}.name", message.candidate.name, max_chars=MAX_NAME_CHARS),
        version=validator.text(f"{field}.version", message.candidate.version, max_chars=MAX_NAME_CHARS),
    )


def read_filter(validator: Validator, request: pb.SearchEvaluationsRequest) -> EvaluationFilter:
    """Reads the filter of a search."""
    from_id, below_id = id_range(*_range(validator, request))
    return EvaluationFilter(
        candidate=read_candidate(validator, "candidate", request) if request.HasField("candidate") else None,
        from_id=from_id,
        below_id=below_id,
        diverged=request.diverged if request.HasField("diverged") else None,
        primary_part=_part(validator, request, "primary_contains"),
        shadow_part=_part(validator, request, "shadow_contains"),
    )


def read_hours(validator: Validator, request: pb.GetDivergenceSummaryRequest) -> tuple[datetime, datetime]:
    """Reads the range of a summary, extended to whole hours."""
    begin, end = _range(validator, request)
    return _hour_of(begin), max(_hour_of(end - _MICROSECOND) + _HOUR, _hour_of(begin))


def new_message(sent: pb.Evaluation, new: NewEvaluation) -> pb.Evaluation:
    """Returns the message of an evaluation that was stored now."""
    return pb.Evaluation(
        evaluation_id=str(new.evaluation_id),
        candidate=sent.candidate,
        input_fingerprint=new.input_fingerprint.hex(),
        primary_result=sent.primary_result,
        shadow_result=sent.shadow_result,
        primary_latency=_duration(new.primary_latency_us),
        shadow_latency=_duration(new.shadow_latency_us),
        diverged=new.differing_path_count > 0,
        differing_paths=new.differing_paths,
        differing_path_count=new.differing_path_count,
        evaluated_at=timestamp(time_of(new.evaluation_id)),
    )


def message_of(stored: Evaluation) -> pb.Evaluation:
    """Returns the message of a stored evaluation."""
    return pb.Evaluation(
        evaluation_id=str(stored.evaluation_id),
        candidate=pb.Candidate(name=stored.candidate_name, version=stored.candidate_version),
        input_fingerprint=stored.input_fingerprint.hex(),
        primary_result=struct_of(stored.primary_result),
        shadow_result=struct_of(stored.shadow_result),
        primary_latency=_duration(stored.primary_latency_us),
        shadow_latency=_duration(stored.shadow_latency_us),
        diverged=stored.diverged,
        differing_paths=stored.differing_paths,
        differing_path_count=stored.differing_path_count,
        evaluated_at=timestamp(stored.evaluated_at),
    )


def recorded_message(result: RecordedEvaluation) -> pb.RecordedEvaluation:
    """Returns what became of an element of a batch."""
    return pb.RecordedEvaluation(
        evaluation_id=str(result.evaluation_id), recorded=result.recorded, diverged=result.diverged
    )


def summary_message(summary: DivergenceSummary, begin: datetime, end: datetime) -> pb.GetDivergenceSummaryResponse:
    """Returns the answer with a summary."""
    count = summary.evaluations
    return pb.GetDivergenceSummaryResponse(
        begins_at=timestamp(begin),
        ends_at=timestamp(end),
        evaluations=count,
        diverged=summary.diverged,
        divergence_rate=summary.diverged / count if count else 0.0,
        paths=[pb.PathCount(path=path, evaluations=times) for path, times in summary.paths],
        other_differences=summary.other_differences,
        primary_latency=_quantiles(summary.primary_latencies_us) if count else None,
        shadow_latency=_quantiles(summary.shadow_latencies_us) if count else None,
    )


def _quantiles(latencies_us: Sequence[int]) -> pb.LatencyQuantiles:
    p50, p90, p95, p99 = map(_duration, latencies_us)
    return pb.LatencyQuantiles(p50=p50, p90=p90, p95=p95, p99=p99)


def _duration(microseconds: int) -> Any:  # noqa: ANN401  as for timestamp()
    """Returns a value for a Duration field in a message's constructor."""
    return {"seconds": microseconds // 1_000_000, "nanos": microseconds % 1_000_000 * 1_000}


def _evaluation_id(validator: Validator, field: str, value: str) -> UUID:
    """Returns the id, or a new one for an empty text."""
    if not value:
        return new_id()
    found = validator.uuid(field, value)
    if found is not NO_ID and found.version != _UUID_VERSION:
        validator.add(field, "must be a UUID of version 7, or empty")
    return found


def _fingerprint(validator: Validator, field: str, value: str) -> bytes:
    if _FINGERPRINT_FORM(value) is None:
        validator.add(field, "must be 64 hexadecimal digits")
        return b""
    return bytes.fromhex(value)


def _result(validator: Validator, path: str, message: pb.Evaluation, name: str) -> tuple[dict[str, Json], str]:
    """Returns a result and its canonical text, or an empty one if it is invalid."""
    if not message.HasField(name):  # type: ignore[arg-type]  # a name of a field
        validator.add(path, "is required")
        return {}, "{}"
    try:
        value = plain_object(getattr(message, name))
    except UnfitStruct as unfit:
        validator.add(path, str(unfit))
        return {}, "{}"
    text = canonical_text(value)
    if stored_bytes(value, text) > MAX_RESULT_BYTES:
        validator.add(path, f"must have at most {MAX_RESULT_BYTES:,} bytes as JSON")
    return value, text


def _latency(validator: Validator, path: str, message: pb.Evaluation, name: str) -> int:
    if not message.HasField(name):  # type: ignore[arg-type]  # a name of a field
        validator.add(path, "is required")
        return 0
    return validator.duration(path, getattr(message, name), min_seconds=0, max_seconds=MAX_LATENCY_S) // _MICROSECOND


def _range(validator: Validator, request: Message) -> tuple[datetime, datetime]:
    begin, end = validator.time_range(
        "", request, "evaluated_after", "evaluated_before", required=True, max_length=MAX_RANGE
    )
    if begin is None or end is None:
        raise AssertionError("the times are required")
    return begin, end


def _hour_of(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def _part(validator: Validator, request: pb.SearchEvaluationsRequest, name: str) -> str | None:
    """Returns the canonical text of what a result must contain, or None if it is not set."""
    if not request.HasField(name):  # type: ignore[arg-type]  # a name of a field
        return None
    part: Struct = getattr(request, name)
    try:
        value = plain_object(part)
    except UnfitStruct as unfit:
        validator.add(name, str(unfit))
        return None
    if not _has_value(value):
        validator.add(name, "must have at least one value besides objects and lists")
    text = canonical_text(value)
    if stored_bytes(value, text) > MAX_RESULT_BYTES:
        validator.add(name, f"must have at most {MAX_RESULT_BYTES:,} bytes as JSON")
    return text


def _has_value(value: Json) -> bool:
    """Whether there is a value that the index of contents can find."""
    if isinstance(value, dict):
        return any(map(_has_value, value.values()))
    if isinstance(value, list):
        return any(map(_has_value, value))
    return True
