"""The migration engine: plain SQL files, in numbered sets, each applied once.

It stands alone: it knows psycopg and nothing of the rest of the server. It blocks; the service runs it in a thread.
docs/migrations.md says how to write such files.
"""

from vsyncd.migrate.creation import create_migration
from vsyncd.migrate.errors import (
    BadMigrationFiles,
    CannotCreate,
    ChecksumChanged,
    DatabaseRefused,
    DatabaseUnreachable,
    FileMissing,
    LockNotFree,
    MigrateError,
    NoSuchVersion,
    OutOfOrder,
    SetDirty,
    StatementFailed,
)
from vsyncd.migrate.execution import Step
from vsyncd.migrate.files import Migration, default_root, discover, latest_versions
from vsyncd.migrate.plan import Command, Down, Goto, Up
from vsyncd.migrate.runner import Target, force_version, migrate_down, migrate_to, migrate_up, preview
from vsyncd.migrate.script import Script
from vsyncd.migrate.status import Standing, State, advice, fetch_status, find_problems
from vsyncd.migrate.versions import behind, current_versions, fetch_current_versions

__all__ = [
    "BadMigrationFiles",
    "CannotCreate",
    "ChecksumChanged",
    "Command",
    "DatabaseRefused",
    "DatabaseUnreachable",
    "Down",
    "FileMissing",
    "Goto",
    "LockNotFree",
    "MigrateError",
    "Migration",
    "NoSuchVersion",
    "OutOfOrder",
    "Script",
    "SetDirty",
    "Standing",
    "State",
    "StatementFailed",
    "Step",
    "Target",
    "Up",
    "advice",
    "behind",
    "create_migration",
    "current_versions",
    "default_root",
    "discover",
    "fetch_current_versions",
    "fetch_status",
    "find_problems",
    "force_version",
    "latest_versions",
    "migrate_down",
    "migrate_to",
    "migrate_up",
    "preview",
]
