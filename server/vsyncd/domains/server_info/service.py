"""Implements ServerService."""

import asyncio
from collections.abc import Sequence
from contextvars import Context as ContextVars
from datetime import UTC, datetime
from typing import Final

from vsync.v1 import server_pb2 as pb
from vsync.v1.server_pb2_grpc import ServerServiceServicer

from vsyncd import __version__
from vsyncd.config import Settings
from vsyncd.core.context import Context
from vsyncd.core.errors import ServiceError
from vsyncd.core.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import MAX_BATCH
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import Session

# Most callers of GetServerInfo do not need the database's part of the answer, so that the wait for it is short.
DATABASE_TIMEOUT_S: Final = 1.0
_NO_CALL: Final = ContextVars()


class ServerService(ServerServiceServicer):
    """Describes this server; see server.proto. `started_at` is the start time of the process in UTC; default: now."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        versions: SchemaVersions,
        *,
        domains: Sequence[str] = (),
        started_at: datetime | None = None,
    ) -> None:
        self._database = database
        self._versions = versions
        self._started_at = started_at or datetime.now(UTC)
        self._limits = pb.Limits(
            default_page_size=DEFAULT_PAGE_SIZE,
            max_page_size=MAX_PAGE_SIZE,
            max_batch_size=MAX_BATCH,
            max_request_bytes=settings.grpc_max_request_bytes,
            max_response_bytes=settings.grpc_max_response_bytes,
        )
        self._features = features_of(settings)
        self._domains = sorted(domains)
        self._asking: asyncio.Task[dict[str, int]] | None = None

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        versions = await self._schema_versions()
        info = pb.ServerInfo(
            version=__version__,
            schema_versions=[pb.SchemaVersion(set=name, version=version) for name, version in sorted(versions.items())],
            limits=self._limits,
            start_time=timestamp(self._started_at),
            features=self._features,
            domains=self._domains,
        )
        return pb.GetServerInfoResponse(info=info)

    async def _schema_versions(self) -> dict[str, int]:
        """Returns the versions if the database answers within DATABASE_TIMEOUT_S. Concurrent calls share one query.

        A late query is not cancelled: the pool limits it, and on Python 3.11 a cancelled wait for a connection can lose
        the connection (psycopg#1413).
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(), context=_NO_CALL.copy())
        asking = self._asking
        done, _ = await asyncio.wait({asking}, timeout=DATABASE_TIMEOUT_S)
        return asking.result() if done else {}

    async def _ask(self) -> dict[str, int]:
        async def work(session: Session) -> dict[str, int]:
            return await self._versions.current(session.connection)

        try:
            return await self._database.read(work, ReadMode.PRIMARY_PREFERRED, allow_outdated_schema=True)
        except ServiceError:
            return {}


def features_of(settings: Settings) -> list[str]:
    """Returns the enabled features, with the names of server.proto."""
    on = {
        "reflection": settings.grpc_reflection,
        "tls": settings.tls_cert_file is not None,
        "mutual_tls": settings.tls_client_ca_file is not None,
        "cache": settings.has_cache,
        "replicas": bool(settings.replica_hosts),
        "backups": settings.backup_schedule is not None,
    }
    return [name for name, is_on in on.items() if is_on]
