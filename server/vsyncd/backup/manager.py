"""Everything that is done with backups, in one place: what `vsyncd backup` and the scheduler call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from vsyncd.backup.databases import databases, server_of
from vsyncd.backup.dumping import DumpOptions, make_backup
from vsyncd.backup.errors import BackupDamaged, BackupNotFound, NotWhatWasDumped, StorageFailed, Unrestorable
from vsyncd.backup.manifest import (
    MANIFEST,
    VERIFICATION,
    BackupVerification,
    Manifest,
    NotReadable,
    name_prefix,
    read_verification,
    write_verification,
)
from vsyncd.backup.pg_tools import find_reader
from vsyncd.backup.progress import OnProgress, nobody_watches
from vsyncd.backup.records import Backup, Latest, Skipped, latest_of
from vsyncd.backup.restoring import Restored, RestoreOptions, require_fit, require_free, restore_backup, restored
from vsyncd.backup.retention import Retention, apply_retention
from vsyncd.backup.store import Store
from vsyncd.backup.subprocesses import Stop
from vsyncd.backup.verification import ManifestDamaged, at_first_sight, check_files, check_listing, major_of, small_file


class OnStep(Protocol):
    """Is told of a step that ended."""

    def __call__(self, step: str, *, succeeded: bool, seconds: float) -> None:
        """Its name, what it came to, and how long it took."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is backed up, and where to. `conninfo` is asked anew each time (a password may have changed); `database` is
    the name of the database it leads to."""

    conninfo: Callable[[], str]
    database: str
    schema: str
    store: Store
    dump: DumpOptions
    restore: RestoreOptions
    retention: Retention


class Cleaned(NamedTuple):
    """What a clean-up did. `removed`: the backups that were removed (or would be). `unfinished`: those that were never
    finished and were cleared away. `in_use`: those that have had their time and are just being verified or restored:
    they stay until the next time. `kept`: those that stay for another reason although they are past the retention, or
    that cannot be attributed to a database."""

    removed: Sequence[str]
    unfinished: Sequence[str]
    in_use: Sequence[str] = ()
    kept: Sequence[Skipped] = ()


class Selection(NamedTuple):
    """A backup, and the newer ones that were passed over when it was selected as `latest`."""

    backup: Backup
    skipped: Sequence[Skipped] = ()


class Backups:
    """Makes, lists, verifies, restores and removes backups. Every method blocks, and raises BackupError.

    `on_step` is told of each step that ended, for metrics.
    """

    def __init__(self, site: Site, *, on_step: OnStep | None = None) -> None:
        self.site = site
        self._store = site.store
        self._on_step = on_step

    def create(self, *, on_progress: OnProgress = nobody_watches, stop: Stop | None = None) -> Backup:
        """Make one."""
        site = self.site
        with self._step("create"):
            return make_backup(
                site.conninfo(), site.schema, site.store, site.dump, on_progress=on_progress, stop=stop or Stop()
            )

    def list(self) -> list[Backup]:
        """All of them, the oldest first, the damaged ones too."""
        contents = self._store.contents()
        return sorted((self._look(name, sizes) for name, sizes in contents.items()), key=lambda each: each.created_at)

    def ours(self, *, unreadable_too: bool = False) -> Sequence[Backup]:
        """Those of this database on this server, in the same order; whose one without a readable manifest is, nobody
        can know. Raises DatabaseFailed too."""
        server = server_of(self.site.conninfo())
        return [
            backup
            for backup in self.list()
            if self._is_ours(backup, server) or (unreadable_too and backup.manifest is None)
        ]

    def incomplete(self) -> Sequence[Backup]:
        """Those without a manifest: they are not whole yet, or not any more."""
        return [
            Backup(name=name, size=0, manifest=None, problems=(f"{MANIFEST}: it is missing",))
            for name in self._store.incomplete()
        ]

    def find(self, name: str) -> Backup:
        """One of all; `latest` is the newest good one of this database on this server that is not dated in the future.
        Raises BackupNotFound."""
        return self.select(name).backup

    def select(self, name: str) -> Selection:
        """As `find`, with the newer ones that were passed over for `latest`. Raises BackupNotFound."""
        backups = self.list()
        if name == "latest":
            backup, skipped = self._latest(backups)
        else:
            backup, skipped = next((each for each in backups if each.name == name), None), ()
        if backup is not None:
            return Selection(backup, skipped)
        of_this = f"good backup of the database {self.site.database} of this server"
        what = of_this if name == "latest" else f"backup {name}"
        last = f"; the newest is {backups[-1].name}, {backups[-1].state}" if backups else ", and no other either"
        passed = "".join(f"; skipped {each.name}: {each.reason}" for each in skipped)
        raise BackupNotFound(f"there is no {what}{last}{passed}")

    def _latest(self, backups: Sequence[Backup]) -> Latest:
        """Among those of this database: also those of a former server, and unreadable ones, are passed over aloud."""
        server, now = server_of(self.site.conninfo()), datetime.now(UTC)

        def unfit(backup: Backup) -> str | None:
            is_foreign = backup.manifest is not None and not self._is_ours(backup, server)
            return "it is of another server" if is_foreign else backup.unfit(now)

        return latest_of(filter(self._has_our_name, (*backups, *self.incomplete())), unfit)

    def _has_our_name(self, backup: Backup) -> bool:
        if backup.manifest is None:
            return backup.name.rpartition("-")[0] == name_prefix(self.site.database)
        return backup.manifest.origin.database == self.site.database

    def verify(
        self, name: str, *, restore: bool = False, on_progress: OnProgress = nobody_watches, stop: Stop | None = None
    ) -> BackupVerification:
        """Read all of it, and with `restore` restore it into a throwaway database too; what it came to is kept beside
        it. Raises BackupDamaged, and whatever keeps it from finding out."""
        stop = stop or Stop()
        with self._step("verify"), self._held(name) as (backup, holding):
            problems, refusal = backup.problems, None
            if backup.manifest is not None:
                problems = self._read_all(backup, backup.manifest, on_progress, stop)
                if restore and not problems:
                    try:
                        problems = self._try_restore(backup.manifest, holding, on_progress, stop)
                    except Unrestorable as error:
                        refusal = error
            verification = _concluded(backup.verification, restore=restore, problems=problems, refusal=refusal)
            self._store.write(backup.name, VERIFICATION, write_verification(verification))
            if problems:
                raise BackupDamaged(backup.name, problems)
            if refusal is not None:
                raise refusal
        return verification

    def restore(
        self,
        name: str,
        *,
        target: str | None = None,
        replace_it: bool = False,
        with_roles: bool = True,
        on_progress: OnProgress = nobody_watches,
        stop: Stop | None = None,
    ) -> Restored:
        """Restore one into the database `target`, which is this one unless it is named."""
        stop = stop or Stop()
        options = replace(self.site.restore, replace=replace_it, with_roles=with_roles)
        into = target or self.site.database
        with (
            self._step("restore"),
            databases(self.site.conninfo(), target=into) as server,
            self._held(name) as (backup, holding),
        ):
            if backup.manifest is None or backup.problems:
                raise BackupDamaged(backup.name, backup.problems)
            # What takes no time first: nobody should wait for an hour to read what could be said at once.
            programs = require_fit(backup.manifest, server, options)
            require_free(server, into, options)
            if problems := self._read_files(backup, backup.manifest, on_progress, stop):
                raise BackupDamaged(backup.name, problems)
            return restore_backup(
                backup.manifest,
                self._store,
                server,
                into,
                options,
                programs=programs,
                on_progress=on_progress,
                stop=stop,
                holding=holding,
            )

    def cleanup(self, *, dry_run: bool = False) -> Cleaned:
        """Remove those of this database on this server that have had their time, and what killed processes left behind;
        the names of both. Others that are kept in the same place are others' to remove.

        One that cannot be removed keeps no other; StorageFailed comes in the end.
        """
        with self._step("cleanup"):
            expiry = apply_retention(self.ours(), self.site.retention, now=datetime.now(UTC))
            gone = [backup.name for backup in expiry.expired]
            unreadable = [each for each in (*self.list(), *self.incomplete()) if each.manifest is None]
            named = filter(self._has_our_name, unreadable)
            kept = [*expiry.kept, *(Skipped(each.name, "; ".join(each.problems)) for each in named)]
            if dry_run:
                return Cleaned(removed=gone, unfinished=[], kept=kept)
            removed: list[str] = []
            in_use: list[str] = []
            failures: list[StorageFailed] = []
            for name in gone:
                try:
                    (removed if self._store.remove(name) else in_use).append(name)
                except StorageFailed as error:
                    failures.append(error)
            unfinished = self._store.tidy()
            if failures:
                raise StorageFailed(
                    f"{len(failures)} of {len(gone)} backups could not be removed:"
                    f" {'; '.join(dict.fromkeys(map(str, failures)))}"
                ) from failures[0]
            return Cleaned(removed=removed, unfinished=unfinished, in_use=in_use, kept=kept)

    @contextmanager
    def _held(self, name: str) -> Iterator[tuple[Backup, Sequence[int]]]:
        """One of all, as `find` does, and what keeps it from being removed for as long as the context lasts."""
        backup = self.find(name)
        with ExitStack() as stack:
            try:
                holding = stack.enter_context(self._store.held(backup.name))
            except FileNotFoundError as error:
                raise BackupNotFound(f"the backup {backup.name} was just removed") from error
            yield backup, holding

    def _look(self, name: str, sizes: Mapping[str, int]) -> Backup:
        manifest, problems = at_first_sight(self._store, name, sizes)
        verification = None
        if VERIFICATION in sizes:
            try:
                verification = read_verification(small_file(self._store, name, VERIFICATION))
            except (NotReadable, FileNotFoundError):
                verification = None  # as if there had been none
        return Backup(
            name=name, size=sum(sizes.values()), manifest=manifest, problems=problems, verification=verification
        )

    def _is_ours(self, backup: Backup, server: str) -> bool:
        if backup.manifest is None:
            return False
        origin = backup.manifest.origin
        return origin.database == self.site.database and origin.system_identifier in {None, server}

    def _read_files(self, backup: Backup, manifest: Manifest, on_progress: OnProgress, stop: Stop) -> tuple[str, ...]:
        try:
            problems = check_files(
                self._store, manifest, jobs=self.site.restore.jobs, on_progress=on_progress, stop=stop
            )
        except ManifestDamaged as error:
            return (str(error),)  # what it says of the others counts for nothing
        # What is missing at first sight is found again when it is read, in the same words.
        return tuple(dict.fromkeys((*backup.problems, *problems)))

    def _read_all(self, backup: Backup, manifest: Manifest, on_progress: OnProgress, stop: Stop) -> tuple[str, ...]:
        if problems := self._read_files(backup, manifest, on_progress, stop):
            return problems
        programs = find_reader(major_of(manifest.pg_dump_version), folder=self.site.restore.programs)
        return check_listing(self._store, manifest, programs, stop=stop)

    def _try_restore(
        self, manifest: Manifest, holding: Sequence[int], on_progress: OnProgress, stop: Stop
    ) -> tuple[str, ...]:
        options = replace(self.site.restore, with_roles=False)
        with databases(self.site.conninfo()) as server:
            programs = require_fit(manifest, server, options)
            try:
                with restored(
                    manifest,
                    self._store,
                    server,
                    options,
                    programs=programs,
                    owner=None,
                    on_progress=on_progress,
                    stop=stop,
                    holding=holding,
                ):
                    return ()
            except NotWhatWasDumped as error:
                return error.problems

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began, succeeded = time.monotonic(), False
        try:
            yield
            succeeded = True
        finally:
            if self._on_step is not None:
                self._on_step(name, succeeded=succeeded, seconds=time.monotonic() - began)


def _concluded(
    before: BackupVerification | None, *, restore: bool, problems: tuple[str, ...], refusal: Unrestorable | None
) -> BackupVerification:
    """What a verification comes to. What a restore said of the backup before stands until the next one: as long as its
    files are what they were it need not be restored again to be known to be good, and reading it makes it no better."""
    restored, error = restore and refusal is None, str(refusal) if refusal is not None else None
    if not restore and before is not None:
        restored, error = before.restored, before.restore_error
    return BackupVerification(
        at=datetime.now(UTC), restored=restored and not problems, problems=problems, restore_error=error
    )
