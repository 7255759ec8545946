"""Stores shadow evaluations, and reads them and their rollups."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from vsyncd.core.errors import AlreadyExists, InvalidFields, NotFound, Violation
from vsyncd.core.ids import time_of
from vsyncd.domains.shadow.divergence import canonical_text, normal_form
from vsyncd.domains.shadow.records import Candidate, DivergenceSummary, Evaluation, NewEvaluation, RecordedEvaluation
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import Contention
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, replay_by
from vsyncd.postgres.queries import Queries, Session, queries
from vsyncd.postgres.single_statement import Change, SingleStatement

# The columns of a new row that the caller or the service provides.
_NEW_COLUMNS: Final = (
    "evaluation_id uuid, candidate_name text, candidate_version text, input_fingerprint bytea, primary_result text,"
    " shadow_result text, primary_latency_us bigint, shadow_latency_us bigint, differing_path_count integer,"
    " differing_paths text[]"
)
# Maintenance keeps a partition for yesterday and for the next months.
_MAX_AGE: Final = timedelta(hours=24)
_MAX_AHEAD: Final = timedelta(minutes=10)
_AGE_RULE: Final = "must be a UUID v7 with a time from 24 hours ago to 10 minutes ahead"
# The answer of a repeated request: the id and flags.
_ID_BYTES: Final = 16
_ANSWER_BYTES: Final = _ID_BYTES + 1


def evaluation_queries(schema: str) -> Queries:
    """Returns the queries of this domain."""
    columns = ", ".join(Evaluation._fields)
    return queries("vsyncd.domains.shadow", schema, columns=columns, new_columns=_NEW_COLUMNS)


class EvaluationRepository:
    """The tables evaluations and evaluation_rollups."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = evaluation_queries(database.schema)
        self._single_record = SingleStatement(
            database,
            self._queries["record"],
            columns=_NEW_COLUMNS,
            key="evaluation_id",
            coalesce="record_evaluation",
        )

    async def record(self, mutation: Mutation, new: NewEvaluation) -> RecordedEvaluation:
        """Stores an evaluation. Raises AlreadyExists (EVALUATION_DIFFERS). Concurrent calls share a statement."""

        async def work(session: Session) -> Outcome[RecordedEvaluation]:
            [result] = await self._record(session, [new], is_batch=False)
            return Outcome(result, _answer(result), _payload(new), changed=result.recorded)

        async def replay(session: Session, answer: bytes) -> RecordedEvaluation:
            result = _recorded(answer)
            return result._replace(stored=await self._get(session, result.evaluation_id))

        async def otherwise() -> RecordedEvaluation:
            return await self._mutations.execute(mutation, work, replay)

        if not _is_accepted(new.evaluation_id):
            return await otherwise()
        result = _result(new, None)
        change = Change(mutation, _row(new), _answer(result), _payload(new))
        return await self._single_record.execute(change, result, otherwise)

    async def record_many(self, mutation: Mutation, new: Sequence[NewEvaluation]) -> list[RecordedEvaluation]:
        """Stores all evaluations or none. Raises AlreadyExists (EVALUATION_DIFFERS) with the index."""

        async def work(session: Session) -> Outcome[list[RecordedEvaluation]]:
            results = await self._record(session, new, is_batch=True)
            recorded = [each for each in results if each.recorded]
            payload = {
                "evaluations": len(new),
                "recorded": len(recorded),
                "diverged": sum(each.diverged for each in recorded),
            }
            return Outcome(results, b"".join(map(_answer, results)), payload, changed=bool(recorded))

        def decode(answer: bytes) -> list[RecordedEvaluation]:
            return [_recorded(answer[at : at + _ANSWER_BYTES]) for at in range(0, len(answer), _ANSWER_BYTES)]

        return await self._mutations.execute(mutation, work, replay_by(decode))

    async def get(self, evaluation_id: UUID) -> Evaluation:
        """Returns an evaluation. Raises NotFound (EVALUATION_NOT_FOUND)."""
        return await self._database.read(lambda session: self._get(session, evaluation_id), ReadMode.PRIMARY_PREFERRED)

    async def get_many(self, evaluation_ids: Sequence[UUID]) -> list[Evaluation]:
        """Returns the evaluations with these ids, newest first."""

        async def work(session: Session) -> list[Evaluation]:
            return await self._get_many(session, evaluation_ids)

        found = await self._database.read(work, ReadMode.REPLICA_PREFERRED)
        if len(found) < len(evaluation_ids):
            # Another replica than that of the search may lag.
            found = await self._database.read(work)
        return found

    async def summary(
        self, candidate: Candidate, begin: datetime, end: datetime, *, max_paths: int
    ) -> DivergenceSummary:
        """Sums up the whole hours from `begin` (inclusive) to `end` (exclusive)."""
        parameters = {**candidate._asdict(), "begin": begin, "end": end, "max_paths": max_paths}
        query = self._queries["summary"]
        row = await self._database.read(lambda session: session.single(query, parameters), ReadMode.REPLICA_PREFERRED)
        evaluations, diverged, primary, shadow, paths, counts, others = row
        return DivergenceSummary(evaluations, diverged, primary, shadow, list(zip(paths, counts, strict=True)), others)

    async def fold_rollups(self) -> int:
        """Adds the deltas of the rollups to the folded rows. Returns the number of deltas."""
        row = await self._database.transaction(lambda session: session.single(self._queries["fold"]), repeatable=True)
        return int(row[0])

    async def _record(
        self, session: Session, new: Sequence[NewEvaluation], *, is_batch: bool
    ) -> list[RecordedEvaluation]:
        """Inserts the evaluations that do not exist, and compares the others with the stored ones."""
        rows = [_row(each) for each in new if _is_accepted(each.evaluation_id)]
        inserted: set[UUID] = set()
        if rows:
            parameters = {"rows": json.dumps(rows, default=str)}
            inserted = {row[0] for row in await session.all(self._queries["record_many"], parameters)}
        others = [each.evaluation_id for each in new if each.evaluation_id not in inserted]
        stored = {each.evaluation_id: each for each in await self._get_many(session, others)} if others else {}
        for index, each in enumerate(new):
            before = stored.get(each.evaluation_id)
            if before is not None:
                _require_equal(each, before, {"index": str(index)} if is_batch else {})
            elif each.evaluation_id not in inserted:
                if _is_accepted(each.evaluation_id):
                    raise Contention  # its partition was dropped in the meantime
                field = f"evaluations[{index}]" if is_batch else "evaluation"
                raise InvalidFields([Violation(f"{field}.evaluation_id", _AGE_RULE)])
        return [_result(each, stored.get(each.evaluation_id)) for each in new]

    async def _get(self, session: Session, evaluation_id: UUID) -> Evaluation:
        row = await session.one(self._queries["get"], {"id": evaluation_id})
        if row is None:
            raise NotFound("EVALUATION_NOT_FOUND", "There is no evaluation with this id.")
        return Evaluation._make(row)

    async def _get_many(self, session: Session, evaluation_ids: Sequence[UUID]) -> list[Evaluation]:
        parameters = {"ids": list(evaluation_ids), "first": min(evaluation_ids), "last": max(evaluation_ids)}
        return [Evaluation._make(row) for row in await session.all(self._queries["get_many"], parameters)]


def _is_accepted(evaluation_id: UUID) -> bool:
    """Whether an evaluation with this id may be stored now."""
    return datetime.now(UTC) - _MAX_AGE <= time_of(evaluation_id) <= datetime.now(UTC) + _MAX_AHEAD


def _result(new: NewEvaluation, stored: Evaluation | None) -> RecordedEvaluation:
    diverged = new.differing_path_count > 0 if stored is None else stored.diverged
    return RecordedEvaluation(new.evaluation_id, recorded=stored is None, diverged=diverged, stored=stored)


def _require_equal(new: NewEvaluation, stored: Evaluation, metadata: Mapping[str, str]) -> None:
    """Raises AlreadyExists (EVALUATION_DIFFERS) unless the caller's fields are those of the stored evaluation."""
    pairs = {
        "candidate": (new.candidate, (stored.candidate_name, stored.candidate_version)),
        "input_fingerprint": (new.input_fingerprint, stored.input_fingerprint),
        "primary_result": (new.primary_result, canonical_text(normal_form(stored.primary_result))),
        "shadow_result": (new.shadow_result, canonical_text(normal_form(stored.shadow_result))),
        "primary_latency": (new.primary_latency_us, stored.primary_latency_us),
        "shadow_latency": (new.shadow_latency_us, stored.shadow_latency_us),
    }
    differing = [name for name, (mine, theirs) in pairs.items() if mine != theirs]
    if differing:
        raise AlreadyExists(
            "EVALUATION_DIFFERS",
            "An evaluation with this id and other content exists.",
            metadata={"fields": ",".join(differing), **metadata},
        )


def _row(new: NewEvaluation) -> dict[str, Any]:
    return {
        "evaluation_id": new.evaluation_id,
        "candidate_name": new.candidate.name,
        "candidate_version": new.candidate.version,
        "input_fingerprint": "\\x" + new.input_fingerprint.hex(),
        "primary_result": new.primary_result,
        "shadow_result": new.shadow_result,
        "primary_latency_us": new.primary_latency_us,
        "shadow_latency_us": new.shadow_latency_us,
        "differing_path_count": new.differing_path_count,
        "differing_paths": list(new.differing_paths),
    }


def _payload(new: NewEvaluation) -> dict[str, Any]:
    return {"candidate": new.candidate.name, "version": new.candidate.version, "diverged": new.differing_path_count > 0}


def _answer(result: RecordedEvaluation) -> bytes:
    return result.evaluation_id.bytes + bytes([result.recorded | result.diverged << 1])


def _recorded(answer: bytes) -> RecordedEvaluation:
    flags = answer[_ID_BYTES]
    return RecordedEvaluation(UUID(bytes=answer[:_ID_BYTES]), recorded=bool(flags & 1), diverged=bool(flags & 2))
