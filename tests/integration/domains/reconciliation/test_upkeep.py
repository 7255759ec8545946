"""The commands `vsyncd vsync verify` and `vsyncd vsync rebuild`."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from vsyncd.cli.command import run
from vsyncd.config import load_settings
from vsyncd.domains.reconciliation.admin import rebuild

from tests.harness.cids import cid_of, execute, rows
from tests.harness.clusters import Database
from tests.harness.reconciliation import kept, model

FILL = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), lpad(mod(n, 3)::text, 8, '0'), '1', 1, '12345678901'
    FROM generate_series(1, 300) AS n
"""
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"


@pytest.fixture(autouse=True)
def _environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database.service_url)
    monkeypatch.setenv("DB_MIGRATE_URL", database.owner_url)


@pytest.mark.both_versions
def test_verify_exits_with_1_until_differences_are_rebuilt(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["vsync", "verify"]) == 0
    assert capsys.readouterr().out == ""
    execute(database, FILL)
    assert run(["vsync", "verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    truth = model(database)
    assert [line.split() for line in lines] == [
        ["ok", ispb, "CPF", str(count), vsync] for (ispb, _), (vsync, count) in sorted(truth.items())
    ]

    execute(database, "ALTER TABLE vsync.cids DISABLE TRIGGER USER")
    # A changed status makes the counts wrong, but not the VSync.
    execute(database, "UPDATE vsync.cids SET sync_status = 2, synced_at = now() WHERE key_value = '00000000001'")
    execute(database, "DELETE FROM vsync.cids WHERE key_value = '00000000002'")
    execute(database, "ALTER TABLE vsync.cids ENABLE TRIGGER USER")
    capsys.readouterr()
    assert run(["vsync", "verify", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["server"] == "primary"
    assert datetime.now(UTC) - datetime.fromisoformat(report["snapshot"]) < timedelta(hours=1)
    assert report["agrees"] is False
    assert [group["agrees"] for group in report["vsyncs"]] == [True, False, False]
    assert run(["vsync", "verify"]) == 1
    told = capsys.readouterr()
    assert told.out.count("DIFFERS") == 2
    assert "vsyncd vsync rebuild" in told.err

    assert run(["vsync", "rebuild"]) == 0
    assert capsys.readouterr().out == "repaired 2\n"
    assert run(["vsync", "rebuild", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"repaired": 0}
    assert run(["vsync", "verify"]) == 0
    assert kept(database) == model(database)


def test_concurrent_rebuilds_repair_once_with_any_default_isolation(database: Database) -> None:
    """The second of two concurrent rebuilds sees the repairs of the first."""
    execute(database, FILL)
    execute(database, "ALTER TABLE vsync.cids DISABLE TRIGGER USER")
    execute(database, "DELETE FROM vsync.cids WHERE key_value < '00000000100'")
    execute(database, "ALTER TABLE vsync.cids ENABLE TRIGGER USER")
    execute(database, f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'repeatable read'")
    with psycopg.connect(database.owner) as someone, ThreadPoolExecutor(2) as threads:
        someone.execute("SELECT pg_advisory_xact_lock(hashtextextended('vsyncd rebuild_cid_totals \"vsync\"', 0))")
        settings = load_settings()
        both = [threads.submit(rebuild, settings) for _ in range(2)]
        while len(rows(database, WAITING)) < 2:
            time.sleep(0.02)
        someone.commit()
    assert sorted(each.result() for each in both) == [0, 3]
    with psycopg.connect(database.owner) as connection, pytest.raises(psycopg.DatabaseError, match="READ COMMITTED"):
        connection.execute("SELECT vsync.rebuild_cid_totals()")
    assert kept(database) == model(database)


def test_without_a_database_the_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.delenv("DB_MIGRATE_URL")
    monkeypatch.setenv("DB_REPLICA_HOSTS", "127.0.0.1:2")
    for command in ("verify", "rebuild"):
        assert run(["vsync", command]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_the_migration_counts_existing_rows(database: Database) -> None:
    """Also rows that were changed without triggers."""
    from vsyncd.migrate import Down, MigrationTarget, run_migrations

    execute(database, FILL)
    target = MigrationTarget(conninfo=database.owner)
    with psycopg.connect(database.owner) as connection:
        versions = connection.execute("SELECT max(version) FROM vsync.schema_migrations").fetchone()
    assert versions is not None
    run_migrations(target, Down(versions[0] - 3))
    execute(database, "DELETE FROM vsync.cids WHERE key_value < '00000000010'")
    execute(database, "SELECT vsync.fold_cid_totals()")
    run_migrations(target)
    assert kept(database) == model(database)
    execute(database, "DELETE FROM vsync.cids WHERE cid = decode(%s, 'hex') OR key_value > '00000000200'", cid_of(1))
    assert kept(database) == model(database)
