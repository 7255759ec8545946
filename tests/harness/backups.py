"""Backups of a test's database, and what PostgreSQL itself says of two databases."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from vsyncd.backup.dumping import DumpOptions
from vsyncd.backup.folder import FolderStore
from vsyncd.backup.manager import Backups, Site
from vsyncd.backup.restoring import RestoreOptions
from vsyncd.backup.retention import Retention
from vsyncd.backup.store import Store
from vsyncd.embedded.account import Account
from vsyncd.embedded.binaries import reachable_binaries
from vsyncd.migrate import latest_versions

from tests.harness.clusters import Database


def backups_in(conninfo: str, folder: Path, *, store: Store | None = None, **options: Any) -> Backups:
    """The backups of a database, kept in a folder; `options` are DumpOptions'."""
    site = Site(
        conninfo=lambda: make_conninfo(conninfo, application_name="vsyncd backup"),
        database=str(conninfo_to_dict(conninfo)["dbname"]),
        schema="vsync",
        store=store or FolderStore(folder),
        dump=replace(DumpOptions(jobs=2, compression="gzip:1", vsyncd_version="1.2.3"), **options),
        restore=RestoreOptions(jobs=2, programs=options.get("programs"), known=latest_versions()),
        retention=Retention(days=7, count=0),
    )
    return Backups(site)


def wheel(version: int = 18) -> Path:
    """The folder of the wheel's client programs, which know neither zstd nor TLS."""
    return reachable_binaries(version=version, account=Account(name="ourselves"), data_dir=Path("/nonexistent"))


def elsewhere(backups: Backups, conninfo: str, **restore: Any) -> Backups:
    """The same backups, for another database or another server; `restore` changes RestoreOptions."""
    database = str(conninfo_to_dict(conninfo)["dbname"])
    site = replace(backups.site, conninfo=lambda: conninfo, database=database)
    return Backups(replace(site, restore=replace(site.restore, **restore)))


def content(conninfo: str) -> dict[str, list[str]]:
    """Every row of every logged table of vsyncd's, as text, in order."""
    with psycopg.connect(conninfo) as connection:
        names = connection.execute(
            "SELECT c.relname FROM pg_class AS c WHERE c.relkind = 'r' AND c.relpersistence = 'p'"
            " AND c.relnamespace = 'vsync'::regnamespace"
        ).fetchall()
        return {
            name: [
                row[0]
                for row in connection.execute(
                    sql.SQL("SELECT t::text FROM ONLY {} AS t ORDER BY 1").format(sql.Identifier("vsync", name))
                )
            ]
            for (name,) in names
        }


def databases_of(conninfo: str) -> set[str]:
    """The names of a server's databases that look like work of a restore."""
    with psycopg.connect(conninfo, dbname="postgres") as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^vsyncd_restoring_|_replaced_'")
        return {row[0] for row in rows}


def drop(conninfo: str, *names: str) -> None:
    """Drop databases, whoever is connected."""
    with psycopg.connect(conninfo, dbname="postgres", autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def locked(database: Database, table: str = "vsync.imports") -> Iterator[psycopg.Connection]:
    """A table that nobody else can read, for as long as the context lasts: pg_dump waits for it."""
    with psycopg.connect(database.admin) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield connection


def waits(conninfo: str, application: str) -> Callable[[], bool]:
    """Whether a session of this application waits for a lock."""

    def look() -> bool:
        with psycopg.connect(conninfo) as connection:
            return (
                connection.execute(
                    "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = %s"
                    " AND datname = current_database()",
                    [application],
                ).fetchone()
                is not None
            )

    return look


def waiting(conninfo: str, query: str) -> list[int]:
    """The sessions that wait for a lock in a query like this: `LOCK TABLE%` is pg_dump's."""
    with psycopg.connect(conninfo) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND wait_event_type = 'Lock'"
            " AND datname = current_database()",
            [query],
        )
        return [row[0] for row in found]


class InThread:
    """Work in a thread: its result, or what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._result = work()
        except Exception as error:  # noqa: BLE001  whoever joins gets it
            self._error = error

    def result(self) -> Any:
        """Wait for it."""
        self._thread.join(120)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._result


def has_ended(process: psutil.Process) -> bool:
    """Whether it has, also where nobody has asked yet what with."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def environment(database: Database, folder: Path, **more: str) -> Mapping[str, str]:
    """The variables of a vsyncd that backs up this database."""
    return {
        "DATABASE_URL": database.service_url,
        "BACKUP_URL": database.admin,
        "BACKUP_DIR": str(folder),
        "PARALLEL_JOBS": "2",
        **more,
    }
