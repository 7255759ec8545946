"""Makes a backup: pg_dump and a census, both of one snapshot, at the same time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from psycopg import IsolationLevel

from vsyncd.backup.content_summary import Connection, Counting, connected, origin_of, require_direct
from vsyncd.backup.credentials import DBNAME, Credentials, credentials, require_tellable
from vsyncd.backup.errors import BackupRunning, DatabaseFailed, DumpFailed, StorageFailed
from vsyncd.backup.folder import write_file
from vsyncd.backup.manifest import (
    DUMP,
    MANIFEST,
    SUMS,
    DumpFormat,
    FileEntry,
    Manifest,
    name_of,
    write_manifest,
    write_sums,
)
from vsyncd.backup.pg_tools import PgTools, abilities, find_pg_tools
from vsyncd.backup.progress import OnProgress, Progress
from vsyncd.backup.records import Backup
from vsyncd.backup.store import Store, Workspace
from vsyncd.backup.subprocesses import ProgramFailed, Stop, run_program
from vsyncd.session_settings import for_programs

_TAKE_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('vsyncd backup', 0))"
_SNAPSHOT: Final = "SELECT pg_export_snapshot(), transaction_timestamp()"
# For the locks that pg_dump and the census take, against a migration that runs.
_LOCK_WAIT: Final = "300s"
_PIECE: Final = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """How to dump. `compression` is pg_dump's: gzip, zstd:3, none; `jobs` connections at once, in the directory format.
    `vsyncd_version` is for the manifest."""

    dump_format: DumpFormat = "directory"
    compression: str = "gzip"
    jobs: int = 4
    programs: Path | None = None
    vsyncd_version: str = ""


def make_backup(
    conninfo: str, schema: str, store: Store, options: DumpOptions, *, on_progress: OnProgress, stop: Stop
) -> Backup:
    """Back up a whole database, and keep it. Raises BackupError; then nothing was kept.

    One at a time for each database: whoever comes second gets BackupRunning.
    """
    began = time.monotonic()
    require_tellable(conninfo)
    with connected(conninfo) as connection:
        require_direct(connection)
        origin = origin_of(connection)
        needs = abilities(compression=options.compression, encrypted=connection.pgconn.ssl_in_use)
        programs = find_pg_tools(origin.server_major, folder=options.programs, needs=needs)
        with _snapshot(connection) as (snapshot, at), store.workspace(name_of(origin.database, at)) as workspace:
            dump = _Dump(workspace, programs, options, on_progress, stop)
            with credentials(*for_programs(conninfo)) as access, Counting(connection, schema) as counting:
                dump.run(dump.command(snapshot), access, counting.check)
                census = counting.result(stop.check)
            # Others may begin now, and vacuum need not keep the snapshot's rows any longer.
            connection.rollback()
            files = dump.files()
            manifest = Manifest(
                name=name_of(origin.database, at),
                created_at=at,
                seconds=round(time.monotonic() - began, 3),
                vsyncd_version=options.vsyncd_version,
                pg_dump_version=programs.version,
                dump_format=options.dump_format,
                compression=options.compression,
                origin=origin,
                census=census,
                files=files,
            )
            _keep(store, workspace, manifest, on_progress=on_progress, stop=stop)
    return Backup(name=manifest.name, size=manifest.size, manifest=manifest)


class _Dump:
    """One run of pg_dump in a workspace."""

    def __init__(
        self, workspace: Workspace, programs: PgTools, options: DumpOptions, on_progress: OnProgress, stop: Stop
    ) -> None:
        self._workspace = workspace
        self._programs = programs
        self._options = options
        self._on_progress = on_progress
        self._stop = stop
        self._tables = 0

    def command(self, snapshot: str) -> list[str]:
        """The command line. What is secret stands in the environment's files."""
        options = self._options
        jobs = [f"--jobs={options.jobs}"] if options.dump_format == "directory" else []
        return [
            self._programs.path("pg_dump"),
            DBNAME,
            f"--format={options.dump_format}",
            f"--file={self._workspace.folder / DUMP}",
            f"--compress={options.compression}",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={_LOCK_WAIT}",
            # Tables that a crash empties hold what is worth nothing elsewhere: the cache's changes, by this cluster's
            # transaction ids.
            "--no-unlogged-table-data",
            "--no-password",
            "--verbose",
            *jobs,
        ]

    def run(self, command: list[str], access: Credentials, check: Callable[[], None]) -> None:
        """Run it. `check` is called in between. Raises DumpFailed."""

        def tick() -> None:
            check()
            self._on_progress(Progress("dump", done=self._tables, written=self._written()))

        try:
            run_program(
                command,
                environment=access.environment,
                stop=self._stop,
                on_line=self._count,
                on_tick=tick,
                holding=[*access.holding, self._workspace.lock],
            )
        except ProgramFailed as error:
            raise DumpFailed(f"pg_dump: {error}") from error
        except OSError as error:
            raise DumpFailed(f"pg_dump cannot be run: {error.strerror}") from error

    def files(self) -> tuple[FileEntry, ...]:
        """What it wrote. As many files at once are read as were written at once."""
        folder = self._workspace.folder
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        total, done, entries, ended = self._written(), 0, [], Stop()

        def check() -> None:
            self._stop.check()
            ended.check()

        with ThreadPoolExecutor(self._options.jobs, thread_name_prefix="backup checksums") as threads:
            try:
                for entry in threads.map(lambda path: self._entry(path, check), paths):
                    entries.append(entry)
                    done += entry.size
                    self._on_progress(Progress("checksums", done=done, total=total))
            except OSError as error:
                raise StorageFailed(f"{folder} cannot be read: {error.strerror}") from error
            finally:
                ended.ask()
                threads.shutdown(cancel_futures=True)
        return tuple(entries)

    def _entry(self, path: Path, check: Callable[[], None]) -> FileEntry:
        name = path.relative_to(self._workspace.folder).as_posix()
        return FileEntry(path=name, size=path.stat().st_size, sha256=sha256_of(path, check))

    def _count(self, line: str) -> None:
        self._tables += "dumping contents of table" in line

    def _written(self) -> int:
        total = 0
        for folder, _, names in os.walk(self._workspace.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(folder) / name).stat().st_size
        return total


def sha256_of(path: Path, check: Callable[[], None]) -> str:
    """Of a file, in hexadecimal. `check` is called before each piece, and what it raises ends it. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        check()
        while piece := file.read(_PIECE):
            digest.update(piece)
            check()
    return digest.hexdigest()


@contextlib.contextmanager
def _snapshot(connection: Connection) -> Iterator[tuple[str, datetime]]:
    """A snapshot that others can use for as long as the context lasts, and its time."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.autocommit = False
    if connection.execute(_TAKE_LOCK).fetchone() != (True,):
        raise BackupRunning(f"another backup of the database {connection.info.dbname} is being made")
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'".encode())
    # The census has long been taken when pg_dump is done: its workers would only take pg_dump's processors.
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    row = connection.execute(_SNAPSHOT).fetchone()
    if row is None:
        raise DatabaseFailed("the server gave no snapshot")
    yield row[0], row[1].astimezone(UTC)


def _keep(store: Store, workspace: Workspace, manifest: Manifest, *, on_progress: OnProgress, stop: Stop) -> None:
    data = write_manifest(manifest)
    try:
        write_file(workspace.folder / SUMS, write_sums(manifest.files, data))
        write_file(workspace.folder / MANIFEST, data)
    except OSError as error:
        raise StorageFailed(f"{workspace.folder} cannot be written to: {error.strerror}") from error
    sent = 0

    def on_bytes(count: int) -> None:
        nonlocal sent
        stop.check()
        sent += count
        on_progress(Progress("keep", done=sent, total=manifest.size))

    store.keep(workspace, manifest.name, on_bytes)
