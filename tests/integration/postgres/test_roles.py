"""The service role reads and writes rows, only appends to history, and does not own the tables."""

import psycopg
import pytest

from tests.harness.cids import ISPB, cid_of
from tests.harness.clusters import Database

pytestmark = pytest.mark.both_versions
FORBIDDEN = [
    "UPDATE vsync.audit_logs SET recorded_by = 'x'",
    "DELETE FROM vsync.audit_logs",
    "TRUNCATE vsync.audit_logs",
    "INSERT INTO vsync.cid_events (key_type, change, ispb, cid) VALUES (1, 1, '12345678', sha256('x'))",
    "UPDATE vsync.cid_events SET change = 1",
    "DELETE FROM vsync.cid_events",
    "INSERT INTO vsync.cid_totals (ispb, key_type, sync_status, records) VALUES ('12345678', 1, 1, 1)",
    "DELETE FROM vsync.cid_totals",
    "UPDATE vsync.request_ids SET answer = ''",
    "DELETE FROM vsync.request_ids",
    "TRUNCATE vsync.cids",
    "ALTER TABLE vsync.cids DISABLE TRIGGER USER",
    "DROP TABLE vsync.imports",
    "CREATE TABLE vsync.mine ()",
    "SELECT vsync.grant_to_service('vsync_owner')",
]


def test_the_service_role_cannot_change_history_or_tables(database: Database, subtests: pytest.Subtests) -> None:
    with psycopg.connect(database.service, autocommit=True) as connection:
        for statement in FORBIDDEN:
            with subtests.test(statement), pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        connection.execute("SELECT vsync.make_partitions(), vsync.fold_cid_totals()")


def test_triggers_prevent_the_owner_from_changing_history_accidentally(
    database: Database, subtests: pytest.Subtests
) -> None:
    statements = [
        "UPDATE vsync.audit_logs SET recorded_by = 'x'",
        "DELETE FROM vsync.cid_events",
        "TRUNCATE vsync.cids",
    ]
    with psycopg.connect(database.owner, autocommit=True) as connection:
        for statement in statements:
            with subtests.test(statement), pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_the_triggers_work_with_an_empty_search_path(database: Database) -> None:
    """Poolers and pg_restore change the search_path."""
    with psycopg.connect(database.service, options="-c search_path=") as connection:
        connection.execute(
            "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
            " VALUES (decode(%s, 'hex'), 1, '12345678901', %s, '1', 1, '12345678901')",
            [cid_of(1), ISPB],
        )
        connection.execute("UPDATE vsync.cids SET ispb = '00000000'")
        connection.execute("DELETE FROM vsync.cids")
        row = connection.execute("SELECT count(*) FROM vsync.cid_events").fetchone()
        assert row == (4,)
