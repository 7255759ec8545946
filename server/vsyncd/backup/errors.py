"""Errors of backups. Each message is one line for operators and contains no row values."""

# ruff: noqa: N818 - the subclasses say what happened


class BackupError(Exception):
    """Root: the operation failed. Existing backups and databases are unchanged."""


class BackupNotFound(BackupError):
    """No backup has that name."""


class BackupDamaged(BackupError):
    """The files differ from the manifest. `problems` has one line each, starting with the file's name."""

    def __init__(self, name: str, problems: tuple[str, ...]) -> None:
        super().__init__(f"backup {name} is damaged: {'; '.join(problems)}")
        self.problems = problems


class PgToolsUnsuitable(BackupError):
    """No pg_dump and pg_restore that suit the server were found."""


class DatabaseFailed(BackupError):
    """The database is unreachable, closed the connection or rejected a statement."""


class RestoreFailed(BackupError):
    """pg_restore failed, or the restored content differs. The target database is unchanged."""


class Unrestorable(RestoreFailed):
    """The server rejected the dump, or pg_restore cannot read it: retrying does not help."""


class RestoreMismatch(RestoreFailed):
    """The restored content differs from the manifest. `problems` has one line for each difference."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(f"the restored content differs from the manifest: {'; '.join(problems[:10])}")
        self.problems = problems


class StorageFailed(BackupError):
    """The folder or the S3 store is full or cannot be used."""


class Interrupted(BackupError):
    """A stop was requested."""
