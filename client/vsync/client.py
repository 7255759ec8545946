"""The client: the services of one server, for asyncio and for threads."""

from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

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


class Client:
    """A server's services, for asyncio. `connect` makes one.

    Each attribute is the service's stub: its methods take the request message, and timeout and metadata when this one
    call needs its own. Every call has a deadline, a correlation id and, if it changes something, a request_id; every
    failed call raises a leaf of vsync.errors.CallError.
    """

    cids: "CidServiceAsyncStub"
    """vsync.v1.CidService"""
    batches: "SyncBatchServiceAsyncStub"
    """vsync.v1.SyncBatchService"""
    audit: "AuditServiceAsyncStub"
    """vsync.v1.AuditService"""
    reconciliation: "ReconciliationServiceAsyncStub"
    """vsync.v1.ReconciliationService"""
    server: "ServerServiceAsyncStub"
    """vsync.v1.ServerService"""
    health: "HealthAsyncStub"
    """vsync.health.v1.Health"""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.cids = CidServiceStub(channel)
        self.batches = SyncBatchServiceStub(channel)
        self.audit = AuditServiceStub(channel)
        self.reconciliation = ReconciliationServiceStub(channel)
        self.server = ServerServiceStub(channel)
        self.health = HealthStub(channel)

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


class SyncClient:
    """A server's services, for threads: the twin of Client. `connect_sync` makes one; threads may share it."""

    cids: CidServiceStub
    """vsync.v1.CidService"""
    batches: SyncBatchServiceStub
    """vsync.v1.SyncBatchService"""
    audit: AuditServiceStub
    """vsync.v1.AuditService"""
    reconciliation: ReconciliationServiceStub
    """vsync.v1.ReconciliationService"""
    server: ServerServiceStub
    """vsync.v1.ServerService"""
    health: HealthStub
    """vsync.health.v1.Health"""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.cids = CidServiceStub(channel)
        self.batches = SyncBatchServiceStub(channel)
        self.audit = AuditServiceStub(channel)
        self.reconciliation = ReconciliationServiceStub(channel)
        self.server = ServerServiceStub(channel)
        self.health = HealthStub(channel)

    def import_records(
        self,
        records: Iterable[cid_pb2.CidRecord],
        options: ImportOptions | None = None,
        *,
        on_wait: OnWait = ignore_wait,
    ) -> Iterator[ImportProgress]:
        """Imports any number of records, and gives the progress after each committed chunk.

        Survives lost streams and server restarts; `on_wait` is called after each lost stream. Raises CallError;
        AlreadyExists with ON_CONFLICT_FAIL.
        """
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
        """Gives every message of an export, each once, through lost streams.

        `consistency_token`: that of WatchCidEvents' first message, when a copy of the set is to follow the events.
        `patience`: seconds without progress after which it fails. `on_wait` is called after each lost stream. Raises
        CallError.
        """
        return run_export(self.cids, request, consistency_token=consistency_token, patience=patience, on_wait=on_wait)

    def watch_cid_events(
        self,
        request: reconciliation_pb2.WatchCidEventsRequest,
        *,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> Iterator[reconciliation_pb2.WatchCidEventsResponse]:
        """Gives the messages of WatchCidEvents without an end, each event once, through lost streams.

        `patience`: seconds for which the server may be unreachable. `on_wait` is called after each lost stream. Raises
        CallError; OutOfRange when the events after the token are no longer kept.
        """
        return run_watch_events(self.reconciliation, request, patience=patience, on_wait=on_wait)

    def watch_health(
        self,
        request: health_pb2.HealthRequest,
        *,
        patience: float = DEFAULT_PATIENCE_S,
        on_wait: OnWait = ignore_wait,
    ) -> Iterator[health_pb2.HealthResponse]:
        """Gives the server's health and then each change, without an end, through lost streams.

        `patience`: seconds for which the server may be unreachable. `on_wait` is called after each lost stream; after
        it the present state is given again. Raises CallError.
        """
        return run_watch_health(self.health, request, patience=patience, on_wait=on_wait)

    def diff(
        self, packed: Iterable[bytes], options: DiffOptions, *, on_wait: OnWait = ignore_wait
    ) -> Iterator[reconciliation_pb2.DiffCidSetResponse]:
        """Compares packed CIDs of the directory's file with ours (see vsync.cidfile for reading one).

        Gives progress, parts, and a summary that is checked. `on_wait` is called after each attempt that the server did
        not accept. Raises CallError, DifferencesIncomplete.
        """
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
    """A client for asyncio; call it where a loop runs, and close it: `async with vsync.connect("localhost:50051")`.

    Connects with the first call, over TLS when tls is given. timeout is the deadline, in seconds, of a call with one
    answer that does not bring its own; None leaves it to the server. correlation_id is that of every call outside of
    `vsync.correlation`; by default each call gets a new one. read_own_writes: what this client reads has what it wrote
    before, also where replicas answer; without it, reads may be as old as the replicas are. Raises ValueError for a
    correlation_id that vsyncd would not take, OSError when a TLS file cannot be read.
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
    """The twin of `connect` for threads: `with vsync.connect_sync("localhost:50051") as client`."""
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
