"""Helpers for tests of shadow evaluations: evaluations, and recorded writes of many callers."""

import asyncio
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from vsync.shadow.v1 import shadow_pb2 as pb
from vsync.shadow.v1 import shadow_pb2_grpc
from vsyncd.core.ids import ceiling_at, new_id

from tests.harness.cids import a_request_id, rows
from tests.harness.clusters import Database
from tests.harness.recorded_writes import TRANSIENT_ERRORS, AnyWrite, ConcurrentCallers

Stub: TypeAlias = "shadow_pb2_grpc.ShadowServiceAsyncStub"
CANDIDATE = pb.Candidate(name="limits", version="2.0")


def struct(value: dict[str, Any]) -> Struct:
    """Returns a Struct."""
    message = Struct()
    message.update(value)
    return message


def id_at(at: datetime, number: int) -> UUID:
    """Returns the id of version 7 with this time and number."""
    return UUID(int=ceiling_at(at).int | 7 << 76 | 1 << 63 | number)


def an_evaluation(
    primary: dict[str, Any] | None = None, shadow: dict[str, Any] | None = None, **changes: Any
) -> pb.Evaluation:
    """Returns an evaluation with a new id. Without results, both are equal. `changes` replace fields."""
    primary = {"limit": 100, "items": [1, 2]} if primary is None else primary
    fields: dict[str, Any] = {
        "evaluation_id": str(new_id()),
        "candidate": CANDIDATE,
        "input_fingerprint": "0f" * 32,
        "primary_result": struct(primary),
        "shadow_result": struct(primary if shadow is None else shadow),
        "primary_latency": timedelta(milliseconds=1),
        "shadow_latency": timedelta(milliseconds=2),
    }
    return pb.Evaluation(**fields | changes)


def around_now(days: int = 1) -> dict[str, Any]:
    """Returns a time range for a request: this number of days before and after now."""
    now, length = datetime.now(UTC), timedelta(days=days)
    return between(now - length, now + length)


def between(begin: datetime, end: datetime) -> dict[str, Any]:
    """Returns a time range for a request."""
    return {"evaluated_after": begin, "evaluated_before": end}


async def search_all(shadow: Stub, **wanted: Any) -> list[list[pb.Evaluation]]:
    """Returns every page of a search."""
    request = pb.SearchEvaluationsRequest(**around_now() | wanted)
    pages = []
    while True:
        answer = await shadow.SearchEvaluations(request)
        pages.append(list(answer.evaluations))
        if not answer.next_page_token:
            return pages
        request.page_token = answer.next_page_token


@dataclass(kw_only=True)
class EvaluationWrite(AnyWrite):
    """A write of evaluations with these ids."""

    ids: Sequence[str]


@dataclass
class RecordedEvaluations(ConcurrentCallers):
    """Evaluations that concurrent callers record, alone and in batches."""

    writes: list[EvaluationWrite] = field(default_factory=list)
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    async def keep_writing(self) -> None:
        """Records evaluations until the callers are stopped."""
        for count in itertools.cycle((1, 1, 1, 5)):
            if self.stopped:
                return
            await self.write_until_acknowledged(self.recording(count))

    def recording(self, count: int) -> EvaluationWrite:
        """Returns a write with new evaluations, of which every third diverged."""
        evaluations = [
            an_evaluation(shadow={"limit": 101, "items": [1, 2]} if next(self._count) % 3 == 0 else None)
            for _ in range(count)
        ]
        request_id = a_request_id()
        request: Any = (
            pb.RecordEvaluationRequest(evaluation=evaluations[0], request_id=request_id)
            if count == 1
            else pb.RecordEvaluationsRequest(evaluations=evaluations, request_id=request_id)
        )
        method = "RecordEvaluation" if count == 1 else "RecordEvaluations"
        ids = [evaluation.evaluation_id for evaluation in evaluations]
        write = EvaluationWrite(method=method, request=request, request_id=request_id, ids=ids)
        self.writes.append(write)
        return write

    def check(self, database: Database, *, allowed: Collection[str] = TRANSIENT_ERRORS) -> None:
        """Verifies the effects of all writes, and that the rollups are those of the rows."""
        self.check_errors(allowed)
        stored = {str(row["id"]) for row in rows(database, "SELECT evaluation_id AS id FROM vsync.evaluations")}
        audited = rows(database, "SELECT correlation_id AS id, count(*) AS n FROM vsync.audit_logs GROUP BY 1")
        entries = {row["id"]: row["n"] for row in audited}
        for write in self.writes:
            there = [evaluation_id in stored for evaluation_id in write.ids]
            assert all(there) or not any(there), f"partial effect: {write.method}"
            assert all(there) or not write.acknowledged, f"acknowledged and lost: {write.method}"
            assert entries.pop(write.request_id, 0) == all(there), f"took effect twice: {write.method}"
            stored -= set(write.ids)
        assert (stored, entries) == (set(), {}), "an effect without a write"
        (difference,) = rows(database, _DIFFERENCE)
        assert difference == {"evaluations": 0, "diverged": 0}


_DIFFERENCE = """
    SELECT (SELECT count(*) FROM vsync.evaluations) - coalesce(sum(evaluations), 0)::bigint AS evaluations,
           (SELECT count(*) FROM vsync.evaluations WHERE diverged) - coalesce(sum(diverged), 0)::bigint AS diverged
    FROM vsync.evaluation_hours"""


async def record_all(shadow: Stub, evaluations: Sequence[pb.Evaluation]) -> None:
    """Records evaluations in batches."""
    for at in range(0, len(evaluations), 1_000):
        await shadow.RecordEvaluations(pb.RecordEvaluationsRequest(evaluations=evaluations[at : at + 1_000]))


async def record_each(shadow: Stub, evaluations: Sequence[pb.Evaluation]) -> list[pb.RecordEvaluationResponse]:
    """Records evaluations by concurrent calls."""
    return list(
        await asyncio.gather(
            *(shadow.RecordEvaluation(pb.RecordEvaluationRequest(evaluation=each)) for each in evaluations)
        )
    )
