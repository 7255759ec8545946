"""Creates a backup: pg_dump and a content summary run at the same time, on the same snapshot."""

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from psycopg import IsolationLevel

from vsyncd.backup.connection import Connection, connected, fetch_one, origin_of, require_direct
from vsyncd.backup.content_summary import background_summary
from vsyncd.backup.errors import BackupRunning, DumpFailed, StorageFailed
from vsyncd.backup.folder import read_pieces, write_file
from vsyncd.backup.manifest import (
    DUMP,
    MANIFEST,
    SUMS,
    ContentSummary,
    DumpFormat,
    FileEntry,
    Manifest,
    file_entry,
    name_of,
    write_manifest,
    write_sums,
)
from vsyncd.backup.pg_tools import PgTools, build_options, find_pg_tools
from vsyncd.backup.records import Backup
from vsyncd.backup.store import BackupStore, Workspace
from vsyncd.backup.subprocesses import (
    DBNAME,
    Credentials,
    ProgramFailed,
    credentials,
    require_expressible,
    run_program,
)
from vsyncd.backup.tasks import ByteCounter, Check, OnProgress, Progress, Stop, await_result, run_parallel
from vsyncd.session_settings import for_programs

_TAKE_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('vsyncd backup', 0))"
_SNAPSHOT: Final = "SELECT pg_export_snapshot(), transaction_timestamp()"
# How long pg_dump and the summary wait for a table, which a running migration may have locked.
_LOCK_TIMEOUT: Final = "300s"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """`compression` as pg_dump takes it: gzip, zstd:3, none. `jobs`: parallel connections, in the directory format.

    `pg_bin`: the folder of pg_dump; searched if None. `vsyncd_version` goes into the manifest.
    """

    dump_format: DumpFormat = "directory"
    compression: str = "gzip"
    jobs: int = 4
    pg_bin: Path | None = None
    vsyncd_version: str = ""


def create_backup(
    conninfo: str, schema: str, store: BackupStore, options: DumpOptions, *, on_progress: OnProgress, stop: Stop
) -> Backup:
    """Back up a database. Raises BackupError, and keeps nothing then.

    Only one backup of a database runs at a time: others raise BackupRunning.
    """
    started = time.monotonic()
    require_expressible(conninfo)
    with connected(conninfo) as connection:
        require_direct(connection)
        origin = origin_of(connection)
        needed = build_options(compression=options.compression, encrypted=connection.pgconn.ssl_in_use)
        tools = find_pg_tools(origin.server_major, folder=options.pg_bin, options=needed)
        with _snapshot(connection) as (snapshot, at), store.workspace(name_of(origin.database, at)) as workspace:
            dump = _Dump(workspace, tools, options, on_progress, stop)
            with credentials(*for_programs(conninfo)) as access, background_summary(connection, schema) as summary:
                dump.run(snapshot, access, summary)
                content = await_result(summary, stop.check)
            # Releases the lock, and lets VACUUM remove rows that only the snapshot sees.
            connection.rollback()
            files = dump.files()
            manifest = Manifest(
                name=name_of(origin.database, at),
                created_at=at,
                duration_seconds=round(time.monotonic() - started, 3),
                vsyncd_version=options.vsyncd_version,
                pg_dump_version=tools.version,
                dump_format=options.dump_format,
                compression=options.compression,
                origin=origin,
                content=content,
                files=files,
            )
            return _keep(store, workspace, manifest, on_progress=on_progress, stop=stop)


class _Dump:
    """One run of pg_dump in a workspace."""

    def __init__(
        self, workspace: Workspace, tools: PgTools, options: DumpOptions, on_progress: OnProgress, stop: Stop
    ) -> None:
        self._workspace = workspace
        self._tools = tools
        self._options = options
        self._on_progress = on_progress
        self._stop = stop
        self._tables = 0

    def run(self, snapshot: str, access: Credentials, summary: Future[ContentSummary]) -> None:
        """Run pg_dump. Raises DumpFailed, and the summary's error if that fails first."""

        def on_tick() -> None:
            if summary.done():
                summary.result()
            self._on_progress(Progress("dump", done=self._tables, written=self._size()))

        try:
            run_program(
                self._command(snapshot),
                credentials=access,
                stop=self._stop,
                on_line=self._count_table,
                on_tick=on_tick,
                descriptors=[self._workspace.lock],
            )
        except ProgramFailed as error:
            raise DumpFailed(str(error)) from error

    def files(self) -> tuple[FileEntry, ...]:
        folder = self._workspace.folder
        counter = ByteCounter("checksums", self._size(), self._on_progress)

        def entry(path: Path, check: Check) -> FileEntry:
            def on_bytes(count: int) -> None:
                check()
                counter.add(count)

            return file_entry(path.relative_to(folder).as_posix(), read_pieces(path), on_bytes)

        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        try:
            return tuple(run_parallel(entry, paths, jobs=self._options.jobs, stop=self._stop, on_tick=counter.report))
        except OSError as error:
            raise StorageFailed(f"{folder} cannot be read: {error.strerror}") from error

    def _command(self, snapshot: str) -> list[str | Path]:
        options = self._options
        return [
            self._tools.folder / "pg_dump",
            DBNAME,
            f"--format={options.dump_format}",
            f"--file={self._workspace.folder / DUMP}",
            f"--compress={options.compression}",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={_LOCK_TIMEOUT}",
            # Unlogged tables hold the cache's changes, which refer to this cluster's transaction ids.
            "--no-unlogged-table-data",
            "--no-password",
            "--verbose",
            *([f"--jobs={options.jobs}"] if options.dump_format == "directory" else []),
        ]

    def _count_table(self, line: str) -> None:
        self._tables += "dumping contents of table" in line

    def _size(self) -> int:
        total = 0
        for folder, _, names in os.walk(self._workspace.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(folder) / name).stat().st_size
        return total


@contextlib.contextmanager
def _snapshot(connection: Connection) -> Iterator[tuple[str, datetime]]:
    """Export a snapshot that is valid while the context lasts. Yields its id and its time."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.autocommit = False
    if connection.execute(_TAKE_LOCK).fetchone() != (True,):
        raise BackupRunning(f"another backup of the database {connection.info.dbname} is running")
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    # The summary ends long before pg_dump: parallel workers would only take processors from pg_dump.
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    snapshot, at = fetch_one(connection, _SNAPSHOT)
    yield snapshot, at.astimezone(UTC)


def _keep(
    store: BackupStore, workspace: Workspace, manifest: Manifest, *, on_progress: OnProgress, stop: Stop
) -> Backup:
    data = write_manifest(manifest)
    sums = write_sums(manifest.files, data)
    try:
        write_file(workspace.folder / SUMS, sums)
        write_file(workspace.folder / MANIFEST, data)
    except OSError as error:
        raise StorageFailed(f"{workspace.folder} cannot be written to: {error.strerror}") from error
    counter = ByteCounter("store", manifest.size, on_progress)

    def on_bytes(count: int) -> None:
        stop.check()
        counter.add(count)
        counter.report()

    store.keep(workspace, manifest.name, on_bytes)
    return Backup(name=manifest.name, size=manifest.size + len(data) + len(sums), manifest=manifest)
