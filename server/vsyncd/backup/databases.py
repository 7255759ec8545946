"""Databases made, swapped and dropped, over a connection to another database of the server."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vsyncd.backup.content_summary import Connection, connected, is_empty, require_direct, system_identifier_of
from vsyncd.backup.database_settings import give, standing_of
from vsyncd.backup.errors import DatabaseFailed, RestoreFailed
from vsyncd.backup.manifest import Origin

# What a database is called until it is whole. Its maker is connected to it all the time.
_UNFINISHED: Final = "vsyncd_restoring_"
_KEY: Final = "hashtextextended('vsyncd restore', 0)"
# Where one connects to make and rename others.
_PLACES: Final = ("postgres", "template1")
_DISMISS_SECONDS: Final = 0.05
# What does not go within these, the rename waits for, and names.
_LOOKS: Final = 50
_LOOK_SECONDS: Final = 0.005
_LONGEST_NAME: Final = 63

_FIND: Final = "SELECT pg_get_userbyid(datdba) FROM pg_catalog.pg_database WHERE datname = %s"
_OID: Final = "SELECT oid FROM pg_catalog.pg_database WHERE datname = %s"
_ROLE: Final = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(%s)"
_LEFT: Final = """
    SELECT datname FROM pg_catalog.pg_database WHERE starts_with(datname, %s) AND pg_has_role(datdba, 'USAGE')"""
_OTHERS: Final = "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


class Swapped(NamedTuple):
    """What the database is called that had the name before, if one had, and the statements that its rights and settings
    would have taken, and that this role may not execute."""

    replaced: str | None
    refused: tuple[str, ...]


class Databases:
    """The databases of one server, as the role of a connection string sees them."""

    def __init__(self, conninfo: str, admin: Connection) -> None:
        self._conninfo = conninfo
        self._admin = admin

    @property
    def server_major(self) -> int:
        """The server's major version."""
        return self._admin.info.server_version // 10_000

    @property
    def encrypted(self) -> bool:
        """Whether the connection is."""
        return self._admin.pgconn.ssl_in_use

    @property
    def system_identifier(self) -> str:
        """The server's."""
        return system_identifier_of(self._admin)

    def conninfo(self, name: str) -> str:
        """The connection string for one of them."""
        return make_conninfo(self._conninfo, dbname=name)

    def owner_of(self, name: str) -> str | None:
        """Whose it is; None when there is no such database."""
        row = self._admin.execute(_FIND, [name]).fetchone()
        return row[0] if row else None

    def is_empty(self, name: str) -> bool:
        """Whether it has nothing in it."""
        with connected(self.conninfo(name)) as connection:
            return is_empty(connection)

    def missing_roles(self, roles: tuple[str, ...]) -> list[str]:
        """Those of them that this server does not have."""
        found = {row[0] for row in self._admin.execute(_ROLE, [list(roles)])}
        return sorted(set(roles) - found)

    @contextlib.contextmanager
    def unfinished(self, origin: Origin, *, owner: str | None) -> Iterator[tuple[str, Connection]]:
        """A new database that sorts as the old one did, and a connection to it; dropped at the end unless it was
        renamed by then."""
        name = f"{_UNFINISHED}{datetime.now(UTC):%Y%m%d%H%M%S}_{secrets.token_hex(4)}"
        with contextlib.ExitStack() as stack:
            with self._unswept():
                self._admin.execute(_create(name, origin, owner))
                stack.push(self._drop_left(name))
                connection = stack.enter_context(connected(self.conninfo(name)))
            yield name, connection

    def drop(self, name: str) -> None:
        """Drop it, whoever is connected, if it is there."""
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def oid_of(self, name: str) -> int | None:
        """What stays the same when it is renamed; None when there is no such database."""
        row = self._admin.execute(_OID, [name]).fetchone()
        return row[0] if row else None

    def sweep(self) -> None:
        """Drop what killed restores left behind: it has nobody connected to it."""
        if self._admin.execute(f"SELECT pg_try_advisory_lock({_KEY})".encode()).fetchone() != (True,):
            return  # somebody is just making one; there will be another sweep
        try:
            for (name,) in self._admin.execute(_LEFT, [_UNFINISHED]).fetchall():
                with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.InvalidCatalogName):
                    self._admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
        finally:
            self._admin.execute(f"SELECT pg_advisory_unlock({_KEY})".encode())

    def put_in_place(self, new: str, connection: Connection, target: str) -> Swapped:
        """Give `new` the name of `target`, and what belongs to a database of that name (standing.py); what had the name
        gets another one. `connection`, the one to `new`, is closed.

        In one transaction: at every moment, a crash included, exactly one whole database has the name. Whoever is
        connected to the old one loses the connection, and who comes meanwhile waits; see RenameDatabase in
        PostgreSQL's dbcommands.c, which locks the database against new connections and waits for the old ones to go.
        """
        ending = f"_replaced_{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        old = target.encode()[: _LONGEST_NAME - len(ending)].decode(errors="ignore") + ending
        replaced, oid = None, self.oid_of(new)
        refused: tuple[str, ...] = ()
        try:
            with self._unswept():
                connection.close()
                self._await_silence(new)
                with self._dismissed(target), self._admin.transaction():
                    standing = standing_of(self._admin, target, to=target)
                    if self.owner_of(target) is not None:
                        replaced = old
                        self._rename(target, old)
                    self._rename(new, target)
                    refused = give(self._admin, standing)
        except (psycopg.OperationalError, DatabaseFailed):
            # What the server refused was not done. What it did not answer it may have done.
            if not self._admin.closed or not self._was_renamed(new, target, oid):
                raise
        return Swapped(replaced, refused)

    def _was_renamed(self, new: str, target: str, oid: int | None) -> bool:
        """Whether a swap whose answer did not come was made; if not, it is not any more. Raises RestoreFailed."""
        try:
            with databases(self._conninfo, target=target) as again:
                # Behind a swap that is still under way: it waits for the lock on the database.
                again.drop(new)
                return again.oid_of(target) == oid
        except DatabaseFailed as error:
            raise RestoreFailed(
                f"the server went during the last step, so that {target} is as it was or is what was restored; when the"
                f" server is back, look whether there is a database {new}: then it is as it was. ({error})"
            ) from error

    @contextlib.contextmanager
    def _unswept(self) -> Iterator[None]:
        """Nobody sweeps as long as the context lasts: a database of ours may have nobody connected."""
        self._admin.execute(f"SELECT pg_advisory_lock_shared({_KEY})".encode())
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.OperationalError):  # a server that went has no locks
                self._admin.execute(f"SELECT pg_advisory_unlock_shared({_KEY})".encode())

    def _drop_left(self, name: str) -> Callable[[object, BaseException | None, object], None]:
        def leave(_kind: object, error: BaseException | None, _traceback: object) -> None:
            try:
                self.drop(name)
            except psycopg.Error:
                # A server that went is what went wrong; `sweep` drops it then. Or it went when all was done.
                if error is None and not self._admin.closed:
                    raise

        return leave

    def _await_silence(self, name: str) -> None:
        """Until the server has noticed that everybody went: who renames meanwhile waits for a tenth of a second, with
        the database locked."""
        for _ in range(_LOOKS):
            if not self._admin.execute(_OTHERS, [name]).fetchall():
                return
            time.sleep(_LOOK_SECONDS)

    def _rename(self, old: str, new: str) -> None:
        self._admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new)))

    @contextlib.contextmanager
    def _dismissed(self, name: str) -> Iterator[None]:
        """End every connection to a database, again and again, as long as the context lasts."""
        with connected(make_conninfo(self._conninfo, dbname=self._admin.info.dbname)) as connection:
            done = threading.Event()
            thread = threading.Thread(target=_dismiss, args=(connection, name, done), name="backup swap", daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()


@contextlib.contextmanager
def databases(conninfo: str, *, target: str | None = None) -> Iterator[Databases]:
    """The databases of a server, over a connection to another one than `target`, which can be renamed then.

    Raises DatabaseFailed, also for a server behind a pooler.
    """
    places = [place for place in _PLACES if place != target]
    for place in places:
        try:
            with connected(make_conninfo(conninfo, dbname=place)):
                break
        except DatabaseFailed:
            continue
    else:
        place = places[0]  # whose error is the one to show
    with connected(make_conninfo(conninfo, dbname=place)) as admin:
        require_direct(admin)
        yield Databases(conninfo, admin)


def server_of(conninfo: str) -> str:
    """The system identifier of the server, also where the database itself is gone. Raises DatabaseFailed."""
    try:
        with connected(conninfo) as connection:
            return system_identifier_of(connection)
    except DatabaseFailed:
        with databases(conninfo) as server:
            return server.system_identifier


def _dismiss(connection: Connection, name: str, done: threading.Event) -> None:
    # What it cannot end, the rename will name. A server that goes makes the rename fail too.
    with contextlib.suppress(psycopg.Error):
        while True:
            for (pid,) in connection.execute(_OTHERS, [name]).fetchall():
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                    connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            if done.wait(_DISMISS_SECONDS):
                return


def _create(name: str, origin: Origin, owner: str | None) -> sql.Composed:
    collation = origin.collation
    options = {
        "ENCODING": collation.encoding,
        "LOCALE_PROVIDER": collation.provider,
        "LC_COLLATE": collation.collate,
        "LC_CTYPE": collation.ctype,
    }
    if collation.locale is not None:
        if collation.provider not in {"icu", "builtin"}:
            raise DatabaseFailed(f"the locale provider {collation.provider} is not known")
        options["ICU_LOCALE" if collation.provider == "icu" else "BUILTIN_LOCALE"] = collation.locale
    if collation.rules is not None:
        options["ICU_RULES"] = collation.rules
    parts = [sql.SQL("{} {}").format(sql.SQL(option), sql.Literal(value)) for option, value in options.items()]
    if owner is not None:
        parts.append(sql.SQL("OWNER {}").format(sql.Identifier(owner)))
    return sql.SQL("CREATE DATABASE {} TEMPLATE template0 STRATEGY wal_log {}").format(
        sql.Identifier(name), sql.SQL(" ").join(parts)
    )
