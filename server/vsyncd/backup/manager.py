"""The operations on backups that `vsyncd backup` and the scheduler use."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from vsyncd.backup.databases import databases, server_of
from vsyncd.backup.dumping import create_backup
from vsyncd.backup.errors import BackupDamaged, BackupNotFound, RestoreMismatch, StorageFailed, Unrestorable
from vsyncd.backup.manifest import VERIFICATION, BackupVerification, Manifest, name_prefix, write_verification
from vsyncd.backup.pg_tools import find_pg_restore
from vsyncd.backup.records import Backup, BackupConfig, Skipped, apply_retention, latest_of
from vsyncd.backup.restoring import Restore, RestoreResult, require_free
from vsyncd.backup.tasks import Task
from vsyncd.backup.verification import check_files, check_listing, inspect


class CleanupResult(NamedTuple):
    """The result of a cleanup.

    `removed`: the expired backups. `unfinished`: remains of killed processes that were removed. `in_use`: expired
    backups that are being verified or restored. `kept`: expired backups that are kept for another reason, and backups
    without a readable manifest.
    """

    removed: Sequence[str]
    unfinished: Sequence[str]
    in_use: Sequence[str] = ()
    kept: Sequence[Skipped] = ()


class Backups:
    """Creates, lists, verifies, restores and removes backups. Every method blocks and raises BackupError."""

    def __init__(self, config: BackupConfig) -> None:
        self.config = config
        self._store = config.store

    def create(self, task: Task | None = None) -> Backup:
        return create_backup(self.config, task or Task())

    def list_all(self) -> list[Backup]:
        """Returns all backups in the store, oldest first, including incomplete ones."""
        found = (inspect(self._store, name, sizes) for name, sizes in self._store.contents().items() if sizes)
        return sorted(found, key=lambda each: each.created_at)

    def list(self) -> list[Backup]:
        """Returns the backups in the store, oldest first, including damaged ones."""
        return [backup for backup in self.list_all() if backup.complete]

    def list_own(self, *, include_unreadable: bool = False) -> Sequence[Backup]:
        """Returns the backups of this database on this server, oldest first.

        Without a readable manifest a backup's origin is unknown. Raises DatabaseFailed.
        """
        server = server_of(self.config.conninfo())
        return [
            backup
            for backup in self.list()
            if self._is_own(backup, server) or (include_unreadable and backup.manifest is None)
        ]

    def find(self, name: str) -> Backup:
        return self.select(name)[0]

    def select(self, name: str) -> tuple[Backup, Sequence[Skipped]]:
        """Returns a backup, and the newer ones that were skipped.

        `latest` is the newest good backup of this database on this server that is not postdated. Raises BackupNotFound.
        """
        backups = self.list_all()
        complete = [each for each in backups if each.complete]
        skipped: Sequence[Skipped] = ()
        if name == "latest":
            server, now = server_of(self.config.conninfo()), datetime.now(UTC)

            def reason(backup: Backup) -> str | None:
                is_foreign = backup.manifest is not None and not self._is_own(backup, server)
                return "backup of another server" if is_foreign else backup.ineligible_reason(now)

            backup, skipped = latest_of(filter(self._has_own_name, backups), reason)
        else:
            backup = next((each for each in complete if each.name == name), None)
        if backup is not None:
            return backup, skipped
        wanted = f"good backup of the database {self.config.database} of this server" if name == "latest" else name
        newest = f"; the newest backup is {complete[-1].name}, {complete[-1].state}" if complete else ""
        details = "".join(f"; skipped {each.name}: {each.reason}" for each in skipped)
        prefix = "there is no" if name == "latest" else "there is no backup"
        raise BackupNotFound(f"{prefix} {wanted}{newest}{details}")

    def verify(self, name: str, task: Task | None = None, *, restore: bool = False) -> BackupVerification:
        """Read all files, with `restore` restore them into a temporary database too, and store the result.

        Raises BackupDamaged, Unrestorable, and other errors that prevent the verification.
        """
        with self._held(name) as (backup, descriptors):
            problems, restore_error = backup.problems, None
            if backup.manifest is not None:
                try:
                    problems = self._problems(backup, backup.manifest, descriptors, task or Task(), restore=restore)
                except Unrestorable as error:
                    restore_error = error
            verification = _conclude(
                backup.verification, restore=restore, problems=problems, restore_error=restore_error
            )
            self._store.write(backup.name, VERIFICATION, write_verification(verification))
            if problems:
                raise BackupDamaged(backup.name, problems)
            if restore_error is not None:
                raise restore_error
        return verification

    def restore(
        self,
        name: str,
        task: Task | None = None,
        *,
        target: str | None = None,
        replace_target: bool = False,
        with_roles: bool = True,
    ) -> RestoreResult:
        """Restore a backup into the database `target`, by default the configured one.

        `replace_target` permits a target that is not empty. Without roles the restoring role owns every object.
        """
        config, task = self.config, task or Task()
        target = target or config.database
        with (
            databases(config.conninfo(), target=target) as server,
            self._held(name) as (backup, descriptors),
        ):
            if backup.manifest is None or backup.problems:
                raise BackupDamaged(backup.name, backup.problems)
            # The quick checks first: reading all files may take an hour.
            restore = Restore.prepare(config, backup.manifest, server, task, descriptors, with_roles=with_roles)
            require_free(server, target, replace=replace_target)
            if problems := check_files(config.store, backup.manifest, known=(), jobs=config.jobs, task=task):
                raise BackupDamaged(backup.name, problems)
            return restore.into(target, replace=replace_target)

    def cleanup(self, *, dry_run: bool = False) -> CleanupResult:
        """Remove the expired backups of this database on this server, and the remains of killed processes.

        Continues after a backup that cannot be removed, and raises StorageFailed at the end.
        """
        server, backups = server_of(self.config.conninfo()), self.list_all()
        own = [backup for backup in backups if self._is_own(backup, server)]
        expiry = apply_retention(own, self.config.retention, now=datetime.now(UTC))
        names = [backup.name for backup in expiry.expired]
        unreadable = [each for each in backups if each.manifest is None and self._has_own_name(each)]
        kept = [*expiry.kept, *(Skipped(each.name, "; ".join(each.problems)) for each in unreadable)]
        if dry_run:
            return CleanupResult(removed=names, unfinished=[], kept=kept)
        removed, in_use = self._remove(names)
        return CleanupResult(removed=removed, unfinished=self._store.tidy(), in_use=in_use, kept=kept)

    def _remove(self, names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        removed: list[str] = []
        in_use: list[str] = []
        failures: list[StorageFailed] = []
        for name in names:
            try:
                (removed if self._store.remove(name) else in_use).append(name)
            except StorageFailed as error:
                failures.append(error)
        if failures:
            self._store.tidy()
            reasons = "; ".join(dict.fromkeys(map(str, failures)))
            raise StorageFailed(f"{len(failures)} of {len(names)} backups could not be removed: {reasons}")
        return removed, in_use

    @contextmanager
    def _held(self, name: str) -> Iterator[tuple[Backup, Sequence[int]]]:
        """Select a backup and prevent its removal. Yields it, and descriptors that prevent its removal too."""
        backup = self.find(name)
        with ExitStack() as stack:
            try:
                descriptors = stack.enter_context(self._store.held(backup.name))
            except FileNotFoundError as error:
                raise BackupNotFound(f"the backup {backup.name} has just been removed") from error
            yield backup, descriptors

    def _has_own_name(self, backup: Backup) -> bool:
        if backup.manifest is None:
            return backup.name.rpartition("-")[0] == name_prefix(self.config.database)
        return backup.manifest.origin.database == self.config.database

    def _is_own(self, backup: Backup, server: str) -> bool:
        if backup.manifest is None:
            return False
        origin = backup.manifest.origin
        return (origin.database, origin.system_identifier) == (self.config.database, server)

    def _problems(
        self, backup: Backup, manifest: Manifest, descriptors: Sequence[int], task: Task, *, restore: bool
    ) -> tuple[str, ...]:
        """Returns the problems that the next check finds, of the files, the listing and the restored content."""
        config = self.config
        if problems := check_files(config.store, manifest, known=backup.problems, jobs=config.jobs, task=task):
            return problems
        tools = find_pg_restore(manifest.pg_dump_major, folder=config.pg_bin)
        problems = check_listing(config.store, manifest, tools, task)
        if problems or not restore:
            return problems
        with databases(config.conninfo()) as server:
            prepared = Restore.prepare(config, manifest, server, task, descriptors, with_roles=False)
            try:
                with prepared.temporary_database(owner=None):
                    return ()
            except RestoreMismatch as error:
                return error.problems


def _conclude(
    previous: BackupVerification | None,
    *,
    restore: bool,
    problems: tuple[str, ...],
    restore_error: Unrestorable | None,
) -> BackupVerification:
    """The result of the last restore remains valid until the next one: reading unchanged files does not affect it."""
    restored, error = restore and restore_error is None, str(restore_error) if restore_error is not None else None
    if not restore and previous is not None:
        restored, error = previous.restored, previous.restore_error
    return BackupVerification(
        verified_at=datetime.now(UTC), restored=restored and not problems, problems=problems, restore_error=error
    )
