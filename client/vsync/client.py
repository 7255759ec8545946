"""The client: the services of one server, for asyncio and for threads."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import grpc
from grpc import aio

from vsync.calls import CallDefaults
from vsync.channel import Tls, channel_options
from vsync.consistency import OwnWrites
from vsync.correlation_id import check_correlation_id
from vsync.diffing import DiffOptions, run_diff, run_diff_async
from vsync.exporting import run_export, run_export_async
from vsync.health.v1 import health_pb2
from vsync.health.v1.health_pb2_grpc import HealthStub
from vsync.importing import ImportOptions, ImportProgress, ImportWindow, run_import, run_import_async
from vsync.interceptors import SyncInterceptor, async_interceptors
from vsync.reconnect import DEFAULT_PATIENCE_S, OnWait, ignore_wait
from vsync.v1 import cid_pb2, reconciliation_pb2
from vsync.v1.audit_pb2_grpc import AuditServiceStub
from vsync.v1.cid_pb2_grpc import CidServiceStub
from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceStub
from vsync.v1.server_pb2_grpc import ServerServiceStub
from vsync.v1.sync_batch_pb2_grpc import SyncBatchServiceStub
from vsync.watching import run_watch_events, run_watch_events_async, run_watch_health, run_watch_health_async

if TYPE_CHECKING:
    # These exist for type checkers only: at run time one class serves both kinds of channel.
    from vsync.health.v1.health_pb2_grpc import HealthAsyncStub
    from vsync.v1.audit_pb2_grpc import AuditServiceAsyncStub
    from vsync.v1.cid_pb2_grpc import CidServiceAsyncStub
    from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceAsyncStub
    from vsync.v1.server_pb2_grpc import ServerServiceAsyncStub
    from vsync.v1.sync_batch_pb2_grpc import SyncBatchServiceAsyncStub

DEFAULT_TIMEOUT = 10.0


T = TypeVar("T")
A = TypeVar("A")
S = TypeVar("S")


class _Stub(Generic[A, S]):
    """A stub as an attribute of both clients. It is created when it is first used."""

    def __init__(self, stub: type[S]) -> None:
        self._stub: Any = stub
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, client: "Client", owner: type) -> A: ...

    @overload
    def __get__(self, client: "SyncClient", owner: type) -> S: ...

    def __get__(self, client: "Client | SyncClient", owner: type) -> object:
        return client.__dict__.setdefault(self._name, self._stub(client.channel))


class _Services:
    """The stubs of both clients. `stub` of either client gives those of other services."""

    cids: "_Stub[CidServiceAsyncStub, CidServiceStub]" = _Stub(CidServiceStub)
    """vsync.v1.CidService"""
    batches: "_Stub[SyncBatchServiceAsyncStub, SyncBatchServiceStub]" = _Stub(SyncBatchServiceStub)
    """vsync.v1.SyncBatchService"""
    audit: "_Stub[AuditServiceAsyncStub, AuditServiceStub]" = _Stub(AuditServiceStub)
    """vsync.v1.AuditService"""
    reconciliation: "_Stub[ReconciliationServiceAsyncStub, ReconciliationServiceStub]" = _Stub(
        ReconciliationServiceStub
    )
    """vsync.v1.ReconciliationService"""
    server: "_Stub[ServerServiceAsyncStub, ServerServiceStub]" = _Stub(ServerServiceStub)
    """vsync.v1.ServerService"""
    health: "_Stub[HealthAsyncStub, HealthStub]" = _Stub(HealthStub)
    """vsync.health.v1.Health"""


class Client(_Services):
    """A server's services, for asyncio. `connect` creates one.

    Each attribute is a service's stub: its methods take the request message, and `timeout` and `metadata` for a call
    that needs its own. Every call has a deadline, a correlation id and, if it changes something, a request_id; every
    failed call raises a subclass of vsync.errors.CallError.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel

    def stub(self, stub: Callable[[aio.Channel], T]) -> T:
        """Returns a stub of any service, whose calls have this client's defaults: `client.stub(PaymentServiceStub)`."""
        return stub(self.channel)

    def import_records(
        self,
        records: Iterable[cid_pb2.CidRecord],
        options: ImportOptions | None = None,
        *,
        on_wait: OnWait = ignore_wait,
    ) -> AsyncIterator[ImportProgress]:
        """Imports any number of records, and gives the progress after each committed chunk.

        Survives lost streams and server restarts; `on_wait` is called after each lost stream. Raises CallError;
        AlreadyExists with ON_CONFLICT_FAIL.
        """
        options = options or ImportOptions()
        return run_import_async(self.cids, ImportWindow(enumerate(records, 1), options), options, on_wait=on_wait)

    def export(
        self,
        request: cid_pb2.ExportCidsRequest,
        *,
        consistency_token: str | None = None,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> AsyncIterator[cid_pb2.ExportCidsResponse]:
        """Gives every message of an export, each once, through lost streams.

        `consistency_token`: that of WatchCidEvents' first message, when a copy of the set is to follow the events.
        `patience`: seconds without progress after which it fails. `on_wait` is called after each lost stream. Raises
        CallError.
        """
        return run_export_async(
            self.cids, request, consistency_token=consistency_token, patience=patience, on_wait=on_wait
        )

    def watch_cid_events(
        self,
        request: reconciliation_pb2.WatchCidEventsRequest,
        *,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> AsyncIterator[reconciliation_pb2.WatchCidEventsResponse]:
        """Gives the messages of WatchCidEvents without an end, each event once, through lost streams.

        `patience`: seconds for which the server may be unreachable. `on_wait` is called after each lost stream. Raises
        CallError; OutOfRange when the events after the token are no longer kept.
        """
        return run_watch_events_async(self.reconciliation, request, patience=patience, on_wait=on_wait)

    def watch_health(
        self,
        request: health_pb2.HealthRequest,
        *,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> AsyncIterator[health_pb2.HealthResponse]:
        """Gives the server's health and then each change, without an end, through lost streams.

        `patience`: seconds for which the server may be unreachable. `on_wait` is called after each lost stream; after
        it the present state is given again. Raises CallError.
        """
        return run_watch_health_async(self.health, request, patience=patience, on_wait=on_wait)

    def diff(
        self, packed: Iterable[bytes], options: DiffOptions, *, on_wait: OnWait = ignore_wait
    ) -> AsyncIterator[reconciliation_pb2.DiffCidSetResponse]:
        """Compares packed CIDs of the directory's file with ours (see vsync.cidfile for reading one).

        Gives progress, parts, and a summary that is checked. `on_wait` is called after each attempt that the server did
        not accept. Raises CallError, DifferencesIncomplete.
        """
        return run_diff_async(self.reconciliation, packed, options, on_wait=on_wait)

    async def close(self) -> None:
        """Ends the calls under way and closes the connections."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class SyncClient(_Services):
    """A server's services, for threads. `connect_sync` creates one; threads may share it. See Client."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def stub(self, stub: Callable[[grpc.Channel], T]) -> T:
        """Returns a stub of any service, whose calls have this client's defaults: `client.stub(PaymentServiceStub)`."""
        return stub(self.channel)

    def import_records(
        self,
        records: Iterable[cid_pb2.CidRecord],
        options: ImportOptions | None = None,
        *,
        on_wait: OnWait = ignore_wait,
    ) -> Iterator[ImportProgress]:
        """See Client.import_records."""
        options = options or ImportOptions()
        return run_import(self.cids, ImportWindow(enumerate(records, 1), options), options, on_wait=on_wait)

    def export(
        self,
        request: cid_pb2.ExportCidsRequest,
        *,
        consistency_token: str | None = None,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> Iterator[cid_pb2.ExportCidsResponse]:
        """See Client.export."""
        return run_export(self.cids, request, consistency_token=consistency_token, patience=patience, on_wait=on_wait)

    def watch_cid_events(
        self,
        request: reconciliation_pb2.WatchCidEventsRequest,
        *,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> Iterator[reconciliation_pb2.WatchCidEventsResponse]:
        """See Client.watch_cid_events."""
        return run_watch_events(self.reconciliation, request, patience=patience, on_wait=on_wait)

    def watch_health(
        self,
        request: health_pb2.HealthRequest,
        *,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> Iterator[health_pb2.HealthResponse]:
        """See Client.watch_health."""
        return run_watch_health(self.health, request, patience=patience, on_wait=on_wait)

    def diff(
        self, packed: Iterable[bytes], options: DiffOptions, *, on_wait: OnWait = ignore_wait
    ) -> Iterator[reconciliation_pb2.DiffCidSetResponse]:
        """See Client.diff."""
        return run_diff(self.reconciliation, packed, options, on_wait=on_wait)

    def close(self) -> None:
        """Ends the calls under way and closes the connections."""
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
    timeout: float | None = DEFAULT_TIMEOUT,
    correlation_id: str | None = None,
    read_own_writes: bool = True,
) -> Client:
    """Returns a client for asyncio: `async with vsync.connect("localhost:50051") as client`. Needs a running loop.

    The first call connects, over TLS if `tls` is given. `timeout` is the deadline, in seconds, of a call with one
    response that has no timeout of its own; None leaves it to the server. `correlation_id` is used for every call
    outside of `vsync.correlation`; by default each call gets a new one. `read_own_writes`: reads see what this client
    wrote before, even if a replica answers; without it, reads may be as old as the replicas are. Raises ValueError for
    a `correlation_id` that vsyncd does not accept, and OSError if a TLS file cannot be read.
    """
    interceptors = async_interceptors(_defaults(timeout, correlation_id, read_own_writes=read_own_writes))
    options = channel_options(tls)
    if tls is None:
        return Client(aio.insecure_channel(target, options=options, interceptors=interceptors))
    return Client(aio.secure_channel(target, tls.credentials(), options=options, interceptors=interceptors))


def connect_sync(
    target: str,
    *,
    tls: Tls | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    correlation_id: str | None = None,
    read_own_writes: bool = True,
) -> SyncClient:
    """Returns a client for threads: `with vsync.connect_sync("localhost:50051") as client`. See `connect`."""
    interceptor = SyncInterceptor(_defaults(timeout, correlation_id, read_own_writes=read_own_writes))
    options = channel_options(tls)
    if tls is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        channel = grpc.secure_channel(target, tls.credentials(), options=options)
    return SyncClient(grpc.intercept_channel(channel, interceptor))


def _defaults(timeout: float | None, correlation_id: str | None, *, read_own_writes: bool) -> CallDefaults:
    checked = None if correlation_id is None else check_correlation_id(correlation_id)
    own_writes = OwnWrites() if read_own_writes else None
    return CallDefaults(timeout=timeout, correlation_id=checked, own_writes=own_writes)
