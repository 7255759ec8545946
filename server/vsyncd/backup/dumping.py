"""Creates a backup: pg_dump and a content summary run at the same time, on the same snapshot."""

import contextlib
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from psycopg import IsolationLevel

from vsyncd.backup.errors import BackupError, StorageFailed
from vsyncd.backup.inspection import Connection, background_summary, connected, fetch_one, origin_of, require_direct
from vsyncd.backup.manifest import (
    DUMP,
    MANIFEST,
    SUMS,
    ContentSummary,
    FileEntry,
    Manifest,
    file_entry,
    name_of,
    write_manifest,
    write_sums,
)
from vsyncd.backup.pg_tools import (
    DBNAME,
    Credentials,
    PgTools,
    ProgramFailed,
    build_options,
    credentials,
    find_pg_tools,
    run_program,
)
from vsyncd.backup.records import Backup, BackupConfig
from vsyncd.backup.store import BackupStore, Workspace, file_sizes, read_pieces, write_file
from vsyncd.backup.tasks import Progress, Task, run_parallel
from vsyncd.session_settings import for_programs

_TAKE_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('vsyncd backup', 0))"
_SNAPSHOT: Final = "SELECT pg_export_snapshot(), transaction_timestamp()"
# How long pg_dump and the summary wait for a table, which a running migration may have locked.
_LOCK_TIMEOUT: Final = "300s"


def create_backup(config: BackupConfig, task: Task) -> Backup:
    """Back up a database. Raises BackupError, also if another backup of it is running, and keeps nothing then."""
    started = time.monotonic()
    conninfo = config.conninfo()
    with connected(conninfo) as connection:
        require_direct(connection)
        origin = origin_of(connection)
        needed = build_options(compression=config.compression, encrypted=connection.pgconn.ssl_in_use)
        tools = find_pg_tools(origin.server_major, folder=config.pg_bin, options=needed)
        snapshot, at = _export_snapshot(connection)
        name = name_of(origin.database, at)
        with credentials(*for_programs(conninfo)) as access, config.store.workspace(name) as workspace:
            with background_summary(connection, config.schema) as summary:
                _run_pg_dump(tools, snapshot, workspace, config=config, access=access, summary=summary, task=task)
                content = task.await_result(summary)
            # Releases the lock, and lets VACUUM remove rows that only the snapshot sees.
            connection.rollback()
            manifest = Manifest(
                name=name,
                created_at=at,
                files=_checksums(workspace.folder, jobs=config.jobs, task=task),
                duration_seconds=round(time.monotonic() - started, 3),
                vsyncd_version=config.vsyncd_version,
                pg_dump_version=tools.version,
                dump_format=config.dump_format,
                compression=config.compression,
                origin=origin,
                content=content,
            )
            return _keep(config.store, workspace, manifest, task)


def _export_snapshot(connection: Connection) -> tuple[str, datetime]:
    """Begin a transaction. Returns the id of its snapshot, which is valid until it ends, and its time."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.autocommit = False
    if connection.execute(_TAKE_LOCK).fetchone() != (True,):
        raise BackupError(f"another backup of the database {connection.info.dbname} is running")
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    # The summary ends long before pg_dump: parallel workers would only take processors from pg_dump.
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    snapshot, at = fetch_one(connection, _SNAPSHOT)
    return snapshot, at.astimezone(UTC)


def _run_pg_dump(
    tools: PgTools,
    snapshot: str,
    workspace: Workspace,
    *,
    config: BackupConfig,
    access: Credentials,
    summary: Future[ContentSummary],
    task: Task,
) -> None:
    """Run pg_dump. Raises BackupError, and the summary's error if that fails first."""
    command: list[str | Path] = [
        tools.folder / "pg_dump",
        DBNAME,
        f"--format={config.dump_format}",
        f"--file={workspace.folder / DUMP}",
        f"--compress={config.compression}",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={_LOCK_TIMEOUT}",
        # Unlogged tables hold the cache's changes, which refer to this cluster's transaction ids.
        "--no-unlogged-table-data",
        "--no-password",
        "--verbose",
        *([f"--jobs={config.jobs}"] if config.dump_format == "directory" else []),
    ]
    tables = 0

    def on_line(line: str) -> None:
        nonlocal tables
        tables += "dumping contents of table" in line

    def on_tick() -> None:
        if summary.done():
            summary.result()
        with contextlib.suppress(FileNotFoundError):
            task.report(Progress("dump", done=tables, written=sum(file_sizes(workspace.folder).values())))

    try:
        run_program(
            command, credentials=access, task=task, on_line=on_line, on_tick=on_tick, descriptors=[workspace.lock]
        )
    except ProgramFailed as error:
        raise BackupError(str(error)) from error


def _checksums(folder: Path, *, jobs: int, task: Task) -> tuple[FileEntry, ...]:
    sizes = file_sizes(folder)
    on_bytes = task.count_bytes("checksums", sum(sizes.values()))
    try:
        return tuple(
            run_parallel(
                lambda path: file_entry(path, read_pieces(folder / path), on_bytes), list(sizes), jobs=jobs, task=task
            )
        )
    except OSError as error:
        raise StorageFailed(f"{folder} cannot be read: {error.strerror}") from error


def _keep(store: BackupStore, workspace: Workspace, manifest: Manifest, task: Task) -> Backup:
    data = write_manifest(manifest)
    sums = write_sums(manifest.files, data)
    try:
        write_file(workspace.folder / SUMS, sums)
        write_file(workspace.folder / MANIFEST, data)
    except OSError as error:
        raise StorageFailed(f"{workspace.folder} cannot be written to: {error.strerror}") from error
    store.keep(workspace, manifest.name, task.count_bytes("store", manifest.size))
    return Backup(name=manifest.name, size=manifest.size + len(data) + len(sums), manifest=manifest)
