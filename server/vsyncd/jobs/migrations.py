"""Where the settings and the migration engine meet."""

from __future__ import annotations

from pathlib import Path

from vsyncd.config import Settings
from vsyncd.config.connections import owner_conninfo
from vsyncd.migrate import MigrationTarget


def migration_root(settings: Settings) -> Path | None:
    """The folder of DB_MIGRATE_PATH; None: the migrations that come with vsyncd."""
    return Path(settings.db_migrate_path) if settings.db_migrate_path else None


def migration_target(settings: Settings, *, set_name: str | None = None) -> MigrationTarget:
    """What `vsyncd migrate` and DB_AUTO_MIGRATE work on: the owner's connection, and rights for the service's role."""
    return MigrationTarget(
        conninfo=owner_conninfo(settings),
        schema=settings.db_schema,
        root=migration_root(settings),
        set_name=set_name,
        service_user=settings.db_user,
    )
