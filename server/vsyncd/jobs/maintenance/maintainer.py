"""`vsyncd maintain` and the job `maintain`: creates future partitions and drops expired data."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import AsyncConnection

from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import owner_conninfo
from vsyncd.jobs.maintenance.partition_dropper import PartitionDropper
from vsyncd.jobs.maintenance.partitions import MARK, Partition, PartitionWatch, parse_drop_mark
from vsyncd.jobs.runner import Job, JobFailed
from vsyncd.observability.logs import logger
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import error_category
from vsyncd.postgres.queries import queries
from vsyncd.session_settings import parameters_for, set_up_async

_INTERVAL_S: Final = 6 * 3600.0
_RETRY_S: Final = 300.0
_WATCH_INTERVAL_S: Final = 300.0
# Rows deleted in one transaction.
_DELETE_STEP: Final = 5_000
# The only log_error_verbosity that omits an error's DETAIL, which can contain keys, and a statement's parameters.
_SAFE_VERBOSITY: Final = "terse"

_log = logger(__name__)


@dataclass(slots=True, kw_only=True)
class MaintenanceResult:
    """What a run did: partitions created, names of partitions dropped, answers of import chunks deleted."""

    partitions_made: int = 0
    partitions_dropped: list[str] = field(default_factory=list)
    chunks_pruned: int = 0


class Maintainer:
    """Maintains the partitions of every registered table, and deletes the stored answers of old imports."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._queries = queries("vsyncd.jobs.maintenance", database.schema)
        self.watch = PartitionWatch(database, retention_settings(settings))
        self._logged_verbosity = _SAFE_VERBOSITY
        self.done = MaintenanceResult()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The maintenance, which one instance at a time runs, and the watches, which every instance runs."""
        return (
            self.job,
            Job(name="partition watch", interval=_WATCH_INTERVAL_S, work=self.watch.snapshot),
            Job(name="server log watch", interval=_INTERVAL_S, work=self._check_server_log),
        )

    @property
    def job(self) -> Job:
        return Job(name="maintain", interval=_INTERVAL_S, work=self.run, exclusive=True, retry=_RETRY_S)

    async def run(self) -> None:
        """Runs the maintenance once and stores the result in `done`.

        Partitions are created first, because writes depend on them. Raises ServiceError, and JobFailed after
        everything else is done if a partition could not be dropped.
        """
        self.done = MaintenanceResult()
        # Every step is safe to repeat after an unknown commit.
        made = await self._database.transaction(
            lambda session: session.one(self._queries["make_partitions"]), repeatable=True
        )
        self.done.partitions_made = made[0] if made else 0
        await self._prune_chunks()
        expired = await self.expired()
        try:
            await self._drop(expired)
        finally:
            _log.info(
                "maintained",
                partitions_made=self.done.partitions_made,
                partitions_dropped=self.done.partitions_dropped,
                chunks_pruned=self.done.chunks_pruned,
            )
        if expired:
            await self.watch.snapshot()

    async def expired(self) -> list[Partition]:
        """Returns the partitions that a run would drop, including those that an interrupted run has detached."""
        snapshot = await self.watch.snapshot()
        rows = await self._database.read(lambda session: session.all(self._queries["detached"], {"mark": MARK}))
        detached = [partition for row in rows if (partition := parse_drop_mark(*row)) is not None]
        return snapshot.expired(detached)

    async def _check_server_log(self) -> None:
        """Warns if PostgreSQL's own log may contain personal data, once per change. Raises ServiceError."""
        row = await self._database.read(lambda session: session.one(self._queries["error_verbosity"]))
        before, self._logged_verbosity = self._logged_verbosity, row[0] if row else _SAFE_VERBOSITY
        if self._logged_verbosity not in {before, _SAFE_VERBOSITY}:
            _log.warning(
                "PostgreSQL may write keys into its log",
                log_error_verbosity=self._logged_verbosity,
                remedy="set it to terse",
            )

    async def _prune_chunks(self) -> None:
        days = self._settings.import_retention_days
        may_prune = await self._database.read(lambda session: session.one(self._queries["may_prune_import_chunks"]))
        parameters = {"keep": timedelta(days=days), "step": _DELETE_STEP}
        pruned = _DELETE_STEP if days and may_prune == (True,) else 0
        while pruned == _DELETE_STEP:
            pruned = await self._database.transaction(
                lambda session: session.run(self._queries["prune_import_chunks"], parameters), repeatable=True
            )
            self.done.chunks_pruned += pruned

    async def _drop(self, expired: list[Partition]) -> None:
        if not expired:
            return
        dropped, failed = await self._drop_as_owner(expired)
        self.done.partitions_dropped += dropped
        if failed:
            reasons = ", ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise JobFailed(f"partitions could not be dropped: {reasons}")

    async def _drop_as_owner(self, expired: list[Partition]) -> tuple[list[str], dict[str, str]]:
        try:
            conninfo = owner_conninfo(self._settings, application_name="vsyncd maintain")
            async with await AsyncConnection.connect(
                conninfo, autocommit=True, prepare_threshold=None, **parameters_for(conninfo)
            ) as connection:
                await set_up_async(connection)
                dropper = PartitionDropper(connection, schema=self._settings.db_schema)
                if not await dropper.may_drop(expired):
                    are = "1 partition is" if len(expired) == 1 else f"{len(expired)} partitions are"
                    raise JobFailed(
                        f"{are} past retention, and only the tables' owner can drop partitions:"
                        " set DB_MIGRATE_URL, or run vsyncd maintain as the owner"
                    )
                return await dropper.drop(expired)
        except psycopg.Error as error:
            raise JobFailed(f"partitions could not be dropped: {error_category(error)}") from error
        except ConfigError as error:
            raise JobFailed(error.lines[0]) from error


def retention_settings(settings: Settings) -> dict[str, int]:
    """Returns every retention setting by the name of its environment variable, in days; 0 for forever."""
    names = [name for name in type(settings).model_fields if name.endswith("_retention_days")]
    return {name.upper(): getattr(settings, name) for name in names}
