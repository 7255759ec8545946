"""What can go wrong with migrations. Each message is one line that an operator can act on."""

# ruff: noqa: N818 - the leaves say what happened


class MigrateError(Exception):
    """The root: the migrations were not all done. What was done before stands."""


class BadMigrationFiles(MigrateError):
    """The folder of migrations is missing, or its files do not make up sets."""


class ChecksumChanged(MigrateError):
    """A file that was applied is no longer what it was."""


class OutOfOrder(MigrateError):
    """A version is missing from the database while a later one of its set is there."""


class FileMissing(MigrateError):
    """A version is to be undone, and there is no file that says how."""


class StatementFailed(MigrateError):
    """A statement of a migration failed; the message names the file, the statement and the line, and says how the set
    was left."""


class SetDirty(MigrateError):
    """A file that runs outside a transaction stopped half way, and cannot go on by itself; the message says what to
    do."""


class NoSuchVersion(MigrateError):
    """A version was asked for that the set does not have."""


class CannotCreate(MigrateError):
    """New migration files cannot be written there."""


class LockNotFree(MigrateError):
    """Another process was migrating all the time that this one was ready to wait."""


class ForeignRecord(MigrateError):
    """The schema has the record of another migration tool; the message says which, and what to do."""


class NothingToAdopt(MigrateError):
    """The schema has no record that can be taken over from golang-migrate."""


class DatabaseRefused(MigrateError):
    """The database refused what the engine itself asked of it: a right is missing, a name is not known, ..."""


class DatabaseUnreachable(DatabaseRefused):
    """The database could not be reached, or went; trying again later can help."""
