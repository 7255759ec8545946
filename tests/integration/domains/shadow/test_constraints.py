"""The database enforces the invariants of evaluations by itself."""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import this_month

PARTITION = f"evaluations_{this_month()}"
VALID = {
    "evaluation_id": "vsync.uuid_v7(now())",
    "evaluated_at": "date_trunc('milliseconds', now())",
    "candidate_name": "'limits'",
    "candidate_version": "'2.0'",
    "input_fingerprint": "sha256('')",
    "primary_result": "'{}'",
    "shadow_result": "'{}'",
    "primary_latency_us": "0",
    "shadow_latency_us": "3600000000",
    "diverged": "false",
    "differing_path_count": "0",
    "differing_paths": "'{}'::text[]",
}
INVALID = {
    "evaluation_id_is_v7": {"evaluation_id": "overlay(vsync.uuid_v7(now())::text PLACING '4' FROM 15)::uuid"},
    "evaluated_at_is_the_ids": {"evaluated_at": "now() - interval '1 second'"},
    "candidate_name": {"candidate_name": "repeat('n', 101)"},
    "candidate_version": {"candidate_version": "''"},
    "input_fingerprint": {"input_fingerprint": "'\\x0f'"},
    "primary_result": {"primary_result": "'[]'"},
    "shadow_result": {"shadow_result": "jsonb_build_object('a', repeat('x', 16384))"},
    "latencies": {"primary_latency_us": "-1"},
    "latencies ": {"shadow_latency_us": "3600000001"},
    "diverged": {"diverged": "true"},
    "differing_path_count": {"diverged": "true", "differing_path_count": "1"},
    "differing_path_count ": {"differing_paths": "ARRAY['a']"},
    "differing_path_count  ": {
        "diverged": "true",
        "differing_path_count": "101",
        "differing_paths": "array_fill('a'::text, ARRAY[101])",
    },
    "differing_paths": {
        "diverged": "true",
        "differing_path_count": "1",
        "differing_paths": "ARRAY[repeat('a', 256)]",
    },
    "differing_paths ": {"diverged": "true", "differing_path_count": "1", "differing_paths": "ARRAY[NULL]::text[]"},
}


def insert(connection: psycopg.Connection[Any], table: str = "evaluations", **changes: str) -> None:
    row = VALID | changes
    statement = f"INSERT INTO vsync.{table} ({', '.join(row)}) SELECT {', '.join(row.values())}"
    connection.execute(statement.encode())


def test_every_invariant_is_a_constraint(database: Database, subtests: pytest.Subtests) -> None:
    with psycopg.connect(database.service, autocommit=True) as connection:
        insert(connection)
        for name, changes in INVALID.items():
            with subtests.test(name), pytest.raises(psycopg.errors.CheckViolation) as raised:
                insert(connection, **changes)
            assert raised.value.diag.constraint_name == f"evaluations_{name.strip()}"
        used = rows(database, "SELECT evaluation_id FROM vsync.evaluations")[0]["evaluation_id"]
        with pytest.raises(psycopg.errors.UniqueViolation):
            insert(connection, evaluation_id=f"'{used}'::uuid", evaluated_at=f"vsync.uuid_v7_time('{used}')")


def test_evaluations_are_append_only_also_in_partitions(database: Database, subtests: pytest.Subtests) -> None:
    with psycopg.connect(database.owner, autocommit=True) as owner:
        insert(owner)
        for statement in (
            "DELETE FROM vsync.evaluations",
            "UPDATE vsync.evaluations SET diverged = diverged",
            f"DELETE FROM vsync.{PARTITION}",  # noqa: S608  a constant
            f"UPDATE vsync.{PARTITION} SET diverged = diverged",  # noqa: S608  a constant
            "TRUNCATE vsync.evaluations",
            "TRUNCATE vsync.evaluation_rollups",
        ):
            with subtests.test(statement), pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(statement.encode())
    assert len(rows(database, "SELECT FROM vsync.evaluations")) == 1


def test_the_services_role_writes_no_rollups(database: Database, subtests: pytest.Subtests) -> None:
    with psycopg.connect(database.service, autocommit=True) as service:
        insert(service)
        for statement in ("SELECT FROM", "DELETE FROM", "INSERT INTO"):
            end = " DEFAULT VALUES" if statement == "INSERT INTO" else ""
            with subtests.test(statement), pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(sql.SQL("{} vsync.evaluation_rollups{}").format(sql.SQL(statement), sql.SQL(end)))
        (row,) = service.execute("SELECT sum(evaluations)::int FROM vsync.divergence_summary").fetchall()
        assert row == (1,)
