"""Creates, swaps and drops databases, through a connection to another database of the server."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vsyncd.backup.database_settings import apply_settings, settings_of
from vsyncd.backup.errors import DatabaseFailed, RestoreFailed
from vsyncd.backup.inspection import Connection, connected, is_empty, require_direct, system_identifier_of
from vsyncd.backup.manifest import Origin

# The prefix of a database that is being restored. Its creator remains connected to it.
_TEMPORARY: Final = "vsyncd_restoring_"
_LOCK_KEY: Final = "hashtextextended('vsyncd restore', 0)"
# The databases to connect to in order to create and rename others.
_ADMIN_DATABASES: Final = ("postgres", "template1")
_TERMINATE_INTERVAL_S: Final = 0.05
# A session that remains after these checks is reported by RENAME, which waits for it.
_MAX_SESSION_CHECKS: Final = 50
_SESSION_CHECK_INTERVAL_S: Final = 0.005
_MAX_NAME_BYTES: Final = 63

_OWNER: Final = "SELECT pg_get_userbyid(datdba) FROM pg_catalog.pg_database WHERE datname = %s"
_OID: Final = "SELECT oid FROM pg_catalog.pg_database WHERE datname = %s"
_EXISTING_ROLES: Final = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(%s)"
_TEMPORARY_DATABASES: Final = """
    SELECT datname FROM pg_catalog.pg_database WHERE starts_with(datname, %s) AND pg_has_role(datdba, 'USAGE')"""
_SESSIONS: Final = "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


class Databases:
    """The databases of one server. `admin` is connected to another database than those that are changed."""

    def __init__(self, conninfo: str, admin: Connection) -> None:
        self._conninfo = conninfo
        self._admin = admin

    @property
    def server_major(self) -> int:
        return self._admin.info.server_version // 10_000

    @property
    def uses_tls(self) -> bool:
        return self._admin.pgconn.ssl_in_use

    @property
    def system_identifier(self) -> str:
        return system_identifier_of(self._admin)

    def conninfo(self, name: str) -> str:
        return make_conninfo(self._conninfo, dbname=name)

    def owner_of(self, name: str) -> str | None:
        """Returns a database's owner, or None if it does not exist."""
        return next((row[0] for row in self._admin.execute(_OWNER, [name])), None)

    def oid_of(self, name: str) -> int | None:
        """Returns a database's oid, which a rename does not change, or None if it does not exist."""
        return next((row[0] for row in self._admin.execute(_OID, [name])), None)

    def is_empty(self, name: str) -> bool:
        with connected(self.conninfo(name)) as connection:
            return is_empty(connection)

    def missing_roles(self, roles: tuple[str, ...]) -> list[str]:
        found = {row[0] for row in self._admin.execute(_EXISTING_ROLES, [list(roles)])}
        return sorted(set(roles) - found)

    @contextlib.contextmanager
    def temporary(self, origin: Origin, *, owner: str | None) -> Iterator[tuple[str, Connection]]:
        """Create a database with the origin's encoding and collation. Yields its name and a connection to it.

        It is dropped at the end unless it was renamed.
        """
        name = f"{_TEMPORARY}{datetime.now(UTC):%Y%m%d%H%M%S}_{secrets.token_hex(4)}"
        with contextlib.ExitStack() as stack:
            with self._no_abandoned_drops():
                self._admin.execute(_create_statement(name, origin, owner))
                stack.push(self._drop_at_exit(name))
                connection = stack.enter_context(connected(self.conninfo(name)))
            yield name, connection

    def drop(self, name: str) -> None:
        """Drop a database if it exists, and end its sessions."""
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def drop_abandoned(self) -> None:
        """Drop the temporary databases of killed restores, which have no sessions."""
        if self._admin.execute(f"SELECT pg_try_advisory_lock({_LOCK_KEY})".encode()).fetchone() != (True,):
            return  # another restore is creating or renaming one; the next restore drops the others
        try:
            for (name,) in self._admin.execute(_TEMPORARY_DATABASES, [_TEMPORARY]).fetchall():
                with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.InvalidCatalogName):
                    self._admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
        finally:
            self._admin.execute(f"SELECT pg_advisory_unlock({_LOCK_KEY})".encode())

    def swap(self, new: str, connection: Connection, target: str) -> tuple[str | None, tuple[str, ...]]:
        """Rename `new` to `target`, with the target's privileges and settings, and rename the old target.

        Returns the new name of the old target, if there was one, and the statements for its privileges and settings
        that this role may not execute.

        `connection`, which leads to `new`, is closed. Both renames are one transaction: at every moment, after a crash
        too, exactly one complete database has the name. Sessions of the old database are ended, and new connections
        wait: RenameDatabase in PostgreSQL's dbcommands.c locks the database against them.
        """
        suffix = f"_replaced_{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        old = target.encode()[: _MAX_NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix
        replaced, oid = None, self.oid_of(new)
        refused: tuple[str, ...] = ()
        try:
            with self._no_abandoned_drops():
                connection.close()
                self._await_no_sessions(new)
                with self._sessions_terminated(target), self._admin.transaction():
                    settings = settings_of(self._admin, target)
                    if self.owner_of(target) is not None:
                        replaced = old
                        self._rename(target, old)
                    self._rename(new, target)
                    refused = apply_settings(self._admin, settings)
        except (psycopg.OperationalError, DatabaseFailed):
            # On a lost connection the outcome is unknown; after any other error nothing was renamed.
            if not self._admin.closed or not self._was_renamed(new, target, oid):
                raise
        return replaced, refused

    def _was_renamed(self, new: str, target: str, oid: int | None) -> bool:
        """Whether a swap with unknown outcome took effect. If not, it no longer can. Raises RestoreFailed."""
        try:
            with databases(self._conninfo, target=target) as again:
                # Waits for the lock of a swap that is still running.
                again.drop(new)
                return again.oid_of(target) == oid
        except DatabaseFailed as error:
            raise RestoreFailed(
                f"the connection was lost during the last step, so {target} is either unchanged or restored: it is"
                f" unchanged if the database {new} still exists ({error})"
            ) from error

    @contextlib.contextmanager
    def _no_abandoned_drops(self) -> Iterator[None]:
        """Exclude drop_abandoned, because a temporary database may have no sessions for a moment."""
        self._admin.execute(f"SELECT pg_advisory_lock_shared({_LOCK_KEY})".encode())
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.OperationalError):  # a lost connection has lost its locks
                self._admin.execute(f"SELECT pg_advisory_unlock_shared({_LOCK_KEY})".encode())

    def _drop_at_exit(self, name: str) -> Callable[[object, BaseException | None, object], None]:
        def drop(_kind: object, error: BaseException | None, _traceback: object) -> None:
            try:
                self.drop(name)
            except psycopg.Error:
                # After an error, or if the connection is lost, drop_abandoned drops it later.
                if error is None and not self._admin.closed:
                    raise

        return drop

    def _await_no_sessions(self, name: str) -> None:
        """Wait until the closed sessions have ended; otherwise RENAME waits, with the database locked."""
        for _ in range(_MAX_SESSION_CHECKS):
            if not self._admin.execute(_SESSIONS, [name]).fetchall():
                return
            time.sleep(_SESSION_CHECK_INTERVAL_S)

    def _rename(self, old: str, new: str) -> None:
        self._admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new)))

    @contextlib.contextmanager
    def _sessions_terminated(self, name: str) -> Iterator[None]:
        """Keep terminating a database's sessions while the context lasts."""
        with connected(make_conninfo(self._conninfo, dbname=self._admin.info.dbname)) as connection:
            done = threading.Event()
            thread = threading.Thread(
                target=_terminate_sessions, args=(connection, name, done), name="backup swap", daemon=True
            )
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()


@contextlib.contextmanager
def databases(conninfo: str, *, target: str | None = None) -> Iterator[Databases]:
    """Connects to a database other than `target`, which can be renamed then.

    Raises DatabaseFailed, also for a server behind a pooler.
    """
    names = [name for name in _ADMIN_DATABASES if name != target]
    for name in names:
        try:
            with connected(make_conninfo(conninfo, dbname=name)):
                break
        except DatabaseFailed:
            continue
    else:
        name = names[0]  # the connection below raises its error
    with connected(make_conninfo(conninfo, dbname=name)) as admin:
        require_direct(admin)
        yield Databases(conninfo, admin)


def server_of(conninfo: str) -> str:
    """Returns the server's system identifier, even if the database does not exist. Raises DatabaseFailed."""
    try:
        with connected(conninfo) as connection:
            return system_identifier_of(connection)
    except DatabaseFailed:
        with databases(conninfo) as server:
            return server.system_identifier


def _terminate_sessions(connection: Connection, name: str, done: threading.Event) -> None:
    with contextlib.suppress(psycopg.Error):  # the rename reports a lost connection
        while True:
            for (pid,) in connection.execute(_SESSIONS, [name]).fetchall():
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):  # the rename reports this session
                    connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            if done.wait(_TERMINATE_INTERVAL_S):
                return


def _create_statement(name: str, origin: Origin, owner: str | None) -> sql.Composed:
    collation = origin.collation
    options = {
        "ENCODING": collation.encoding,
        "LOCALE_PROVIDER": collation.provider,
        "LC_COLLATE": collation.collate,
        "LC_CTYPE": collation.ctype,
    }
    if collation.locale is not None:
        if collation.provider not in {"icu", "builtin"}:
            raise DatabaseFailed(f"unknown locale provider {collation.provider}")
        options["ICU_LOCALE" if collation.provider == "icu" else "BUILTIN_LOCALE"] = collation.locale
    if collation.rules is not None:
        options["ICU_RULES"] = collation.rules
    clauses = [sql.SQL("{} {}").format(sql.SQL(option), sql.Literal(value)) for option, value in options.items()]
    if owner is not None:
        clauses.append(sql.SQL("OWNER {}").format(sql.Identifier(owner)))
    return sql.SQL("CREATE DATABASE {} TEMPLATE template0 STRATEGY wal_log {}").format(
        sql.Identifier(name), sql.SQL(" ").join(clauses)
    )
