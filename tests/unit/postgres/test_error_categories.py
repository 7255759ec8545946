"""Categories of connection errors."""

import psycopg
import pytest
from psycopg import errors
from vsyncd.postgres.error_mapping import error_category

AT = 'connection to server at "db-7.internal" (10.1.2.3), port 5432 failed: '


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (psycopg.OperationalError(f"{AT}Connection refused\n\tIs the server running?"), "connection refused"),
        (
            psycopg.OperationalError(
                'connection to server on socket "/run/x/.s.PGSQL.5432" failed: No such file or directory'
            ),
            "connection refused",
        ),
        (
            psycopg.OperationalError(f'{AT}FATAL:  password authentication failed for user "ana"'),
            "authentication failed",
        ),
        (psycopg.OperationalError(f'{AT}FATAL:  no pg_hba.conf entry for host "10.1.2.3"'), "authentication failed"),
        (psycopg.OperationalError(f'{AT}FATAL:  role "ana" does not exist'), "authentication failed"),
        (psycopg.OperationalError(f"{AT}fe_sendauth: no password supplied"), "authentication failed"),
        (psycopg.OperationalError(f'{AT}FATAL:  database "vault" does not exist'), "no such database"),
        (
            psycopg.OperationalError(f"{AT}FATAL:  the database system is starting up"),
            "server is starting up or shutting down",
        ),
        (psycopg.OperationalError(f"{AT}FATAL:  sorry, too many clients already"), "too many connections"),
        (psycopg.OperationalError(f"{AT}SSL error: certificate verify failed"), "TLS failure"),
        (psycopg.OperationalError(f"{AT}server does not support SSL, but SSL was required"), "TLS failure"),
        (psycopg.OperationalError("[Errno -2] Name or service not known"), "host not found"),
        (
            psycopg.OperationalError("failed to resolve host 'db-7.internal': [Errno -3] Temporary failure"),
            "host not found",
        ),
        (psycopg.OperationalError("server closed the connection unexpectedly"), "connection lost"),
        (psycopg.OperationalError("the connection is closed"), "connection lost"),
        (psycopg.OperationalError("something about db-7.internal"), "cannot connect"),
        (errors.ConnectionTimeout("connection timeout expired"), "timeout"),
        (errors.AdminShutdown("terminating connection due to administrator command"), "connection lost"),
        (errors.QueryCanceled("canceling statement due to statement timeout"), "timeout"),
        (errors.InsufficientPrivilege("permission denied for table schema_migrations"), "permission denied"),
        (errors.InvalidPassword('password authentication failed for user "ana"'), "authentication failed"),
        (errors.ConnectionFailure("gone"), "connection lost"),
        (errors.DiskFull("no space on /srv/pg"), "database error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_has_a_category_without_names_or_addresses(error: psycopg.Error, category: str) -> None:
    assert error_category(error) == category
