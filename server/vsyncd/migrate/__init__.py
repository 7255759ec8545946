"""The migration engine: plain SQL files, in numbered sets, each applied once.

It stands alone: it knows psycopg and nothing of the rest of the server. It blocks; the service runs it in a thread.
"""

from vsyncd.migrate.errors import (
    BadMigrationFiles,
    ChecksumChanged,
    DatabaseRefused,
    DatabaseUnreachable,
    FileMissing,
    LockNotFree,
    MigrateError,
    OutOfOrder,
    StatementFailed,
)
from vsyncd.migrate.files import Migration, default_root, discover, latest_versions
from vsyncd.migrate.runner import Step, Target, migrate_down, migrate_up
from vsyncd.migrate.versions import behind, current_versions, fetch_current_versions

__all__ = [
    "BadMigrationFiles",
    "ChecksumChanged",
    "DatabaseRefused",
    "DatabaseUnreachable",
    "FileMissing",
    "LockNotFree",
    "MigrateError",
    "Migration",
    "OutOfOrder",
    "StatementFailed",
    "Step",
    "Target",
    "behind",
    "current_versions",
    "default_root",
    "discover",
    "fetch_current_versions",
    "latest_versions",
    "migrate_down",
    "migrate_up",
]
