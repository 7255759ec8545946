"""The client: the services of one server, for asyncio and for threads."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
from grpc import aio

from vsync.channel import Tls, channel_options
from vsync.consistency import OwnWrites, not_older_than
from vsync.correlation_id import check_correlation_id
from vsync.diffing import DiffOptions, DiffStream
from vsync.health.v1 import health_pb2
from vsync.health.v1.health_pb2_grpc import HealthStub
from vsync.importing import ImportOptions, ImportProgress, ImportStream
from vsync.interceptors import CallDefaults, SyncInterceptor, async_interceptors
from vsync.reconnect import DEFAULT_RECONNECT_TIMEOUT_S, OnReconnect
from vsync.response_streams import CidEventStream, ExportStream, HealthStream
from vsync.streams import run, run_async
from vsync.token import Token, check_confidential
from vsync.v1 import cid_pb2, reconciliation_pb2
from vsync.v1.audit_pb2_grpc import AuditServiceStub
from vsync.v1.cid_pb2_grpc import CidServiceStub
from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceStub
from vsync.v1.server_pb2_grpc import ServerServiceStub
from vsync.v1.status_pb2_grpc import StatusServiceStub
from vsync.v1.sync_batch_pb2_grpc import SyncBatchServiceStub

if TYPE_CHECKING:
    import pyarrow as pa

    # These exist for type checkers only: one class serves both kinds of channel.
    from vsync.health.v1.health_pb2_grpc import HealthAsyncStub
    from vsync.v1.audit_pb2_grpc import AuditServiceAsyncStub
    from vsync.v1.cid_pb2_grpc import CidServiceAsyncStub
    from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceAsyncStub
    from vsync.v1.server_pb2_grpc import ServerServiceAsyncStub
    from vsync.v1.status_pb2_grpc import StatusServiceAsyncStub
    from vsync.v1.sync_batch_pb2_grpc import SyncBatchServiceAsyncStub

DEFAULT_TIMEOUT = 10.0
MAX_BATCH_ROWS = 10_000
"""The default size of a record batch."""

T = TypeVar("T")


class Client:
    """A server's services, for asyncio. `connect` creates one.

    Each attribute is a service's stub: its methods take the request message, and `timeout` and `metadata` for a call
    that needs its own. Every call has a deadline, a correlation id and, if it changes something, a request_id; every
    failed call raises a subclass of vsync.errors.CallError.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.cids: CidServiceAsyncStub = CidServiceStub(channel)
        self.batches: SyncBatchServiceAsyncStub = SyncBatchServiceStub(channel)
        self.audit: AuditServiceAsyncStub = AuditServiceStub(channel)
        self.reconciliation: ReconciliationServiceAsyncStub = ReconciliationServiceStub(channel)
        self.server: ServerServiceAsyncStub = ServerServiceStub(channel)
        self.status: StatusServiceAsyncStub = StatusServiceStub(channel)
        self.health: HealthAsyncStub = HealthStub(channel)

    def stub(self, stub: Callable[[aio.Channel], T]) -> T:
        """Returns a stub of any service, whose calls have this client's defaults: `client.stub(PaymentServiceStub)`."""
        return stub(self.channel)

    def import_records(
        self,
        records: Iterable[cid_pb2.CidRecord],
        options: ImportOptions | None = None,
        *,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncIterator[ImportProgress]:
        """Imports any number of records, and yields the progress after each committed chunk.

        Continues after lost connections and server restarts; `on_reconnect` is called after each lost stream. Raises
        CallError; AlreadyExistsError with ON_CONFLICT_FAIL.
        """
        stream = ImportStream(enumerate(records, 1), options or ImportOptions())
        return run_async(stream, self.cids.ImportCids, on_reconnect)

    def export(
        self,
        request: cid_pb2.ExportCidsRequest,
        *,
        consistency_token: str | None = None,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncIterator[cid_pb2.ExportCidsResponse]:
        """Yields every message of an export once, also after lost connections.

        `consistency_token`: the token of the first message of WatchCidEvents, for a copy of the set that the events
        then keep up to date. `reconnect_timeout`: seconds without progress after which the export fails. `on_reconnect`
        is called after each lost stream. Raises CallError.
        """
        stream = ExportStream(request, metadata=not_older_than(consistency_token), reconnect_timeout=reconnect_timeout)
        return run_async(stream, self.cids.ExportCids, on_reconnect)

    def to_arrow(
        self,
        request: cid_pb2.ExportCidsRequest,
        *,
        max_rows: int = MAX_BATCH_ROWS,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> "AsyncIterator[pa.RecordBatch]":
        """Yields an export as Arrow record batches of at most `max_rows` rows, in which codes are strings.

        See `export`. Raises MissingExtraError if pyarrow is not installed, ValueError for a request with cids_only.
        """
        from vsync.arrow import read_batches_async  # noqa: PLC0415 - pyarrow may be missing

        messages = self.export(request, reconnect_timeout=reconnect_timeout, on_reconnect=on_reconnect)
        return read_batches_async(messages, max_rows, request)

    def watch_cid_events(
        self,
        request: reconciliation_pb2.WatchCidEventsRequest,
        *,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncIterator[reconciliation_pb2.WatchCidEventsResponse]:
        """Yields the messages of WatchCidEvents without an end: each event once, also after lost connections.

        `reconnect_timeout`: seconds for which the server may be unreachable. `on_reconnect` is called after each lost
        stream. Raises CallError; OutOfRangeError if the events after the token were removed.
        """
        stream = CidEventStream(request, reconnect_timeout=reconnect_timeout)
        return run_async(stream, self.reconciliation.WatchCidEvents, on_reconnect)

    def watch_health(
        self,
        request: health_pb2.HealthRequest,
        *,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncIterator[health_pb2.HealthResponse]:
        """Yields the server's health and then each change, without an end.

        `reconnect_timeout`: seconds for which the server may be unreachable. `on_reconnect` is called after each lost
        stream; the next stream begins with the present state. Raises CallError.
        """
        stream = HealthStream(request, reconnect_timeout=reconnect_timeout)
        return run_async(stream, self.health.WatchHealth, on_reconnect)

    def diff(
        self, packed: Iterable[bytes], options: DiffOptions, *, on_reconnect: OnReconnect | None = None
    ) -> AsyncIterator[reconciliation_pb2.DiffCidSetResponse]:
        """Compares packed CIDs, for example a CidFile, with those of the server.

        Yields progress, parts, and a summary that is checked. `on_reconnect` is called after each attempt that the
        server did not accept. Raises CallError, DiffIncompleteError, and what reading `packed` raises.
        """
        return run_async(DiffStream(packed, options), self.reconciliation.DiffCidSet, on_reconnect)

    async def close(self) -> None:
        """Cancels running calls and closes the connections."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class SyncClient:
    """A server's services, for threads. `connect_sync` creates one; threads may share it. See Client."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.cids = CidServiceStub(channel)
        self.batches = SyncBatchServiceStub(channel)
        self.audit = AuditServiceStub(channel)
        self.reconciliation = ReconciliationServiceStub(channel)
        self.server = ServerServiceStub(channel)
        self.status = StatusServiceStub(channel)
        self.health = HealthStub(channel)

    def stub(self, stub: Callable[[grpc.Channel], T]) -> T:
        """Returns a stub of any service, whose calls have this client's defaults: `client.stub(PaymentServiceStub)`."""
        return stub(self.channel)

    def import_records(
        self,
        records: Iterable[cid_pb2.CidRecord],
        options: ImportOptions | None = None,
        *,
        on_reconnect: OnReconnect | None = None,
    ) -> Iterator[ImportProgress]:
        """See Client.import_records."""
        stream = ImportStream(enumerate(records, 1), options or ImportOptions())
        return run(stream, self.cids.ImportCids, on_reconnect)

    def export(
        self,
        request: cid_pb2.ExportCidsRequest,
        *,
        consistency_token: str | None = None,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> Iterator[cid_pb2.ExportCidsResponse]:
        """See Client.export."""
        stream = ExportStream(request, metadata=not_older_than(consistency_token), reconnect_timeout=reconnect_timeout)
        return run(stream, self.cids.ExportCids, on_reconnect)

    def to_arrow(
        self,
        request: cid_pb2.ExportCidsRequest,
        *,
        max_rows: int = MAX_BATCH_ROWS,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> "pa.RecordBatchReader":
        """Returns a reader of the batches, from which pandas, DuckDB and others read. See Client.to_arrow."""
        from vsync.arrow import read_batches  # noqa: PLC0415 - pyarrow may be missing

        messages = self.export(request, reconnect_timeout=reconnect_timeout, on_reconnect=on_reconnect)
        return read_batches(messages, max_rows, request)

    def watch_cid_events(
        self,
        request: reconciliation_pb2.WatchCidEventsRequest,
        *,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> Iterator[reconciliation_pb2.WatchCidEventsResponse]:
        """See Client.watch_cid_events."""
        stream = CidEventStream(request, reconnect_timeout=reconnect_timeout)
        return run(stream, self.reconciliation.WatchCidEvents, on_reconnect)

    def watch_health(
        self,
        request: health_pb2.HealthRequest,
        *,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
        on_reconnect: OnReconnect | None = None,
    ) -> Iterator[health_pb2.HealthResponse]:
        """See Client.watch_health."""
        stream = HealthStream(request, reconnect_timeout=reconnect_timeout)
        return run(stream, self.health.WatchHealth, on_reconnect)

    def diff(
        self, packed: Iterable[bytes], options: DiffOptions, *, on_reconnect: OnReconnect | None = None
    ) -> Iterator[reconciliation_pb2.DiffCidSetResponse]:
        """See Client.diff."""
        return run(DiffStream(packed, options), self.reconciliation.DiffCidSet, on_reconnect)

    def close(self) -> None:
        """Cancels running calls and closes the connections."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def connect(
    target: str,
    *,
    tls: Tls | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    correlation_id: str | None = None,
    read_own_writes: bool = True,
) -> Client:
    """Returns a client for asyncio: `async with vsync.connect("localhost:50051") as client`. Needs a running loop.

    The first call connects, over TLS if `tls` is given. `timeout` is the deadline, in seconds, of a call with one
    response that has no timeout of its own; None leaves it to the server. `correlation_id` is used for every call
    outside of `vsync.correlation`; by default each call gets a new one. `read_own_writes`: reads see what this client
    wrote before, even if a replica answers; without it, reads may be as old as the replicas are. `token` is a key or a
    JWT that each call sends, `token_file` a file with it, which is read again when it changes. Raises ValueError for a
    `correlation_id` that vsyncd does not accept and for a token without TLS, and OSError if a file cannot be read.
    """
    credentials = _token(target, tls, token, token_file)
    defaults = _call_defaults(timeout, correlation_id, credentials, read_own_writes=read_own_writes)
    options, interceptors = channel_options(tls), async_interceptors(defaults)
    if tls is None:
        return Client(aio.insecure_channel(target, options=options, interceptors=interceptors))
    return Client(aio.secure_channel(target, tls.credentials(), options=options, interceptors=interceptors))


def connect_sync(
    target: str,
    *,
    tls: Tls | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    correlation_id: str | None = None,
    read_own_writes: bool = True,
) -> SyncClient:
    """Returns a client for threads: `with vsync.connect_sync("localhost:50051") as client`. See `connect`."""
    credentials = _token(target, tls, token, token_file)
    defaults = _call_defaults(timeout, correlation_id, credentials, read_own_writes=read_own_writes)
    options = channel_options(tls)
    if tls is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        channel = grpc.secure_channel(target, tls.credentials(), options=options)
    return SyncClient(grpc.intercept_channel(channel, SyncInterceptor(defaults)))


def _token(target: str, tls: Tls | None, token: str | None, token_file: Path | None) -> Token | None:
    if token is not None and token_file is not None:
        raise ValueError("token and token_file exclude each other")
    source = token if token_file is None else token_file
    if source is None:
        return None
    check_confidential(target, tls=tls is not None)
    return Token(source)


def _call_defaults(
    timeout: float | None, correlation_id: str | None, token: Token | None, *, read_own_writes: bool
) -> CallDefaults:
    if correlation_id is not None:
        check_correlation_id(correlation_id)
    own_writes = OwnWrites(enabled=read_own_writes)
    return CallDefaults(timeout=timeout, correlation_id=correlation_id, own_writes=own_writes, token=token)
