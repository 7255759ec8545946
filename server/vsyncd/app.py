"""The composition root: what there is, put together; started in order, stopped in reverse.

Adding a domain is one line in `Application._services`.
"""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import grpc
import uvloop
from vsync.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from vsync.v1.cid_pb2_grpc import add_CidServiceServicer_to_server

from vsyncd import __version__, logs
from vsyncd.audit.repository import AuditRepository
from vsyncd.audit.service import AuditService
from vsyncd.cids.creation import CidCreator
from vsyncd.cids.export_repository import ExportRepository
from vsyncd.cids.export_stream import ExportStream
from vsyncd.cids.import_repository import ImportRepository
from vsyncd.cids.import_stream import ImportStream
from vsyncd.cids.reading import CidReader
from vsyncd.cids.repository import CidRepository
from vsyncd.cids.service import CidService
from vsyncd.config import Settings
from vsyncd.jobs import Job, JobRunner
from vsyncd.migrate import DatabaseRefused, migrate_up
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutations
from vsyncd.postgres.partitions import make_partitions
from vsyncd.schema import migration_target
from vsyncd.transport.server import Registration, build_server

_log = logs.logger(__name__)

_FOLD_INTERVAL = 5.0
_PARTITION_INTERVAL = 6 * 3600.0
_MIGRATION_RETRY = 2.0


class Application:
    """One vsyncd over one database. `async with` starts and stops it; `port` is where it serves gRPC then."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings)
        self.port = 0
        self._mutations = Mutations(self.database)
        self._stack = AsyncExitStack()
        self._cids = CidRepository(self.database, self._mutations)

    def _services(self) -> Sequence[Registration]:
        """Every domain's service, bound to the generated function that registers it."""
        return (
            partial(add_CidServiceServicer_to_server, self._cid_service()),
            partial(add_AuditServiceServicer_to_server, AuditService(AuditRepository(self.database, self._mutations))),
        )

    def _cid_service(self) -> CidService:
        settings = self.settings
        exports = ExportRepository(self.database, most=settings.export_max_streams)
        return CidService(
            repository=self._cids,
            creator=CidCreator(self.database, self._cids),
            reader=CidReader(self._cids),
            imports=ImportStream(ImportRepository(self.database)),
            exports=ExportStream(exports, max_duration=settings.export_max_duration),
        )

    def _jobs(self) -> list[Job]:
        return [
            Job(name="fold totals", interval=_FOLD_INTERVAL, work=self._cids.fold_totals),
            Job(name="make partitions", interval=_PARTITION_INTERVAL, work=partial(make_partitions, self.database)),
        ]

    async def start(self) -> None:
        """Serve. Raises MigrateError, ListenError; a database that cannot be reached is waited for while serving."""
        migrated = not self.settings.db_auto_migrate or await self._migrate()
        async with AsyncExitStack() as stack:
            await self.database.open()
            stack.push_async_callback(self.database.close)
            if not migrated:
                stack.push_async_callback(_cancel, asyncio.create_task(self._migrate_when_possible()))
            jobs = JobRunner(self._jobs())
            jobs.start()
            stack.push_async_callback(jobs.stop)
            server, _names, self.port = build_server(self.settings, self._services())
            await server.start()
            stack.push_async_callback(self._stop_server, server)
            self._stack = stack.pop_all()
        _log.info("serving", version=__version__, listen=self.settings.grpc_listen, port=self.port)

    async def stop(self) -> None:
        """Let the calls in flight end, within SHUTDOWN_GRACE, then close everything."""
        await self._stack.aclose()
        _log.info("stopped")

    async def __aenter__(self) -> "Application":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _stop_server(self, server: grpc.aio.Server) -> None:
        _log.info("draining", grace=self.settings.shutdown_grace)
        await server.stop(self.settings.shutdown_grace)

    async def _migrate(self) -> bool:
        """Apply what is missing; False when the database cannot be reached."""
        target = migration_target(self.settings)
        try:
            steps = await asyncio.to_thread(migrate_up, target)
        except DatabaseRefused as error:
            _log.warning("the database cannot be migrated now", error=str(error))
            return False
        for step in steps:
            _log.info("migrated", migration=str(step.migration), duration_ms=step.duration_ms)
        return True

    async def _migrate_when_possible(self) -> None:
        while not await self._migrate():
            await asyncio.sleep(_MIGRATION_RETRY)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _serve(settings: Settings, *, embedded: bool, data_dir: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        if embedded:
            # An extra that a server with a database of its own does not have.
            from vsyncd.embedded import EmbeddedPostgres, default_data_dir  # noqa: PLC0415  see above

            folder = data_dir or default_data_dir()
            postgres = await stack.enter_async_context(EmbeddedPostgres(folder))
            settings = settings.with_database(postgres.conninfo)
            _log.info("PostgreSQL started", data_dir=str(folder))
        await stack.enter_async_context(Application(settings))
        await stop.wait()
    return 0


def serve(settings: Settings, *, embedded: bool = False, data_dir: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code.

    Raises what stops a start: MigrateError, ListenError, EmbeddedError.
    """
    logs.configure(level=settings.log_level, form=settings.log_format)
    return uvloop.run(_serve(settings, embedded=embedded, data_dir=data_dir))
