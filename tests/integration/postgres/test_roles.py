"""The service role reads and writes rows, only appends to history, and does not own the tables."""

import psycopg
import pytest
from vsyncd.postgres.error_mapping import service_error

from tests.harness.cids import ISPB, cid_of
from tests.harness.clusters import Database

pytestmark = pytest.mark.both_versions
FORBIDDEN = [
    "UPDATE vsync.audit_logs SET recorded_by = 'x'",
    "DELETE FROM vsync.audit_logs",
    "TRUNCATE vsync.audit_logs",
    "INSERT INTO vsync.audit_logs (recorded_at, correlation_id, recorded_by, action) VALUES (now(), 'x', 'x', 'x')",
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


CREATE_CID = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    VALUES (decode(%s, 'hex'), 1, '12345678901', %s, '1', 1, '12345678901')"""
BY_HAND = "SELECT recorded_by, action, ispb, (payload ->> 'records')::int FROM vsync.audit_logs ORDER BY recorded_at"


def test_triggers_prevent_the_owner_from_changing_history_accidentally(
    database: Database, subtests: pytest.Subtests
) -> None:
    histories = ["audit_logs", "cid_events", "vsync_verifications"]
    with psycopg.connect(database.owner, autocommit=True) as connection:
        # The change by hand has an event and an audit entry.
        connection.execute(CREATE_CID, [cid_of(1), ISPB])
        found = connection.execute("SELECT partition FROM vsync.partitions() WHERE parent = ANY (%s)", [histories])
        names = [*histories, *(row[0] for row in found)]
        filled = [name for name in names if connection.execute(f"SELECT FROM vsync.{name}".encode()).rowcount]
        assert len(filled) == 4, "two tables, each with a partition"
        statements = [f"DELETE FROM vsync.{name}" for name in filled]  # noqa: S608  names of the catalog
        statements += [f"UPDATE vsync.{name} SET ispb = ispb" for name in filled]  # noqa: S608  see above
        statements += [f"TRUNCATE vsync.{name}" for name in [*names, "cids"]]
        for statement in statements:
            with subtests.test(statement), pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.parametrize("offset", ["-20 days", "-6 minutes", "6 minutes"])
def test_an_audit_entry_of_another_time_is_refused(database: Database, offset: str) -> None:
    with (
        psycopg.connect(database.service) as connection,
        pytest.raises(psycopg.Error, match="differs by more than 5 minutes") as refused,
    ):
        connection.execute(
            "INSERT INTO vsync.audit_logs (id, created_at, correlation_id, recorded_by, action)"
            " SELECT id, vsync.uuid_v7_time(id), 'x', 'x', 'x' FROM vsync.uuid_v7(now() + %s::interval) AS id",
            [offset],
        )
    assert service_error(refused.value).reason == "CLOCK_DIFFERS"


def test_a_change_outside_the_service_has_an_audit_entry(database: Database) -> None:
    with psycopg.connect(database.service, autocommit=True) as connection:
        connection.execute(CREATE_CID, [cid_of(1), ISPB])
        connection.execute("UPDATE vsync.cids SET account_number = '2' WHERE false")
        connection.execute("UPDATE vsync.cids SET account_number = '2'")
        connection.execute("DELETE FROM vsync.cids")
        role = f"role:{connection.info.user}"
        actions = ("INSERT", "UPDATE", "DELETE")
        expected = [(role, f"vsync.by-hand/{action} cids", ISPB, 1) for action in actions]
        assert connection.execute(BY_HAND).fetchall() == expected


def test_the_triggers_work_with_an_empty_search_path(database: Database) -> None:
    """Poolers and pg_restore change the search_path."""
    with psycopg.connect(database.service, options="-c search_path=") as connection:
        connection.execute(CREATE_CID, [cid_of(1), ISPB])
        connection.execute("UPDATE vsync.cids SET ispb = '00000000'")
        connection.execute("DELETE FROM vsync.cids")
        row = connection.execute("SELECT count(*) FROM vsync.cid_events").fetchone()
        assert row == (4,)
