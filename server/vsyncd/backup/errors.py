"""What can go wrong with backups. Each message is one line that an operator can act on; none holds a row's values."""

# ruff: noqa: N818 - the leaves say what happened


class BackupError(Exception):
    """The root: what was asked for was not done. What stood before stands."""


class BackupRunning(BackupError):
    """Another backup of this database is being made."""


class BackupNotFound(BackupError):
    """There is no backup of that name."""


class BackupDamaged(BackupError):
    """Its files are not what its manifest says. `problems` has a line for each, which begins with the file's name."""

    def __init__(self, name: str, problems: tuple[str, ...]) -> None:
        super().__init__(f"the backup {name} is damaged: {'; '.join(problems)}")
        self.problems = problems


class ProgramsUnfit(BackupError):
    """There is no pg_dump and pg_restore that fit the server."""


class VersionMismatch(BackupError):
    """The backup does not fit this server, these programs or this vsyncd."""


class DatabaseFailed(BackupError):
    """The database cannot be reached, went, or refused what the backup itself asked of it."""


class DumpFailed(BackupError):
    """pg_dump failed; the message has what it said."""


class RestoreFailed(BackupError):
    """pg_restore failed, or what it restored is not what was dumped; the database of that name is as it was."""


class Unrestorable(RestoreFailed):
    """The server refused what pg_restore made of the dump, or pg_restore could not read it: another attempt would end
    like this one."""


class NotWhatWasDumped(RestoreFailed):
    """What was restored is not what the manifest says. `problems` has a line for each difference."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(f"what was restored is not what was dumped: {'; '.join(problems[:10])}")
        self.problems = problems


class TargetInUse(BackupError):
    """The database that is to be restored into is not empty, and nobody said that it may be replaced."""


class StorageFailed(BackupError):
    """The folder or the store of the backups cannot be used, or is full."""


class Interrupted(BackupError):
    """Somebody asked to stop."""
