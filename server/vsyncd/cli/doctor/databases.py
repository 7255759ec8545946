"""Checks the servers of PostgreSQL, as every role that the settings name."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

from vsyncd.backup.errors import BackupError
from vsyncd.backup.pg_tools import build_options, find_pg_tools
from vsyncd.cli.doctor.findings import Finding, error, ok, warning
from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import backup_conninfo, owner_conninfo, replica_conninfo, service_conninfo
from vsyncd.config.endpoints import HostPort
from vsyncd.domains.registry import unselected_sets
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.migrate import MigrateError
from vsyncd.postgres.connection import Connection
from vsyncd.session_settings import UnfitDatabase, set_up_async

_SUPPORTED: Final = range(16, 19)
_MAX_CLOCK_DIFFERENCE_S: Final = 1.0
_TIMEOUTS: Final = {"statement_timeout": "5000"}

_SERVER: Final = b"""
    SELECT current_setting('server_version'), current_setting('server_version_num')::integer / 10000,
           pg_is_in_recovery(), ssl.ssl, ssl.version, current_setting('max_connections')::integer
    FROM (VALUES (1)) AS one LEFT JOIN pg_stat_ssl AS ssl ON ssl.pid = pg_backend_pid()
"""
_ROLE: Final = b"""
    SELECT r.rolname, r.rolsuper, r.rolbypassrls,
           (SELECT count(*) FROM pg_class AS c WHERE c.relnamespace = to_regnamespace(%(schema)s)
            AND c.relkind IN ('r', 'p') AND pg_has_role(c.relowner, 'USAGE')),
           to_regnamespace(%(schema)s) IS NOT NULL,
           CASE WHEN to_regnamespace(%(schema)s) IS NULL THEN has_database_privilege(current_database(), 'CREATE')
                ELSE has_schema_privilege(to_regnamespace(%(schema)s), 'CREATE') END,
           CASE WHEN to_regnamespace(%(schema)s) IS NULL THEN false
                ELSE has_schema_privilege(to_regnamespace(%(schema)s), 'USAGE') END
    FROM pg_roles AS r WHERE r.rolname = current_user
"""
# What the service needs in the tables that exist, and what it must not be able to do.
_PRIVILEGES: Final = b"""
    SELECT c.relname, needed
    FROM (VALUES ('audit_logs', 'SELECT', true), ('audit_logs', 'INSERT', true), ('request_ids', 'INSERT', true),
                 ('job_runs', 'UPDATE', true), ('cids', 'SELECT', true), ('cids', 'INSERT', true),
                 ('cids', 'UPDATE', true), ('cids', 'DELETE', true), ('sync_batches', 'UPDATE', true),
                 ('audit_logs', 'UPDATE', false), ('audit_logs', 'DELETE', false), ('cid_events', 'DELETE', false))
         AS wanted (name, privilege, needed)
    JOIN pg_class AS c ON c.relnamespace = to_regnamespace(%(schema)s) AND c.relname = name
    -- Some are granted on columns. DELETE is always granted on the table.
    WHERE needed IS DISTINCT FROM CASE privilege WHEN 'DELETE' THEN has_table_privilege(c.oid, privilege)
                                                 ELSE has_any_column_privilege(c.oid, privilege) END
"""


class _Server(NamedTuple):
    version: str
    major: int
    is_standby: bool
    is_encrypted: bool
    tls_version: str | None
    max_connections: int


async def check_primary(settings: Settings) -> AsyncIterator[Finding]:
    """Checks the primary as the service's role."""
    subject = "database"
    try:
        async with _connected(lambda: service_conninfo(settings)) as connection:
            began = time.monotonic()
            server = await _server(connection)
            latency = time.monotonic() - began
            yield _describe_server(subject, server, settings.database_hosts, latency)
            if server.is_standby:
                yield error(subject, "it is a standby and takes no writes")
            if server.max_connections < settings.db_max_connections:
                yield warning(subject, f"its max_connections is {server.max_connections}, less than DB_MAX_CONNECTIONS")
            yield await _compare_clocks(connection)
            async for finding in _check_service_role(connection, settings):
                yield finding
            yield await _check_migrations(connection, settings)
    except _FAILURES as problem:
        yield _failure(subject, problem)


async def check_owner(settings: Settings) -> AsyncIterator[Finding]:
    """Checks the role that migrates."""
    subject = "owner role"
    if settings.secret("db_migrate_url") is None:
        yield ok(subject, "none: the service's role migrates (DB_MIGRATE_URL is not set)")
        return
    try:
        async with _connected(lambda: owner_conninfo(settings)) as connection:
            role = await _role(connection, settings)
            if role.is_superuser:
                yield warning(subject, f"{role.name} is a superuser: the owner of the schema suffices")
            elif not role.can_create:
                yield error(subject, f"{role.name} cannot create objects in the schema {settings.db_schema}")
            else:
                yield ok(subject, f"{role.name} can migrate")
    except _FAILURES as problem:
        yield _failure(subject, problem)


async def check_replica(settings: Settings, host: HostPort) -> AsyncIterator[Finding]:
    """Checks one of DB_REPLICA_HOSTS."""
    subject = f"replica {host}"
    try:
        async with _connected(lambda: replica_conninfo(settings, host)) as connection:
            began = time.monotonic()
            server = await _server(connection)
            yield _describe_server(subject, server, (host,), time.monotonic() - began)
            if not server.is_standby:
                yield warning(subject, "it is not a standby")
            role = await _role(connection, settings)
            if role.has_schema and not role.can_use:
                yield error(subject, f"{role.name} cannot read the schema {settings.db_schema}")
    except _FAILURES as problem:
        yield _failure(subject, problem)


async def check_backup_programs(settings: Settings) -> AsyncIterator[Finding]:
    """Checks the role of backups, and whether there is a pg_dump for its server."""
    subject = "backups"
    if settings.backup_dir is None:
        yield ok(subject, "not configured (BACKUP_DIR is not set)")
        return
    try:
        async with _connected(lambda: backup_conninfo(settings), any_encoding=True) as connection:
            server = await _server(connection)
        folder = Path(settings.backup_pg_bin) if settings.backup_pg_bin else None
        options = build_options(compression=settings.backup_compression, encrypted=server.is_encrypted)
        tools = find_pg_tools(server.major, folder=folder, options=options)
        yield ok(subject, f"pg_dump {tools.version} in {tools.folder}, for PostgreSQL {server.version}")
    except BackupError as problem:
        yield error(subject, str(problem))
    except _FAILURES as problem:
        yield _failure(subject, problem)


@asynccontextmanager
async def _connected(conninfo: Callable[[], str], *, any_encoding: bool = False) -> AsyncIterator[Connection]:
    """Connects in the way that the service does. Raises psycopg.Error and ConfigError."""
    connection = await Connection.connect_directly(conninfo(), "vsyncd doctor", prepare=False)
    connection.response_timeout = 10.0
    try:
        try:
            await set_up_async(connection, _TIMEOUTS)
        except UnfitDatabase:
            if not any_encoding:
                raise
        yield connection
    finally:
        await connection.close()


_FAILURES: Final = (psycopg.Error, ConfigError, MigrateError)


def _failure(subject: str, problem: Exception) -> Finding:
    """Reports why a check ended. The text of other errors may contain addresses and names, but no password."""
    if isinstance(problem, ConfigError):
        return error(subject, "; ".join(problem.lines))
    text = " ".join(str(problem).split()).removeprefix("connection failed: ")
    return error(subject, text.partition(" Is the server running")[0])


async def _server(connection: Connection) -> _Server:
    row: Any = await (await connection.execute(_SERVER)).fetchone()
    version, major, is_standby, is_encrypted, tls_version, max_connections = row
    encrypted = bool(is_encrypted) or connection.pgconn.ssl_in_use
    return _Server(version.split(" ", 1)[0], major, is_standby, encrypted, tls_version, max_connections)


def _describe_server(subject: str, server: _Server, hosts: tuple[HostPort, ...], latency: float) -> Finding:
    tls = (server.tls_version or "TLS") if server.is_encrypted else "no TLS"
    text = f"PostgreSQL {server.version}, UTF8, {tls}, {latency * 1000:.0f} ms"
    if server.major not in _SUPPORTED:
        return warning(subject, f"{text}; supported are {_SUPPORTED[0]} to {_SUPPORTED[-1]}")
    if not server.is_encrypted and not all(host.is_local for host in hosts):
        return warning(subject, f"{text}; the connection leaves this machine: set DB_SSL_MODE=verify-full")
    return ok(subject, text)


async def _compare_clocks(connection: Connection) -> Finding:
    before = time.time()
    row: Any = await (await connection.execute(b"SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone()
    after = time.time()
    # The server read its clock between both times.
    difference = max(row[0] - after, before - row[0], 0.0)
    if difference > _MAX_CLOCK_DIFFERENCE_S:
        return warning("clock", f"it differs from the database's by {difference:.1f} s: synchronise both clocks")
    return ok("clock", f"agrees with the database's, within {after - before + difference:.3f} s")


class _Role(NamedTuple):
    name: str
    is_superuser: bool
    bypasses_rls: bool
    owned_tables: int
    has_schema: bool
    can_create: bool
    can_use: bool


async def _role(connection: Connection, settings: Settings) -> _Role:
    row: Any = await (await connection.execute(_ROLE, {"schema": settings.db_schema})).fetchone()
    return _Role(*row)


async def _check_service_role(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    """Reports rights that are missing, and those that the service should not have."""
    subject = "service role"
    role = await _role(connection, settings)
    if role.is_superuser:
        yield warning(subject, f"{role.name} is a superuser: it can change audit entries, and every other database")
        return
    if role.owned_tables:
        yield warning(subject, f"{role.name} owns the tables: it can change audit entries. Set DB_MIGRATE_URL")
        return
    cursor = await connection.execute(_PRIVILEGES, {"schema": settings.db_schema})
    differing = await cursor.fetchall()
    missing = sorted({table for table, is_needed in differing if is_needed})
    excessive = sorted({table for table, is_needed in differing if not is_needed})
    if role.has_schema and (missing or not role.can_use):
        tables = ", ".join(missing) or settings.db_schema
        yield error(subject, f"{role.name} lacks rights on {tables}: run vsyncd migrate up")
    elif excessive:
        yield warning(subject, f"{role.name} can change the history in {', '.join(excessive)}")
    else:
        yield ok(subject, f"{role.name} has the rights that it needs" if role.has_schema else role.name)
    if role.bypasses_rls:
        yield warning(subject, f"{role.name} bypasses row-level security")


async def _check_migrations(connection: Connection, settings: Settings) -> Finding:
    versions = SchemaVersions(settings, without=unselected_sets(settings.domains))
    missing = ", ".join(f"{name} {version}" for name, version in (await versions.missing(connection)).items())
    if not missing:
        return ok("migrations", "all are applied")
    if settings.db_auto_migrate:
        return ok("migrations", f"vsyncd serve will apply {missing}")
    return error("migrations", f"missing: {missing}: run vsyncd migrate up")
