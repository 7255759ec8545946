"""`vsyncd maintain`, and the job of that name: one run of everything that has to be done from time to time."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Final

import psycopg
from psycopg import AsyncConnection

from vsyncd.cache.wiring import drop_changes
from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import owner_conninfo
from vsyncd.jobs.maintenance.partition_dropper import Dropped, PartitionDropper
from vsyncd.jobs.maintenance.partition_watch import PartitionWatch
from vsyncd.jobs.maintenance.partitions import MARK, Partition, marked, retention
from vsyncd.jobs.maintenance.server_log import ServerLogWatch
from vsyncd.jobs.runner import Job, JobFailed
from vsyncd.observability.logs import logger
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_categories import error_category
from vsyncd.postgres.queries import queries
from vsyncd.session_settings import parameters_for, set_up_async

# Seconds.
_INTERVAL: Final = 6 * 3600.0
_RETRY: Final = 300.0
_WATCH_INTERVAL: Final = 300.0
_DROP_CHANGES_INTERVAL: Final = 60.0
# Rows that are deleted in one transaction.
_STEP: Final = 5_000

_log = logger(__name__)


@dataclass(slots=True, kw_only=True)
class Done:
    """What a run did: partitions made, names of those dropped, answers of import chunks forgotten."""

    partitions_made: int = 0
    partitions_dropped: list[str] = field(default_factory=list)
    chunks_pruned: int = 0


class Maintainer:
    """Does what has to be done. The settings say how long what is kept, and who owns the tables (DB_MIGRATE_URL)."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._queries = queries("vsyncd.jobs.maintenance", database.schema)
        self._keep = retention(audit_days=settings.audit_retention_days, event_days=settings.event_retention_days)
        self.watch = PartitionWatch(database, keep=self._keep)
        self._server_log = ServerLogWatch(database)
        self.done = Done()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The work itself, in one instance at a time, and what is watched, in each."""
        return (
            self.job,
            Job(name="partition watch", interval=_WATCH_INTERVAL, work=self.watch.look),
            Job(name="server log watch", interval=_INTERVAL, work=self._server_log.look),
            Job(
                name="drop cache changes",
                interval=_DROP_CHANGES_INTERVAL,
                work=partial(drop_changes, self._database),
                exclusive=True,
            ),
        )

    @property
    def job(self) -> Job:
        """The work itself."""
        return Job(name="maintain", interval=_INTERVAL, work=self.run, exclusive=True, retry=_RETRY)

    async def run(self) -> None:
        """Make partitions, drop those past their retention, forget old imports' answers; `done` says how much.

        Making comes first: it is what writes depend on. Raises Failure, and JobFailed when something could not be
        dropped; all else is done then.
        """
        self.done = Done()
        # All of it can be executed again, whatever became of the first time.
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
            await self.watch.look()

    async def expired(self) -> list[Partition]:
        """The partitions that a run would drop now, those that an earlier one had detached before it was killed too."""
        look = await self.watch.look()
        rows = await self._database.read(lambda session: session.all(self._queries["left_over"], {"mark": MARK}))
        left = tuple(partition for row in rows if (partition := marked(*row)) is not None)
        return replace(look, partitions=(*look.partitions, *left)).expired(self._keep)

    async def _prune_chunks(self) -> None:
        days = self._settings.import_retention_days
        parameters = {"keep": timedelta(days=days), "step": _STEP}
        pruned = _STEP if days else 0
        while pruned == _STEP:
            pruned = await self._database.transaction(
                lambda session: session.run(self._queries["prune_import_chunks"], parameters), repeatable=True
            )
            self.done.chunks_pruned += pruned

    async def _drop(self, expired: list[Partition]) -> None:
        if not expired:
            return
        dropped = await self._dropped(expired)
        self.done.partitions_dropped += dropped.names
        if dropped.failed:
            reasons = ", ".join(f"{name}: {reason}" for name, reason in dropped.failed.items())
            raise JobFailed(f"partitions could not be dropped: {reasons}")

    async def _dropped(self, expired: list[Partition]) -> Dropped:
        try:
            conninfo = owner_conninfo(self._settings, application_name="vsyncd maintain")
            async with await AsyncConnection.connect(
                conninfo, autocommit=True, prepare_threshold=None, **parameters_for(conninfo)
            ) as connection:
                await set_up_async(connection)
                dropper = PartitionDropper(connection, schema=self._settings.db_schema)
                if not await dropper.may_drop():
                    are = "1 partition is" if len(expired) == 1 else f"{len(expired)} partitions are"
                    raise JobFailed(
                        f"{are} past retention, and only the tables' owner can drop what is past it:"
                        " set DB_MIGRATE_URL, or run vsyncd maintain as the owner"
                    )
                return await dropper.drop(expired)
        except psycopg.Error as error:
            raise JobFailed(f"partitions could not be dropped: {error_category(error)}") from error
        except ConfigError as error:
            raise JobFailed(error.lines[0]) from error
