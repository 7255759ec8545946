"""What the database itself enforces, for the service's role and for the owner."""

import psycopg
import pytest
from psycopg import errors

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.payments import check_invariants

INSERT = """
    INSERT INTO vsync.payments (id, created_at, requested_at, processed_at, amount, correlation_id, processor)
    SELECT id, vsync.uuid_v7_time(id), now(), now(), {amount}, {correlation_id}, {processor}
    FROM vsync.uuid_v7(now() + {later}) AS id"""
VALUES = {"amount": "5", "correlation_id": "'a'", "processor": "'default'", "later": "interval '0'"}


def insert(**values: str) -> str:
    """Returns a statement that inserts a payment."""
    return INSERT.format(**VALUES | values)


def partition(database: Database) -> str:
    """Returns the qualified name of the partition that has the payment."""
    (row,) = rows(database, "SELECT relname FROM pg_class WHERE oid = (SELECT tableoid FROM vsync.payments)")
    return f"vsync.{row['relname']}"


def refused(conninfo: str, error: type[psycopg.Error], *statements: str) -> None:
    """Executes each statement, which must raise this error."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            with pytest.raises(error):
                connection.execute(statement.encode())


def test_a_payment_inserted_by_hand_has_a_key_and_counts(database: Database) -> None:
    with psycopg.connect(database.service) as connection:
        for number in range(3):
            connection.execute(insert(correlation_id=f"'{number}'", later=f"interval '{number} months'").encode())
    check_invariants(database)
    # The ids are in the partitions of three months.
    assert len(rows(database, "SELECT DISTINCT tableoid FROM vsync.payments")) == 3
    duplicates = [insert(correlation_id="'0'", later=f"interval '{number} months'") for number in range(3)]
    refused(database.service, errors.UniqueViolation, *duplicates)
    refused(database.owner, errors.UniqueViolation, *duplicates)
    with psycopg.connect(database.owner) as connection:
        assert connection.execute("SELECT vsync.fold_payment_totals()").fetchone() == (3,)
    check_invariants(database)


def test_neither_role_changes_payments_or_their_keys(database: Database) -> None:
    with psycopg.connect(database.service) as connection:
        connection.execute(insert().encode())
    month = partition(database)
    refused(
        database.owner,
        errors.InsufficientPrivilege,
        "UPDATE vsync.payments SET amount = 6",
        "DELETE FROM vsync.payments",
        "TRUNCATE vsync.payments",
        f"UPDATE {month} SET amount = 6",  # noqa: S608  a name of ours
        f"DELETE FROM {month}",  # noqa: S608  as above
        "UPDATE vsync.payment_keys SET correlation_id = 'b'",
        "DELETE FROM vsync.payment_keys",
        "TRUNCATE vsync.payment_keys",
    )
    refused(
        database.service,
        errors.InsufficientPrivilege,
        "UPDATE vsync.payments SET amount = 6",
        "DELETE FROM vsync.payments",
        "DELETE FROM vsync.payment_keys",
        "INSERT INTO vsync.payment_deltas (hour, processor, payments, amount) VALUES (now(), 'default', 1, 1)",
        "UPDATE vsync.payment_totals SET amount = 6",
        "DELETE FROM vsync.payment_hours",
        "UPDATE vsync.payment_fold SET horizon = '0'",
        "DELETE FROM vsync.processor_health",
    )
    check_invariants(database)


def test_wrong_values_violate_a_constraint(database: Database) -> None:
    wrong = (
        {"amount": "0"},
        {"amount": "1.001"},
        {"amount": "100000000"},
        {"amount": "'NaN'"},
        {"correlation_id": "''"},
        {"correlation_id": "repeat('x', 256)"},
        {"processor": "'Default'"},
        {"processor": "repeat('x', 51)"},
    )
    refused(database.owner, errors.CheckViolation, *(insert(**values) for values in wrong))
    health = "INSERT INTO vsync.processor_health (processor, healthy, min_response_time_ms, reported_at) VALUES ({})"
    refused(
        database.owner,
        errors.CheckViolation,
        health.format("'default', true, -1, now()"),
        health.format("'default', true, 1, 'infinity'"),
    )
    assert rows(database, "SELECT FROM vsync.payment_keys UNION ALL SELECT FROM vsync.payment_deltas") == []
