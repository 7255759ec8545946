"""Restores a backup into a new database, which gets the target's name once its content has been compared."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import psycopg
from psycopg import sql

from vsyncd.backup.databases import Databases
from vsyncd.backup.errors import (
    BackupError,
    DatabaseFailed,
    RestoreFailed,
    RestoreMismatch,
    Unrestorable,
)
from vsyncd.backup.inspection import Connection, background_summary, connected
from vsyncd.backup.manifest import DUMP, Manifest, differences
from vsyncd.backup.pg_tools import (
    DBNAME,
    PgTools,
    ProgramFailed,
    build_options,
    credentials,
    find_pg_tools,
    run_program,
)
from vsyncd.backup.records import BackupConfig
from vsyncd.backup.tasks import Progress, Task, run_parallel
from vsyncd.migrate.connections import in_one_line
from vsyncd.session_settings import for_programs

# pg_restore's messages about a rejected statement or COPY, or an unreadable dump; in English, because its locale is C.
# The server's own message follows.
_DUMP_ERROR: Final = re.compile(
    r"could not execute query: |COPY failed for table |could not uncompress data|could not decompress data"
)
# The server's messages whose cause is not the dump.
_OTHER_CAUSE: Final = re.compile(
    r"server closed the connection|terminating connection|connection to (server|client)|could not (receive|send) data"
    r"|SSL (error|connection)|the database system is|canceling statement|No space left|Disk quota|out of (shared )?mem"
    r"|could not (extend|write|open|create|read|access|load|fork|resize)|remaining connection slots|too many"
    r"|permission denied|must be (a )?(superuser|owner|member)|is not available|parameter cannot be set"
)
_TEMPLATES: Final = ("template0", "template1")
# Largest first. A partitioned table is analyzed together with its partitions.
_TABLES_BY_SIZE: Final = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
      AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    ORDER BY (SELECT sum(pg_relation_size(part)) FROM (
        SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) AS parts (part)) DESC"""


class RestoreResult(NamedTuple):
    """The restored database, and the name under which the previous one was kept.

    `refused`: statements for the previous database's privileges and settings that the restoring role may not execute.
    """

    database: str
    replaced: str | None
    refused: tuple[str, ...] = ()


def require_free(server: Databases, target: str, *, replace: bool) -> int | None:
    """Returns the oid of the target if it exists and is empty. Raises BackupError."""
    if target in _TEMPLATES:
        raise BackupError(f"{target} is a template for new databases; nothing was changed. Choose another name")
    oid = server.oid_of(target)
    if oid is None:
        return None
    try:
        if server.is_empty(target):
            return oid
    except DatabaseFailed:
        if not replace:
            raise
    if not replace:
        raise BackupError(f"the database {target} is not empty; nothing was changed. Use --force to replace it")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """The restore of one backup. pg_restore inherits `descriptors`, which hold the backup.

    `with_roles`: restores owners and privileges; otherwise the restoring role owns everything.
    """

    config: BackupConfig
    manifest: Manifest
    server: Databases
    tools: PgTools
    task: Task
    descriptors: Sequence[int]
    with_roles: bool

    @classmethod
    def prepare(
        cls,
        config: BackupConfig,
        manifest: Manifest,
        server: Databases,
        task: Task,
        descriptors: Sequence[int],
        *,
        with_roles: bool,
    ) -> Self:
        """Check that the backup suits the server, and find the tools. Raises BackupError."""
        origin = manifest.origin
        if server.server_major < origin.server_major:
            raise BackupError(
                f"the backup is of PostgreSQL {origin.server_major}, and this server is {server.server_major}:"
                " restore it into the same or a newer version"
            )
        for set_name, version in sorted(manifest.content.migrations.items()):
            known = config.known_migrations.get(set_name, 0)
            if version > known:
                raise BackupError(
                    f"the backup contains migration {version} of the set {set_name}, and this vsyncd knows only"
                    f" {known}: restore it with vsyncd {manifest.vsyncd_version} or newer"
                )
        tools = find_pg_tools(
            max(server.server_major, manifest.pg_dump_major),
            folder=config.pg_bin,
            options=build_options(compression=manifest.compression, encrypted=server.uses_tls),
        )
        if with_roles and (missing := server.missing_roles((origin.owner, *origin.roles))):
            raise BackupError(
                f"the backup contains privileges of a role that this server does not have ({', '.join(missing)}):"
                " create it, or restore without roles (--no-roles)"
            )
        return cls(
            config=config,
            manifest=manifest,
            server=server,
            tools=tools,
            task=task,
            descriptors=descriptors,
            with_roles=with_roles,
        )

    def into(self, target: str, *, replace: bool) -> RestoreResult:
        """Restore into the database `target`, completely or not at all. Raises BackupError.

        A previous database of that name is kept under another name, unless it was empty. `replace` permits one that was
        not empty.
        """
        server = self.server
        empty_oid = require_free(server, target, replace=replace)
        owner = server.owner_of(target) or (self.manifest.origin.owner if self.with_roles else None)
        with self.temporary_database(owner) as (name, connection):
            try:
                replaced, refused = server.swap(name, connection, target)
            except (psycopg.Error, DatabaseFailed) as error:
                reason = in_one_line(error) if isinstance(error, psycopg.Error) else error
                raise RestoreFailed(f"{target} was not changed: {reason}") from error
        if replaced is not None and empty_oid is not None and self._dropped(replaced, empty_oid):
            replaced = None
        return RestoreResult(target, replaced, refused)

    @contextlib.contextmanager
    def temporary_database(self, owner: str | None) -> Iterator[tuple[str, Connection]]:
        """Restore into a new database, and compare its content. Yields its name and a connection to it.

        It is dropped at the end unless it was renamed. Raises RestoreFailed.
        """
        manifest, server = self.manifest, self.server
        server.drop_abandoned()
        sizes = {file.path: file.size for file in manifest.files}
        with (
            self.config.store.local(manifest.name, sizes, self.task.count_bytes("fetch", manifest.size)) as folder,
            server.temporary(manifest.origin, owner=owner) as (name, connection),
        ):
            conninfo = server.conninfo(name)
            self._run_pg_restore(folder, conninfo)
            self.task.report(Progress("compare"))
            with background_summary(connection, manifest.content.schema) as summary:
                analyze(conninfo, jobs=self.config.jobs, task=self.task)
                found = self.task.await_result(summary)
            if problems := differences(manifest.content, found):
                raise RestoreMismatch(problems)
            yield name, connection

    def _dropped(self, name: str, oid: int) -> bool:
        """Drop the replaced database if it is the one of this oid and still empty. An error keeps it."""
        with contextlib.suppress(psycopg.Error, DatabaseFailed):
            if self.server.oid_of(name) == oid and self.server.is_empty(name):
                self.server.drop(name)
                return True
        return False

    def _run_pg_restore(self, folder: Path, conninfo: str) -> None:
        command: list[str | Path] = [
            self.tools.folder / "pg_restore",
            DBNAME,
            f"--jobs={self.config.jobs}",
            "--exit-on-error",
            "--no-password",
            "--verbose",
            *([] if self.with_roles else ["--no-owner", "--no-privileges"]),
            folder / DUMP,
        ]
        tables = 0

        def on_line(line: str) -> None:
            nonlocal tables
            tables += "processing data for table" in line

        def on_tick() -> None:
            self.task.report(Progress("restore", done=tables, total=len(self.manifest.content.tables)))

        # Commits need not be flushed one by one: the later rename commits durably, and with it everything before it.
        with credentials(*for_programs(conninfo, synchronous_commit="off")) as access:
            try:
                run_program(
                    command,
                    credentials=access,
                    task=self.task,
                    on_line=on_line,
                    on_tick=on_tick,
                    descriptors=self.descriptors,
                )
            except ProgramFailed as error:
                kind = Unrestorable if is_caused_by_dump(str(error)) else RestoreFailed
                raise kind(str(error)) from error


def is_caused_by_dump(message: str) -> bool:
    """Whether the dump's content caused pg_restore's error, and not the connection, disk space or a privilege."""
    return _DUMP_ERROR.search(message) is not None and _OTHER_CAUSE.search(message) is None


def analyze(conninfo: str, *, jobs: int, task: Task) -> None:
    """Collect planner statistics of every table, without which the first queries would use bad plans.

    Raises DatabaseFailed, Interrupted; running statements are cancelled then.
    """
    with connected(conninfo) as connection:
        tables = connection.execute(_TABLES_BY_SIZE).fetchall()
    queue = iter(tables)  # one for all threads; a step of a list's iterator is atomic
    connections: list[Connection] = []

    def work(_worker: int) -> None:
        with connected(conninfo) as connection:
            connections.append(connection)
            for table in queue:
                task.check()
                connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*table)))

    def cancel() -> None:
        for connection in connections:
            with contextlib.suppress(psycopg.Error):  # it is closed
                connection.cancel_safe()

    run_parallel(work, range(min(jobs, len(tables))), jobs=jobs, task=task, on_abort=cancel)
