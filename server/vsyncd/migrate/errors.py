"""Errors of migrations. Each message is one line for operators."""

# ruff: noqa: N818 - the subclasses say what happened


class MigrateError(Exception):
    """Root: not all migrations were executed. Those executed before remain applied."""


class BadMigrationFiles(MigrateError):
    """The folder of migrations does not exist, or its files are not valid sets."""


class ChecksumChanged(MigrateError):
    """The file of an applied migration has changed."""


class OutOfOrder(MigrateError):
    """A version is not applied, but a later one of its set is."""


class FileMissing(MigrateError):
    """A version cannot be reverted because it has no down file."""


class StatementFailed(MigrateError):
    """A statement failed. The message names file, line and statement, and the state of the set."""


class SetDirty(MigrateError):
    """A file that runs outside a transaction has failed midway and cannot be resumed. The message names the remedy."""


class NoSuchVersion(MigrateError):
    """The requested version does not exist in the set."""


class CannotCreate(MigrateError):
    """New migration files cannot be written."""


class MigrationLockTimeout(MigrateError):
    """Another process held the migration lock for the whole timeout."""


class ForeignRecord(MigrateError):
    """The schema has the table of another migration tool. The message names the tool and the remedy."""


class NothingToAdopt(MigrateError):
    """The schema has no usable table of golang-migrate."""


class DatabaseRefused(MigrateError):
    """The database rejected a statement of the engine itself, for lack of a privilege for example."""


class DatabaseUnreachable(DatabaseRefused):
    """The database is unreachable or closed the connection. Retrying later can help."""
