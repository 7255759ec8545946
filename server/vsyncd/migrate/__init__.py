"""Applies migrations: numbered SQL files in sets, each applied once.

A standalone library on top of psycopg. All calls block; the service runs them in threads. docs/migrations.md describes
the files.
"""

from vsyncd.migrate.creation import FEATURES, TableScaffold, create_migration
from vsyncd.migrate.errors import (
    BadMigrationFiles,
    DatabaseRefused,
    DatabaseUnreachable,
    MigrateError,
    MigrationLockTimeout,
    SetDirty,
    StatementFailed,
)
from vsyncd.migrate.execution import Step
from vsyncd.migrate.files import MAX_VERSION, Migration, default_root, discover, label_of, latest_versions
from vsyncd.migrate.plan import Command, Down, Goto, Up
from vsyncd.migrate.runner import (
    KEPT_TABLE,
    MigrationTarget,
    adopt_version,
    force_version,
    preview,
    run_migrations,
)
from vsyncd.migrate.script import Script
from vsyncd.migrate.status import (
    Findings,
    MigrationStatus,
    State,
    advice,
    current_versions,
    fetch_status,
    find_invalid_objects,
    find_problems,
    outdated_sets,
)

__all__ = [
    "FEATURES",
    "KEPT_TABLE",
    "MAX_VERSION",
    "BadMigrationFiles",
    "Command",
    "DatabaseRefused",
    "DatabaseUnreachable",
    "Down",
    "Findings",
    "Goto",
    "MigrateError",
    "Migration",
    "MigrationLockTimeout",
    "MigrationStatus",
    "MigrationTarget",
    "Script",
    "SetDirty",
    "State",
    "StatementFailed",
    "Step",
    "TableScaffold",
    "Up",
    "adopt_version",
    "advice",
    "create_migration",
    "current_versions",
    "default_root",
    "discover",
    "fetch_status",
    "find_invalid_objects",
    "find_problems",
    "force_version",
    "label_of",
    "latest_versions",
    "outdated_sets",
    "preview",
    "run_migrations",
]
