"""Creates and reads batches."""

from datetime import date
from typing import Final
from uuid import UUID

from vsyncd.core.errors import AlreadyExists
from vsyncd.core.ids import new_id, time_of
from vsyncd.core.scope import Scope
from vsyncd.domains.sync_batches.batch_lock import BatchLock, BatchNotFound, batch_queries, replay_batch
from vsyncd.domains.sync_batches.records import BatchFilter, BatchPosition, SyncBatch
from vsyncd.observability import sync_metrics
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Query, Session

# Above all batches: "~" sorts after every digit.
MAX_POSITION: Final = BatchPosition(date.max, "~")


class SyncBatchRepository:
    """The table of batches."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = batch_queries(database.schema)
        self._lock = BatchLock(database.schema)

    async def create(self, mutation: Mutation, *, batch_date: date, ispb: str, scope: Scope) -> SyncBatch:
        """Creates a PENDING batch. Raises AlreadyExists (BATCH_EXISTS), BatchOverlaps, IspbDenied."""
        scope.check(ispb)

        async def work(session: Session) -> Outcome[SyncBatch]:
            batch_id = new_id()
            await self._lock.lock_all(session)
            parameters = {"id": batch_id, "batch_date": batch_date, "ispb": ispb, "created_at": time_of(batch_id)}
            if await session.one(self._queries["insert_batch"], parameters) is None:
                existing = await self._get_by_key(session, batch_date, ispb, scope)  # batches are never deleted
                metadata = {"existing_id": str(existing.id), "revision": str(existing.revision)}
                message = "A batch of this day and ispb exists already."
                raise AlreadyExists("BATCH_EXISTS", message, metadata=metadata)
            await self._lock.check_overlap(session, batch_id, ispb, scope=scope)
            batch = await self._lock.read(session, batch_id, scope=scope)
            payload = {"batch_id": str(batch_id), "batch_date": batch_date.isoformat(), "ispb": ispb}
            return Outcome(batch, batch.dump(), payload, ispb=ispb or None)

        return await self._mutations.execute(mutation, work, replay_batch(scope))

    async def get(self, batch_id: UUID, *, scope: Scope) -> SyncBatch:
        """Returns a batch. Raises BatchNotFound."""
        return await self._database.read(
            lambda session: self._lock.read(session, batch_id, scope=scope), ReadMode.PRIMARY_PREFERRED
        )

    async def get_by_key(self, batch_date: date, ispb: str, *, scope: Scope) -> SyncBatch:
        """Returns the batch of a day and ispb. Raises BatchNotFound."""
        return await self._database.read(
            lambda session: self._get_by_key(session, batch_date, ispb, scope), ReadMode.PRIMARY_PREFERRED
        )

    async def _get_by_key(self, session: Session, batch_date: date, ispb: str, scope: Scope) -> SyncBatch:
        row = await session.one(self._queries["batch_id_by_key"], {"batch_date": batch_date, "ispb": ispb})
        if row is None:
            raise BatchNotFound
        return await self._lock.read(session, row[0], scope=scope)

    async def page(
        self, batch_filter: BatchFilter, *, below: BatchPosition, size: int, scope: Scope
    ) -> tuple[list[SyncBatch], BatchPosition | None]:
        """Returns up to `size` batches below a position, newest day first, and the position of the next page.

        Raises IspbDenied.
        """
        ispb, ispbs = scope.narrow(batch_filter.ispb)
        template = self._queries["list_batches_by_status" if batch_filter.status else "list_batches"]
        query = list_query(template, several=ispbs is not None)
        parameters = {
            "status": batch_filter.status,
            "from_day": batch_filter.from_day,
            "ispb": ispb,
            "ispbs": ispbs,
            "below_day": below.day,
            "below_ispb": below.ispb,
            "size": size + 1,
        }
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        batches = [SyncBatch._make(row) for row in rows[:size]]
        has_more = len(rows) > size
        return batches, BatchPosition(batches[-1].batch_date, batches[-1].ispb) if has_more else None

    async def measure(self) -> None:
        """Updates the metrics of the open batches."""
        query = self._queries["measure"]
        row = await self._database.read(lambda session: session.single(query), ReadMode.REPLICA_PREFERRED)
        *counts, progress, lease = row
        sync_metrics.BATCHES.replace(dict(zip(("pending", "starting", "running"), counts[:3], strict=True)))
        sync_metrics.BATCH_RECORDS.replace(dict(zip(("open", "synced", "failed", "skipped"), counts[3:], strict=True)))
        sync_metrics.BATCH_PROGRESS.replace_time(progress)
        sync_metrics.BATCH_LEASE.replace_time(lease)


def list_query(template: Query, *, several: bool = False) -> Query:
    """Returns the query that lists the batches of one participant or all, or of `several`."""
    condition = b"ispb = ANY (%(ispbs)s::text[])" if several else b"(%(ispb)s = '' OR ispb = %(ispb)s)"
    name = f"{template.name}_of_ispbs" if several else template.name
    return Query(name, template.sql.replace(b"/*ISPB*/", condition))
