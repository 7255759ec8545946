"""Recording evaluations: what is computed, stored and answered."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import hypothesis
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st
from vsync.shadow.v1 import shadow_pb2 as pb
from vsyncd.domains.shadow.divergence import canonical_text, stored_bytes
from vsyncd.domains.shadow.records import MAX_RESULT_BYTES

from tests.harness.cids import a_request_id, failure_of, info_of, rows
from tests.harness.clusters import Database, Databases
from tests.harness.serving import fields_of, reason_of
from tests.harness.shadow import CANDIDATE, Stub, an_evaluation, id_at, record_each, struct

COUNTS = """
    SELECT (SELECT count(*) FROM vsync.evaluations) AS evaluations, (SELECT count(*) FROM vsync.audit_logs) AS entries,
           (SELECT coalesce(sum(evaluations), 0)::bigint FROM vsync.evaluation_hours) AS counted"""


def counts(database: Database) -> tuple[int, ...]:
    """Returns the numbers of evaluations, of audit entries and of evaluations in the rollups."""
    return tuple(rows(database, COUNTS)[0].values())


def record(evaluation: pb.Evaluation, request_id: str = "", **more: Any) -> pb.RecordEvaluationRequest:
    return pb.RecordEvaluationRequest(evaluation=evaluation, request_id=request_id, **more)


async def test_an_evaluation_is_compared_stored_audited_and_read(shadow: Stub, database: Database) -> None:
    primary = {"limit": 1000, "rate": 0.1 + 0.2, "big": 1e23, "small": 1e-7, "items": [{"p": 1}, {"p": 2}], "ok": True}
    other = {"limit": 1200, "rate": 0.3, "big": 1e23, "small": 1e-7, "items": [{"p": 1}], "ok": None}
    sent = an_evaluation(primary, other, primary_latency=timedelta(microseconds=1234))
    answer = await shadow.RecordEvaluation(record(sent))
    stored = answer.evaluation
    assert answer.recorded
    assert list(stored.differing_paths) == ["items[1]", "limit", "ok"]
    assert (stored.diverged, stored.differing_path_count) == (True, 3)
    assert stored.evaluated_at.ToMilliseconds() == int(sent.evaluation_id.replace("-", "")[:12], 16)
    for name in ("primary_result", "shadow_result", "primary_latency", "shadow_latency", "candidate"):
        assert getattr(stored, name) == getattr(sent, name)
    read = await shadow.GetEvaluation(pb.GetEvaluationRequest(evaluation_id=sent.evaluation_id))
    assert read.evaluation == stored
    (entry,) = rows(database, "SELECT action, resource, payload FROM vsync.audit_logs")
    assert entry["action"] == "vsync.shadow.v1.ShadowService/RecordEvaluation"
    assert entry["resource"] == f"evaluations/{sent.evaluation_id}"
    assert entry["payload"] == {"candidate": "limits", "version": "2.0", "diverged": True}
    missing = await failure_of(shadow.GetEvaluation(pb.GetEvaluationRequest(evaluation_id=str(uuid4()))))
    assert (missing.code(), reason_of(missing)) == (grpc.StatusCode.NOT_FOUND, "EVALUATION_NOT_FOUND")


async def test_a_repeat_returns_the_stored_evaluation_or_names_the_differing_fields(
    shadow: Stub, database: Database
) -> None:
    sent = an_evaluation({"a": 1, "b": {"x": 1e23, "y": 2}})
    first = await shadow.RecordEvaluation(record(sent))
    again = await shadow.RecordEvaluation(record(sent, a_request_id()))
    assert (again.recorded, again.evaluation) == (False, first.evaluation)
    changed = pb.Evaluation()
    changed.CopyFrom(sent)
    changed.shadow_result.update({"a": 2})
    changed.primary_latency.nanos += 1_000
    failure = await failure_of(shadow.RecordEvaluation(record(changed)))
    assert (failure.code(), reason_of(failure)) == (grpc.StatusCode.ALREADY_EXISTS, "EVALUATION_DIFFERS")
    assert info_of(failure).metadata["fields"] == "shadow_result,primary_latency"
    assert counts(database) == (1, 1, 1)


async def test_a_request_id_takes_effect_once(shadow: Stub, database: Database) -> None:
    without_id = an_evaluation(evaluation_id="")
    request = record(without_id, a_request_id())
    first = await shadow.RecordEvaluation(request)
    assert await shadow.RecordEvaluation(request) == first
    request.evaluation.shadow_latency.nanos += 1_000
    assert reason_of(await failure_of(shadow.RecordEvaluation(request))) == "REQUEST_ID_REUSED"
    batch = pb.RecordEvaluationsRequest(
        evaluations=[without_id, an_evaluation({"a": 1}, {"a": 2})], request_id=a_request_id()
    )
    both = await shadow.RecordEvaluations(batch)
    assert await shadow.RecordEvaluations(batch) == both
    assert [(each.recorded, each.diverged) for each in both.evaluations] == [(True, False), (True, True)]
    assert counts(database) == (3, 2, 3)


async def test_concurrent_records_of_one_evaluation_store_it_once(shadow: Stub, database: Database) -> None:
    sent = an_evaluation()
    answers = await record_each(shadow, [sent] * 50)
    assert sum(answer.recorded for answer in answers) == 1
    assert len({answer.evaluation.SerializeToString(deterministic=True) for answer in answers}) == 1
    others = [an_evaluation() for _ in range(50)]
    assert all(answer.recorded for answer in await record_each(shadow, others))
    assert counts(database) == (51, 51, 51)


async def test_a_batch_is_stored_completely_or_not_at_all(shadow: Stub, database: Database) -> None:
    known = an_evaluation()
    await shadow.RecordEvaluation(record(known))
    other = an_evaluation({"a": 1}, evaluation_id=known.evaluation_id)
    failure = await failure_of(
        shadow.RecordEvaluations(pb.RecordEvaluationsRequest(evaluations=[an_evaluation(), other]))
    )
    assert reason_of(failure) == "EVALUATION_DIFFERS"
    metadata = info_of(failure).metadata
    assert (metadata["index"], metadata["fields"]) == ("1", "primary_result,shadow_result")
    answer = await shadow.RecordEvaluations(pb.RecordEvaluationsRequest(evaluations=[an_evaluation(), known]))
    assert [each.recorded for each in answer.evaluations] == [True, False]
    assert counts(database) == (2, 2, 2)


async def test_validate_only_stores_nothing(shadow: Stub, database: Database) -> None:
    answer = await shadow.RecordEvaluation(record(an_evaluation({"a": 1}, {"a": 2}), validate_only=True))
    assert (answer.recorded, answer.evaluation.diverged) == (True, True)
    batch = pb.RecordEvaluationsRequest(evaluations=[an_evaluation()], validate_only=True)
    assert (await shadow.RecordEvaluations(batch)).evaluations[0].recorded
    assert counts(database) == (0, 0, 0)


async def test_the_time_of_a_new_id_is_limited(shadow: Stub, database: Database) -> None:
    now = datetime.now(UTC)
    for hours, number in ((-25, 1), (1, 2)):
        late = an_evaluation(evaluation_id=str(id_at(now + timedelta(hours=hours), number)))
        failure = await failure_of(shadow.RecordEvaluation(record(late, a_request_id())))
        assert fields_of(failure) == ["evaluation.evaluation_id"]
        failure = await failure_of(
            shadow.RecordEvaluations(pb.RecordEvaluationsRequest(evaluations=[an_evaluation(), late]))
        )
        assert fields_of(failure) == ["evaluations[1].evaluation_id"]
    for number, age in enumerate((timedelta(hours=23), timedelta(minutes=-9))):
        accepted = an_evaluation(evaluation_id=str(id_at(now - age, number)))
        assert (await shadow.RecordEvaluation(record(accepted))).recorded
    assert counts(database)[0] == 2


async def test_an_error_names_every_bad_field(shadow: Stub) -> None:
    bad = pb.Evaluation(
        evaluation_id=str(uuid4()),
        candidate=pb.Candidate(name="n" * 101),
        input_fingerprint="0f",
        primary_result=Struct(fields={"a": Value(number_value=float("inf"))}),
        shadow_result=struct({"a": "x" * MAX_RESULT_BYTES}),
        shadow_latency=Duration(seconds=7200),
    )
    expected = [
        "evaluation_id",
        "candidate.name",
        "candidate.version",
        "input_fingerprint",
        "primary_result",
        "shadow_result",
        "primary_latency",
        "shadow_latency",
    ]
    failure = await failure_of(shadow.RecordEvaluation(record(bad, "no-uuid")))
    assert fields_of(failure) == [f"evaluation.{name}" for name in expected] + ["request_id"]
    same = an_evaluation()
    failure = await failure_of(shadow.RecordEvaluations(pb.RecordEvaluationsRequest(evaluations=[bad, same, same])))
    assert fields_of(failure) == [f"evaluations[0].{name}" for name in expected] + ["evaluations[2].evaluation_id"]
    for size in (0, 1001):
        failure = await failure_of(
            shadow.RecordEvaluations(pb.RecordEvaluationsRequest(evaluations=[pb.Evaluation()] * size))
        )
        assert fields_of(failure) == ["evaluations"]


async def test_the_largest_result_is_the_same_for_the_service_and_the_database(
    shadow: Stub, database: Database
) -> None:
    value: dict[str, Any] = {"e": 1e300, "t": ["ü", 1e-9], "x": ""}
    value["x"] = "x" * (MAX_RESULT_BYTES - stored_bytes(value, canonical_text(value)))
    largest = an_evaluation(value)
    assert (await shadow.RecordEvaluation(record(largest))).recorded
    (row,) = rows(database, "SELECT octet_length(primary_result::text) AS bytes FROM vsync.evaluations")
    assert row["bytes"] == MAX_RESULT_BYTES
    value["x"] += "x"
    failure = await failure_of(shadow.RecordEvaluation(record(an_evaluation(value))))
    assert fields_of(failure) == ["evaluation.primary_result", "evaluation.shadow_result"]
    with (
        psycopg.connect(database.admin) as connection,
        pytest.raises(psycopg.errors.CheckViolation, match="primary_result"),
    ):
        connection.execute(
            "INSERT INTO vsync.evaluations SELECT new.id, vsync.uuid_v7_time(new.id), 'a', '1', input_fingerprint, %s,"
            " shadow_result, 0, 0, false, 0, '{}' FROM vsync.evaluations, vsync.uuid_v7(now()) AS new (id)",
            [json.dumps(value)],
        )


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False).map(
        lambda n: int(n) if n.is_integer() and abs(n) < 2**53 else n
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab\n"é', max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_the_size_of_a_result_is_that_of_postgresqls_text(databases: Any) -> None:
    server: Databases = databases(18)
    with psycopg.connect(server.admin) as connection:

        @hypothesis.settings(max_examples=50)
        @given(st.dictionaries(st.text("ab", max_size=3), VALUES, max_size=4))
        def check(result: dict[str, Any]) -> None:
            text = canonical_text(result)
            row = connection.execute("SELECT octet_length(%s::jsonb::text)", [text]).fetchone()
            assert row == (stored_bytes(result, text),)

        check()


async def test_a_candidate_is_compared_as_text(shadow: Stub) -> None:
    sent = an_evaluation(candidate=pb.Candidate(name="limits", version="2"))
    await shadow.RecordEvaluation(record(sent))
    sent.candidate.CopyFrom(CANDIDATE)
    failure = await failure_of(shadow.RecordEvaluation(record(sent)))
    assert info_of(failure).metadata["fields"] == "candidate"
