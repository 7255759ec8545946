"""Restores a backup into a new database, which takes its name when it is whole, and not before."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from vsyncd.backup.content_summary import Connection, Counting
from vsyncd.backup.credentials import DBNAME, credentials
from vsyncd.backup.databases import Databases
from vsyncd.backup.errors import (
    DatabaseFailed,
    NotWhatWasDumped,
    RestoreFailed,
    TargetInUse,
    Unrestorable,
    VersionMismatch,
)
from vsyncd.backup.manifest import DUMP, Manifest, differences
from vsyncd.backup.pg_tools import PgTools, abilities, find_pg_tools
from vsyncd.backup.progress import OnProgress, Progress
from vsyncd.backup.statistics import analyze
from vsyncd.backup.store import Store
from vsyncd.backup.subprocesses import ProgramFailed, Stop, run_program
from vsyncd.backup.verification import major_of
from vsyncd.migrate.connections import in_one_line
from vsyncd.session_settings import for_programs

# How pg_restore begins to tell that a statement or COPY was refused, or that it cannot read its own file; in English,
# as its locale is C. What follows is the server's own text.
_REFUSED: Final = re.compile(
    r"could not execute query: |COPY failed for table |could not uncompress data|could not decompress data"
)
# The server's words for what is not the dump's fault.
_ELSEWHERE: Final = re.compile(
    r"server closed the connection|terminating connection|connection to (server|client)|could not (receive|send) data"
    r"|SSL (error|connection)|the database system is|canceling statement|No space left|Disk quota|out of (shared )?mem"
    r"|could not (extend|write|open|create|read|access|load|fork|resize)|remaining connection slots|too many"
    r"|permission denied|must be (a )?(superuser|owner|member)|is not available|parameter cannot be set"
)
_TEMPLATES: Final = ("template0", "template1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How to restore. `jobs` connections at once. `replace`: also where the target is not empty. `with_roles`: owners
    and rights as they were; else all of it belongs to the role that restores. `known` are the last migrations that
    this vsyncd knows, by their sets."""

    jobs: int = 4
    programs: Path | None = None
    replace: bool = False
    with_roles: bool = True
    known: Mapping[str, int]


class Restored(NamedTuple):
    """The database that has the backup now, the one that had its name before, which was kept, and the statements that
    would give it what that one had of rights and settings, where the role that restored may not execute them."""

    database: str
    replaced: str | None
    refused: tuple[str, ...] = ()


def require_fit(manifest: Manifest, server: Databases, options: RestoreOptions) -> PgTools:
    """The programs to restore with. Raises VersionMismatch, ProgramsUnfit."""
    origin = manifest.origin
    if server.server_major < origin.server_major:
        raise VersionMismatch(
            f"the backup is of PostgreSQL {origin.server_major}, and this server is {server.server_major}:"
            " it can be restored into the same version or a newer one"
        )
    for set_name, version in sorted(manifest.census.migrations.items()):
        if version > options.known.get(set_name, 0):
            raise VersionMismatch(
                f"the backup has version {version} of the migrations {set_name}, made by vsyncd"
                f" {manifest.vsyncd_version}, and this vsyncd knows {options.known.get(set_name, 0)}: restore it with"
                " that vsyncd, or a newer one"
            )
    programs = find_pg_tools(
        max(server.server_major, major_of(manifest.pg_dump_version)),
        folder=options.programs,
        needs=abilities(compression=manifest.compression, encrypted=server.encrypted),
    )
    if options.with_roles and (missing := server.missing_roles((origin.owner, *origin.roles))):
        raise VersionMismatch(
            f"this server has no role {', '.join(missing)}, which the backup gives rights to: create it, or restore"
            " without roles"
        )
    return programs


def require_free(server: Databases, target: str, options: RestoreOptions) -> int | None:
    """The oid of the target, if it is there and empty. Raises TargetInUse."""
    if target in _TEMPLATES:
        raise TargetInUse(f"{target} is what the server makes databases from; nothing was changed. Name another one")
    oid = server.oid_of(target)
    if oid is None:
        return None
    try:
        if server.is_empty(target):
            return oid
    except DatabaseFailed:
        if not options.replace:
            raise
    if not options.replace:
        raise TargetInUse(f"the database {target} is not empty; nothing was changed. To replace it say so (--force)")
    return None


def restore_backup(
    manifest: Manifest,
    store: Store,
    server: Databases,
    target: str,
    options: RestoreOptions,
    *,
    programs: PgTools,
    on_progress: OnProgress,
    stop: Stop,
    holding: Sequence[int] = (),
) -> Restored:
    """Restore into `target`, which is there, whole, at once or not at all. Raises BackupError.
    pg_restore inherits the descriptors of `holding`.

    What had that name is kept under another one, unless it was empty from the beginning.
    """
    empty = require_free(server, target, options)
    owner = server.owner_of(target) or (manifest.origin.owner if options.with_roles else None)
    with restored(
        manifest,
        store,
        server,
        options,
        programs=programs,
        owner=owner,
        on_progress=on_progress,
        stop=stop,
        holding=holding,
    ) as (name, work):
        try:
            replaced, refused = server.put_in_place(name, work, target)
        except (psycopg.Error, DatabaseFailed) as error:
            why = in_one_line(error) if isinstance(error, psycopg.Error) else error
            raise RestoreFailed(f"{target} is as it was: {why}") from error
    if replaced is not None and _dropped(server, replaced, empty):
        replaced = None
    return Restored(target, replaced, refused)


def _dropped(server: Databases, name: str, empty: int | None) -> bool:
    """Drop it if it is the one of that oid, which was empty, and is so still; whether it was. The restore is done: what
    goes wrong here keeps it."""
    try:
        if empty is not None and server.oid_of(name) == empty and server.is_empty(name):
            server.drop(name)
            return True
    except (psycopg.Error, DatabaseFailed):
        pass
    return False


@contextlib.contextmanager
def restored(
    manifest: Manifest,
    store: Store,
    server: Databases,
    options: RestoreOptions,
    *,
    programs: PgTools,
    owner: str | None,
    on_progress: OnProgress,
    stop: Stop,
    holding: Sequence[int] = (),
) -> Iterator[tuple[str, Connection]]:
    """A database that has the backup, and a connection to it; dropped at the end unless it was renamed.

    Raises RestoreFailed, also when what is in it is not what was dumped.
    """
    fetched = 0

    def on_bytes(count: int) -> None:
        nonlocal fetched
        stop.check()
        fetched += count
        on_progress(Progress("fetch", done=fetched, total=manifest.size))

    server.sweep()
    sizes = {file.path: file.size for file in manifest.files}
    with (
        store.local(manifest.name, sizes, on_bytes) as folder,
        server.unfinished(manifest.origin, owner=owner) as (name, connection),
    ):
        load = _Load(folder, manifest, programs, options, holding)
        load.run(server.conninfo(name), on_progress=on_progress, stop=stop)
        on_progress(Progress("compare"))
        with Counting(connection, manifest.census.schema) as counting:
            analyze(server.conninfo(name), jobs=options.jobs, stop=stop)
            found = counting.result(stop.check)
        if wrong := differences(manifest.census, found):
            raise NotWhatWasDumped(wrong)
        yield name, connection


def is_the_dumps_fault(said: str) -> bool:
    """Whether pg_restore failed at what is in the dump, by what it said, and not for want of a connection, of room, of
    a right, or of something that is installed on another server."""
    return _REFUSED.search(said) is not None and _ELSEWHERE.search(said) is None


@dataclass(frozen=True, slots=True)
class _Load:
    """One run of pg_restore."""

    folder: Path
    manifest: Manifest
    programs: PgTools
    options: RestoreOptions
    holding: Sequence[int]

    def command(self) -> list[str | Path]:
        """The command line. What is secret stands in the environment's files."""
        return [
            self.programs.path("pg_restore"),
            DBNAME,
            f"--jobs={self.options.jobs}",
            "--exit-on-error",
            "--no-password",
            "--verbose",
            *([] if self.options.with_roles else ["--no-owner", "--no-privileges"]),
            self.folder / DUMP,
        ]

    def run(self, conninfo: str, *, on_progress: OnProgress, stop: Stop) -> None:
        """Run it. Raises RestoreFailed."""
        done = 0

        def count(line: str) -> None:
            nonlocal done
            done += "processing data for table" in line

        # Its commits need not be on the disk one by one: the commit that gives the database its name comes after them
        # all, and is not there without them.
        with credentials(*for_programs(conninfo, synchronous_commit="off")) as access:
            try:
                run_program(
                    self.command(),
                    environment=access.environment,
                    holding=[*access.holding, *self.holding],
                    stop=stop,
                    on_line=count,
                    on_tick=lambda: on_progress(Progress("restore", done=done, total=len(self.manifest.census.tables))),
                )
            except ProgramFailed as error:
                kind = Unrestorable if is_the_dumps_fault(str(error)) else RestoreFailed
                raise kind(f"pg_restore: {error}") from error
            except OSError as error:
                raise RestoreFailed(f"pg_restore cannot be run: {error.strerror}") from error
