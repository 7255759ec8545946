"""Collects the status of this server, within a bounded time and at a bounded cost."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context as ContextVars
from datetime import UTC, datetime
from functools import partial
from typing import Final

from vsync.v1 import status_pb2 as pb

from vsyncd import __version__
from vsyncd.core.errors import ServiceError
from vsyncd.core.timestamps import timestamp
from vsyncd.health.service import Reports
from vsyncd.jobs.maintenance.partitions import PartitionWatch
from vsyncd.observability.call_history import CallHistory
from vsyncd.observability.logs import logger
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import Session
from vsyncd.resilience.tasks import cancel_and_wait
from vsyncd.status.findings import find
from vsyncd.status.sections import add_process

# The answers of one second are the same.
MAX_AGE_S: Final = 1.0
# For all sections together.
DATABASE_TIMEOUT_S: Final = 2.0
_MINUTE_S: Final = 60.0
_NO_CALL: Final = ContextVars()
_log = logger(__name__)

# Reads a section, and adds it to the message last.
Reader = Callable[[Session, pb.ServerStatus], Awaitable[None]]


class StatusCollector:
    """The status of this process and its database. `readers` read the sections of the database, by their names."""

    def __init__(
        self, database: Database, reports: Reports, partitions: PartitionWatch, readers: Mapping[str, Reader]
    ) -> None:
        self._database = database
        self._reports = reports
        self._partitions = partitions
        self._readers = dict(readers)
        self._history = CallHistory()
        self._started_at = datetime.now(UTC)
        self._collecting: asyncio.Task[pb.ServerStatus] | None = None
        self._collected_at = float("-inf")
        self._minutes: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._minutes = asyncio.get_running_loop().create_task(self._repeat(), name="status")

    async def stop(self) -> None:
        await cancel_and_wait([task for task in (self._minutes, self._collecting) if task is not None])

    async def status(self) -> pb.ServerStatus:
        """Returns the status, at most MAX_AGE_S old. Concurrent callers share it and must not change it."""
        loop = asyncio.get_running_loop()
        is_old = loop.time() - self._collected_at > MAX_AGE_S
        if self._collecting is None or (self._collecting.done() and is_old):
            # It belongs to no call, so that no deadline and no scope of a caller applies.
            self._collecting = loop.create_task(self._collect(), context=_NO_CALL.copy())
        return await asyncio.shield(self._collecting)

    async def _repeat(self) -> None:
        """Begins a new minute of the history every minute. Collecting keeps the rates of batches and imports known."""
        while True:
            await asyncio.sleep(_MINUTE_S)
            self._history.record()
            try:
                await self.status()
            except Exception as error:  # noqa: BLE001  a defect must not end the history for good
                _log.error("the status cannot be collected", exc_info=error)

    async def _collect(self) -> pb.ServerStatus:
        status = pb.ServerStatus(
            collected_at=timestamp(datetime.now(UTC)), version=__version__, start_time=timestamp(self._started_at)
        )
        health, _ = await asyncio.gather(self._reports.health(details=True), self._read_sections(status))
        status.health.CopyFrom(health)
        add_process(status, self._history, self._partitions)
        status.findings.extend(find(status))
        self._collected_at = asyncio.get_running_loop().time()
        return status

    async def _read_sections(self, status: pb.ServerStatus) -> None:
        """Reads one section after the other, so that they occupy one connection."""
        end = asyncio.get_running_loop().time() + DATABASE_TIMEOUT_S
        for name, read in self._readers.items():
            try:
                async with asyncio.timeout_at(end):
                    section = await self._database.read(
                        partial(_section, read), ReadMode.PRIMARY_PREFERRED, allow_outdated_schema=True
                    )
            except TimeoutError:
                status.unavailable.add(section=name, reason="QUERY_TIMEOUT")
            except ServiceError as failure:
                status.unavailable.add(section=name, reason=failure.reason)
            else:
                status.MergeFrom(section)


async def _section(read: Reader, session: Session) -> pb.ServerStatus:
    section = pb.ServerStatus()
    await read(session, section)
    return section
