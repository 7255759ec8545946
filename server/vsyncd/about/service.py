"""vsync.v1.ServerService."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from vsync.v1 import server_pb2 as pb
from vsync.v1.server_pb2_grpc import ServerServiceServicer

from vsyncd import __version__
from vsyncd.config import Settings
from vsyncd.errors import Failure
from vsyncd.fields import MAX_BATCH
from vsyncd.migrate import fetch_current_versions
from vsyncd.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from vsyncd.postgres.consistency import Reads
from vsyncd.postgres.database import Database, Session

Context = Any  # grpc.aio.ServicerContext, of no interest here

# The most seconds that the database gets to answer: whoever asks what this server is mostly wants the rest.
DATABASE_SECONDS: Final = 1.0


class ServerService(ServerServiceServicer):
    """What this server is. `started_at`: when the process began to serve, UTC; default: now."""

    def __init__(self, database: Database, settings: Settings, *, started_at: datetime | None = None) -> None:
        self._database = database
        self._started_at = started_at or datetime.now(UTC)
        self._limits = pb.Limits(
            default_page_size=DEFAULT_PAGE_SIZE,
            max_page_size=MAX_PAGE_SIZE,
            max_batch_size=MAX_BATCH,
            max_request_bytes=settings.grpc_max_request_bytes,
            max_response_bytes=settings.grpc_max_response_bytes,
        )
        self._features = features_of(settings)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """See server.proto."""
        start_time = Timestamp()
        start_time.FromDatetime(self._started_at)
        versions = await self._schema_versions()
        info = pb.ServerInfo(
            version=__version__,
            schema_versions=[pb.SchemaVersion(set=name, version=version) for name, version in sorted(versions.items())],
            limits=self._limits,
            start_time=start_time,
            features=self._features,
        )
        return pb.GetServerInfoResponse(info=info)

    async def _schema_versions(self) -> dict[str, int]:
        async def work(session: Session) -> dict[str, int]:
            return await fetch_current_versions(session.connection, self._database.schema)

        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                return await self._database.read(work, Reads.SINGLE)
        except (Failure, TimeoutError):
            return {}  # the database cannot be asked, and the rest of the answer does not need it


def features_of(settings: Settings) -> list[str]:
    """What is on."""
    on = {
        "reflection": settings.grpc_reflection,
        "tls": settings.tls_cert_file is not None,
        "mutual_tls": settings.tls_client_ca_file is not None,
    }
    return [name for name, is_on in on.items() if is_on]
