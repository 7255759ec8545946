"""Migrations as the service needs them: what it applies when it starts, and which versions it needs to serve."""

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import owner_conninfo
from vsyncd.migrate import (
    DatabaseUnreachable,
    MigrateError,
    MigrationTarget,
    latest_versions,
    outdated_sets,
    run_migrations,
)
from vsyncd.migrate.files import set_folders
from vsyncd.migrate.store import MigrationStore
from vsyncd.observability.logs import logger
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import OTHER, error_category

_RETRY_S: Final = 2.0
# After a failed migration, or a lock that was never free.
_PAUSE_S: Final = 30.0

_log = logger(__name__)


def migration_root(settings: Settings) -> Path | None:
    """Returns the folder of DB_MIGRATE_PATH, or None for the migrations that come with vsyncd."""
    return Path(settings.db_migrate_path) if settings.db_migrate_path else None


def migration_target(
    settings: Settings, *, set_name: str | None = None, without: Collection[str] = ()
) -> MigrationTarget:
    """Returns what `vsyncd migrate` and DB_AUTO_MIGRATE work on: one migration set, or all but those of `without`.

    They connect as the owner, and grant the service's role its rights. Raises BadMigrationFiles if there is no folder.
    """
    root = migration_root(settings)
    sets: Collection[str] | None = None if set_name is None else (set_name,)
    if set_name is None and without:
        sets = {folder.name for folder in set_folders(root)} - set(without)
    return MigrationTarget(
        conninfo=owner_conninfo(settings),
        schema=settings.db_schema,
        root=root,
        sets=sets,
        service_user=settings.db_user,
    )


class SchemaVersions:
    """Compares the migrations that a database has with those that this version of vsyncd needs.

    `without`: the migration sets that are not needed, because no selected domain uses them. `required` is the version
    that each other set must have.
    """

    def __init__(self, settings: Settings, *, without: Collection[str] = ()) -> None:
        self._store = MigrationStore(settings.db_schema)
        latest = latest_versions(migration_root(settings))
        self.required: Mapping[str, int] = {name: v for name, v in latest.items() if name not in without}

    async def current(self, connection: AsyncConnection[Any]) -> dict[str, int]:
        """Returns the last applied version of each migration set. Raises psycopg.Error."""
        return await self._store.fetch_versions(connection)

    async def missing(self, connection: AsyncConnection[Any]) -> Mapping[str, int]:
        """Returns the migration sets that are too old, each with the version that it needs. Raises psycopg.Error."""
        return outdated_sets(await self.current(connection), self.required)


class StartupMigration:
    """Applies the migrations when the service starts (DB_AUTO_MIGRATE)."""

    def __init__(self, settings: Settings, database: Database, *, without: Collection[str] = ()) -> None:
        self._settings = settings
        self._without = without
        self._database = database
        self._logged_cause = ""

    async def run(self) -> bool:
        """Applies what is missing; returns False if the database is unreachable. Raises MigrateError, ConfigError."""
        target = migration_target(self._settings, without=self._without)
        try:
            steps = await asyncio.to_thread(run_migrations, target, on_wait=_log_wait)
        except DatabaseUnreachable as error:
            cause = error_category(error.__cause__) if isinstance(error.__cause__, psycopg.Error) else OTHER
            if cause != self._logged_cause:
                _log.warning("the database cannot be migrated now", cause=cause)
            self._logged_cause = cause
            return False
        for step in steps:
            _log.info("migrated", migration=str(step.migration), duration_ms=step.duration_ms)
        return True

    async def run_until_done(self) -> None:
        """Applies what is missing as soon as the database is reachable, while the service runs without it.

        An error is logged and the migration tried again: an operator may fix its cause, or another instance migrate.
        """
        while True:
            try:
                while not await self.run():
                    await asyncio.sleep(_RETRY_S)
                    await self._database.primary.available.wait()  # until then only its monitor tries to connect
            except (MigrateError, ConfigError) as error:
                _log.error("the database cannot be migrated", error=str(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                return


def _log_wait(place: str) -> None:
    _log.warning("a migration waits for a lock", place=place)
