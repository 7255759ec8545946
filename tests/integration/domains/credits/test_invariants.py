"""What the database itself enforces, for the service's role and for the owner, and what the verification finds."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo
from vsyncd.backup.errors import BackupError
from vsyncd.cli.command import run
from vsyncd.domains.credits.verification import PROBLEMS

from tests.harness.backups import backups_in, content, elsewhere
from tests.harness.cids import execute, rows
from tests.harness.clusters import Database

OPEN = """INSERT INTO vsync.credit_accounts (tenant, account, opened_at, available, reserved, transactions)
          VALUES (decode(repeat('01', 32), 'hex'), 'a', now(), {available}, {reserved}, {transactions})"""
VALUES = {"available": "4", "reserved": "3", "transactions": "2"}
POST = """INSERT INTO vsync.credit_transactions (tenant, id, account, number, kind, amount, available_change,
              reserved_change, available, reserved, reference, reservation_id, expires_at, created_at)
          SELECT decode(repeat('01', 32), 'hex'), vsync.uuid_v7(now()), 'a', {number}, {kind}, {amount},
                 {available_change}, {reserved_change}, {available}, {reserved}, {reference}, {reservation}, {expires},
                 now()"""
CREDIT = {
    "number": "1", "kind": "1", "amount": "7", "available_change": "7", "reserved_change": "0", "available": "7",
    "reserved": "0", "reference": "'one'", "reservation": "NULL::uuid", "expires": "NULL::timestamptz",
}  # fmt: skip
RESERVE = CREDIT | {
    "number": "2", "kind": "3", "amount": "3", "available_change": "-3", "reserved_change": "3", "available": "4",
    "reserved": "3", "reference": "'two'", "reservation": "'01a22820-6ff3-7000-8406-f6dbfccaf846'::uuid",
    "expires": "now()",
}  # fmt: skip
HOLD = """INSERT INTO vsync.credit_reservations (tenant, id, account, amount, expires_at)
          VALUES (decode(repeat('01', 32), 'hex'), '01a22820-6ff3-7000-8406-f6dbfccaf846', 'a', {amount}, now())"""


def refused(conninfo: str, error: type[psycopg.Error], *statements: str) -> None:
    """Executes each statement as this role, which must raise this error."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT set_config('vsync.tenant', repeat('01', 32), false)")
        for statement in statements:
            with pytest.raises(error):
                connection.execute(statement.encode())


@pytest.fixture
def stored(database: Database) -> Database:
    """A database with one account, two transactions and a reservation that agree."""
    execute(database, OPEN.format(**VALUES))
    for transaction in (CREDIT, RESERVE):
        execute(database, POST.format(**transaction))
    execute(database, HOLD.format(amount=3))
    return database


def test_neither_role_changes_the_ledger(stored: Database) -> None:
    statements = ("UPDATE vsync.credit_transactions SET amount = 6", "DELETE FROM vsync.credit_transactions")
    others = ("DELETE FROM vsync.credit_accounts", "DELETE FROM vsync.credit_reservations")
    refused(stored.owner, errors.InsufficientPrivilege, *statements, *others, "TRUNCATE vsync.credit_transactions")
    refused(
        stored.service,
        errors.InsufficientPrivilege,
        *statements,
        *others,
        "UPDATE vsync.credit_accounts SET account = 'b'",
        "UPDATE vsync.credit_reservations SET amount = 1",
        "ALTER TABLE vsync.credit_accounts DISABLE ROW LEVEL SECURITY",
        "SELECT vsync.restrict_to_tenant('credit_accounts')",
    )


def test_wrong_values_violate_a_constraint(stored: Database) -> None:
    update = "UPDATE vsync.credit_accounts SET {}"
    limit = "9999999999999999.99"
    wrong = ("available = -0.01", "reserved = -0.01", "available = 'NaN'", f"available = {limit}", "closed_at = now()")
    refused(stored.service, errors.CheckViolation, *(update.format(change) for change in wrong))
    third = CREDIT | {"number": "3", "reference": "'three'"}
    wrong_rows = (
        {"amount": "8"},
        {"amount": "0", "available_change": "0"},
        {"available": "-1"},
        {"reference": "NULL"},
        {"kind": "2"},
        {"kind": "7"},
        {"reservation": "vsync.uuid_v7(now())"},
        {"expires": "now()"},
    )
    refused(stored.service, errors.CheckViolation, *(POST.format(**third | row) for row in wrong_rows))
    again = POST.format(**third | {"reference": "'one'"})
    refused(stored.owner, errors.UniqueViolation, again, POST.format(**third | {"number": "2"}))


def problems(database: Database) -> set[str]:
    """The problems that the verification finds."""
    return {name for name, query in PROBLEMS.items() if rows(database, query)}


def test_every_difference_is_found(stored: Database) -> None:
    balance, chain, reserved, reservation = PROBLEMS
    assert problems(stored) == set()
    changes = {
        "UPDATE vsync.credit_accounts SET available = 5": {balance},
        "UPDATE vsync.credit_accounts SET reserved = 2": {balance, reserved},
        "UPDATE vsync.credit_accounts SET transactions = 3": {balance},
        "UPDATE vsync.credit_reservations SET amount = 2": {reserved, reservation},
        "UPDATE vsync.credit_reservations SET state = 2, closed_at = now()": {reserved, reservation},
        "UPDATE vsync.credit_transactions SET available = 5 WHERE number = 2": {chain},
        "DELETE FROM vsync.credit_transactions WHERE number = 1": {balance, chain},
        "DELETE FROM vsync.credit_transactions WHERE number = 2": {balance, reservation},
        "DELETE FROM vsync.credit_accounts": {balance, reserved},
        "DELETE FROM vsync.credit_reservations": {reserved, reservation},
    }
    with psycopg.connect(stored.admin) as connection:
        connection.execute("SET session_replication_role = replica")  # without triggers
        for change, expected in changes.items():
            connection.execute(change.encode())
            found = {name for name, query in PROBLEMS.items() if connection.execute(query.encode()).fetchall()}
            assert found == expected, change
            connection.rollback()
            connection.execute("SET session_replication_role = replica")


def test_the_command_reports_what_differs(
    stored: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", stored.service_url)
    assert run(["credits", "verify"]) == 1
    assert capsys.readouterr().err == "vsyncd: the role may not read all credits: set DB_MIGRATE_URL\n"
    monkeypatch.setenv("DB_MIGRATE_URL", stored.owner_url)
    assert run(["credits", "verify"]) == 0
    assert capsys.readouterr().out == "the stored credits agree\n"
    execute(stored, "UPDATE vsync.credit_accounts SET available = 5")
    assert run(["credits", "verify"]) == 1
    (balance, *_) = PROBLEMS
    assert capsys.readouterr().out == f"{balance}: 1\n  tenant={'01' * 32} account=a\n"
    assert run(["credits", "verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "agrees": False,
        "problems": {balance: [{"tenant": "01" * 32, "account": "a"}]},
    }


@pytest.fixture
def backup_role(stored: Database) -> Iterator[str]:
    """A role that may read all tables, but not the rows of tenants."""
    with psycopg.connect(stored.admin, autocommit=True) as admin:
        admin.execute("CREATE ROLE credits_backup LOGIN IN ROLE pg_read_all_data")
        yield "credits_backup"
        admin.execute("DROP ROLE credits_backup")


def test_a_role_that_bypasses_row_security_backs_up_the_rows_of_all_tenants(
    stored: Database, backup_role: str, empty_database: Database, tmp_path: Path
) -> None:
    execute(stored, OPEN.replace("'01'", "'02'").format(available=0, reserved=0, transactions=0))
    # The workers of a parallel pg_dump write their messages at the same time.
    backups = backups_in(make_conninfo(stored.admin, user=backup_role), tmp_path, jobs=1)
    with pytest.raises(BackupError, match="row-level security"):
        backups.create()
    with psycopg.connect(stored.admin) as admin:
        admin.execute(f"ALTER ROLE {backup_role} BYPASSRLS".encode())
    name = backups.create().name
    digests = json.loads((tmp_path / name / "manifest.json").read_bytes())["content"]["digests"]
    counts = {table: digests[table].partition(":")[0] for table in digests if table.startswith("credit_")}
    assert counts == {"credit_accounts": "2", "credit_transactions": "2", "credit_reservations": "1"}
    elsewhere(backups, empty_database.admin).restore(name)
    assert content(empty_database.admin) == content(stored.admin)
    assert problems(empty_database) == set()
    secured = "SELECT relname FROM pg_class WHERE relrowsecurity ORDER BY 1"
    assert rows(empty_database, secured) == rows(stored, secured) != []
