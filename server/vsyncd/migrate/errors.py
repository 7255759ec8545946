"""Errors of migrations. Each message is one line for operators."""

# ruff: noqa: N818 - the subclasses say what happened


class MigrateError(Exception):
    """Root: not all migrations were executed. Those executed before remain applied."""


class BadMigrationFiles(MigrateError):
    """The folder of migrations does not exist, or its files are not valid sets."""


class StatementFailed(MigrateError):
    """A statement failed. The message names file, line and statement, and the state of the set."""


class SetDirty(MigrateError):
    """A file that runs outside a transaction has failed midway and cannot be resumed. The message names the remedy."""


class MigrationLockTimeout(MigrateError):
    """Another process held the migration lock for the whole timeout."""


class DatabaseRefused(MigrateError):
    """The database rejected a statement of the engine itself, for lack of a privilege for example."""


class DatabaseUnreachable(DatabaseRefused):
    """The database is unreachable or closed the connection. Retrying later can help."""
