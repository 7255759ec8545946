"""Backups of a test's database, and direct queries about databases and sessions."""

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
from vsyncd.backup.manager import Backups
from vsyncd.backup.records import BackupConfig, Retention
from vsyncd.backup.store import BackupStore, FolderStore
from vsyncd.embedded.account import Account
from vsyncd.embedded.postgres import reachable_binaries
from vsyncd.migrate import latest_versions

from tests.harness.clusters import Database


def backups_in(conninfo: str, folder: Path, *, store: BackupStore | None = None, **options: Any) -> Backups:
    """Returns the backups of a database in a folder; `options` change the configuration."""
    config = BackupConfig(
        conninfo=lambda: make_conninfo(conninfo, application_name="vsyncd backup"),
        database=str(conninfo_to_dict(conninfo)["dbname"]),
        schema="vsync",
        store=store or FolderStore(folder),
        retention=Retention(days=7, count=0),
        known_migrations=latest_versions(),
        vsyncd_version="1.2.3",
        compression="gzip:1",
        jobs=2,
    )
    return Backups(replace(config, **options))


def wheel(version: int = 18) -> Path:
    """Returns the folder of the wheel's client programs, which are built without zstd and TLS."""
    return reachable_binaries(version=version, account=Account(name="ourselves"), data_dir=Path("/nonexistent"))


def only(backups: Backups) -> str:
    """Returns the name of the only backup."""
    return backups.list()[0].name


def into(backups: Backups, target: Database) -> Backups:
    """Returns the same backups, with another target database."""
    return elsewhere(backups, target.admin)


def elsewhere(backups: Backups, conninfo: str, **options: Any) -> Backups:
    """Returns the same backups, for another database or server; `options` change the configuration."""
    database = str(conninfo_to_dict(conninfo)["dbname"])
    return Backups(replace(backups.config, conninfo=lambda: conninfo, database=database, **options))


def content(conninfo: str) -> dict[str, list[str]]:
    """Returns every row of vsyncd's logged tables as text, sorted, by table."""
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
    """Returns the names of temporary and replaced databases on the server."""
    with psycopg.connect(conninfo, dbname="postgres") as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^vsyncd_restoring_|_replaced_'")
        return {row[0] for row in rows}


def drop(conninfo: str, *names: str) -> None:
    """Drop databases and end their sessions."""
    with psycopg.connect(conninfo, dbname="postgres", autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def locked(database: Database, table: str = "vsync.imports") -> Iterator[psycopg.Connection]:
    """Locks a table against readers while the context lasts, so that pg_dump waits."""
    with psycopg.connect(database.admin) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield connection


def waits(conninfo: str, application: str) -> Callable[[], bool]:
    """Returns a check whether a session of this application waits for a lock."""

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
    """Returns the sessions that wait for a lock in a query like this; `LOCK TABLE%` is pg_dump's."""
    with psycopg.connect(conninfo) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND wait_event_type = 'Lock'"
            " AND datname = current_database()",
            [query],
        )
        return [row[0] for row in found]


class InThread:
    """Runs a function in a thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._result = work()
        except Exception as error:  # noqa: BLE001 - `result` raises it
            self._error = error

    def result(self) -> Any:
        """Wait for the end. Returns the result, or raises the exception."""
        self._thread.join(120)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._result


def has_ended(process: psutil.Process) -> bool:
    """Whether the process has ended, even if its exit code was not collected yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def environment(database: Database, folder: Path, **more: str) -> Mapping[str, str]:
    """Returns the environment variables of a vsyncd that backs up this database."""
    return {
        "DATABASE_URL": database.service_url,
        "BACKUP_URL": database.admin,
        "BACKUP_DIR": str(folder),
        "PARALLEL_JOBS": "2",
        **more,
    }
