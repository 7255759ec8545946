"""The service's error and the retry decision for each SQLSTATE."""

import psycopg
import pytest
from grpc import StatusCode
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from vsyncd.core.errors import Internal
from vsyncd.postgres.error_mapping import lost_while_committing, may_retry, service_error

# SQLSTATE, gRPC code, reason, whether the error carries RetryInfo
TABLE = [
    ("40001", StatusCode.ABORTED, "CONTENTION", True),
    ("40P01", StatusCode.ABORTED, "CONTENTION", True),
    ("23505", StatusCode.ABORTED, "CONTENTION", True),
    ("55P03", StatusCode.ABORTED, "CONTENTION", True),
    ("57014", StatusCode.DEADLINE_EXCEEDED, "QUERY_TIMEOUT", False),
    ("25006", StatusCode.UNAVAILABLE, "READ_ONLY_MODE", True),
    ("25P03", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("42P01", StatusCode.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE", False),
    ("42703", StatusCode.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE", False),
    ("42883", StatusCode.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE", False),
    ("3F000", StatusCode.FAILED_PRECONDITION, "SCHEMA_OUT_OF_DATE", False),
    ("57P01", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("57P02", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("57P03", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("57P04", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("08006", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("28P01", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("3D000", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("53100", StatusCode.UNAVAILABLE, "STORAGE_FULL", True),
    ("53300", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("58030", StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ("23514", StatusCode.INTERNAL, "INTERNAL", False),
    ("42601", StatusCode.INTERNAL, "INTERNAL", False),
    ("42501", StatusCode.INTERNAL, "INTERNAL", False),
    ("XX000", StatusCode.INTERNAL, "INTERNAL", False),
]
ALWAYS_ROLLED_BACK = {"40001", "40P01", "23505"}
RETRIED_BEFORE_COMMIT = ALWAYS_ROLLED_BACK | {"57P01", "57P02", "57P03"}
UNKNOWN_AFTER_COMMIT = {"57P01", "57P02", "08006"}


def error_of(sqlstate: str) -> psycopg.Error:
    """The error that psycopg raises for a SQLSTATE."""
    error = errors.lookup(sqlstate)("the text, which may hold a value")
    assert error.sqlstate == sqlstate
    return error


@pytest.mark.parametrize(("sqlstate", "code", "reason", "retry_info"), TABLE)
def test_each_sqlstate_has_its_code_and_reason(sqlstate: str, code: StatusCode, reason: str, retry_info: bool) -> None:
    failure = service_error(error_of(sqlstate))
    assert (failure.code, failure.reason) == (code, reason)
    assert (failure.retry_after is not None) is retry_info
    assert "value" not in str(failure)


@pytest.mark.parametrize("sqlstate", [row[0] for row in TABLE])
def test_only_transactions_that_were_certainly_rolled_back_are_retried(sqlstate: str) -> None:
    error = error_of(sqlstate)
    assert may_retry(error, committing=False) is (sqlstate in RETRIED_BEFORE_COMMIT)
    assert may_retry(error, committing=True) is (sqlstate in ALWAYS_ROLLED_BACK)
    assert lost_while_committing(error) is (sqlstate in UNKNOWN_AFTER_COMMIT)


def test_a_lost_connection_is_retried_except_during_a_commit() -> None:
    lost = psycopg.OperationalError("the connection is closed")
    assert service_error(lost).reason == "DATABASE_UNAVAILABLE"
    assert may_retry(lost, committing=False)
    assert not may_retry(lost, committing=True)
    assert lost_while_committing(lost)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PoolTimeout("x"), "POOL_EXHAUSTED"),
        (TooManyRequests("x"), "POOL_EXHAUSTED"),
        (PoolClosed("x"), "DATABASE_UNAVAILABLE"),
    ],
)
def test_errors_of_the_pool_are_not_retried(error: psycopg.Error, reason: str) -> None:
    assert service_error(error).reason == reason
    assert not may_retry(error, committing=False)


def test_a_misuse_of_psycopg_is_an_internal_error() -> None:
    assert isinstance(service_error(psycopg.ProgrammingError("x")), Internal)
