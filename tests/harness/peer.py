"""A gRPC server whose answers a test defines, to observe the client."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from vsync.health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from vsync.v1.cid_pb2_grpc import CidServiceServicer, add_CidServiceServicer_to_server
from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceServicer, add_ReconciliationServiceServicer_to_server
from vsync.v1.status_pb2_grpc import StatusServiceServicer, add_StatusServiceServicer_to_server

Answer = Callable[[Any, grpc.ServicerContext], Any]


class Broken(Exception):  # noqa: N818 - it is an answer
    """Ends a call with a status."""

    def __init__(self, code: grpc.StatusCode, reason: str = "", **metadata: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason, self.metadata = code, reason, metadata

    def end(self, context: grpc.ServicerContext) -> None:
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain="vsyncd", metadata=self.metadata)
        packed = AnyMessage()
        packed.Pack(info)
        status = status_pb2.Status(code=self.code.value[0], message="broken", details=[packed] if self.reason else [])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, "broken")


class Behind(NamedTuple):
    """An answer with trailing metadata."""

    answer: Any
    trailing: tuple[tuple[str, str], ...]


class Silence:
    """Sends nothing more until the client ends the call."""

    def keep(self, context: grpc.ServicerContext) -> None:
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait()


SILENCE = Silence()


@dataclass
class Call:
    """A received call."""

    method: str
    requests: list[Any]
    metadata: dict[str, str | bytes]
    time_left: float | None


@dataclass
class Peer:
    """Answers each call with the next of `answers`. A Broken ends the call."""

    target: str = ""
    calls: "queue.SimpleQueue[Call]" = field(default_factory=queue.SimpleQueue)
    answers: "queue.SimpleQueue[Any]" = field(default_factory=queue.SimpleQueue)

    def will(self, *answers: object) -> None:
        """Adds answers for the next calls."""
        for answer in answers:
            self.answers.put(answer)

    def seen(self) -> list[Call]:
        """Returns the calls since the last use of this method."""
        return [self.calls.get() for _ in range(self.calls.qsize())]

    def note(self, method: str, request: Any, context: grpc.ServicerContext) -> Call:
        call = Call(method, [request], dict(context.invocation_metadata()), context.time_remaining())
        self.calls.put(call)
        return call

    def unary(self, method: str) -> Answer:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.note(method, request, context)
            answer = self.answers.get(timeout=60)
            if isinstance(answer, Broken):
                answer.end(context)
            return _plain(answer, context)

        return handle

    def stream(self, method: str) -> Answer:
        """Each answer is a list of messages, which may end with a Broken or a Silence."""

        def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.note(method, request, context)
            yield from self._play(context)

        return handle

    def both_ways(self, method: str) -> Answer:
        """Does the same as `stream`, with one message for each one received."""

        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            call = self.note(method, next(requests), context)
            for answer in self._play(context):
                yield answer
                call.requests += islice(requests, 1)

        return handle

    def _play(self, context: grpc.ServicerContext) -> Iterator[Any]:
        for answer in self.answers.get(timeout=60):
            if isinstance(answer, Broken):
                answer.end(context)
            if isinstance(answer, Silence):
                answer.keep(context)
                return
            yield _plain(answer, context)


def _plain(answer: Any, context: grpc.ServicerContext) -> Any:
    if isinstance(answer, Behind):
        context.set_trailing_metadata(answer.trailing)
        return answer.answer
    return answer


@contextlib.contextmanager
def running_peer(address: str = "127.0.0.1:0") -> Iterator[Peer]:
    """Runs a peer on a free port or a Unix socket. It permits any number of keepalive pings."""
    peer = Peer()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.http2.max_ping_strikes", 0)])
    unary = {name: peer.unary(name) for name in ("GetCid", "CreateCid", "CountCids")}
    streams = {"ExportCids": peer.stream("ExportCids"), "ImportCids": peer.both_ways("ImportCids")}
    add_CidServiceServicer_to_server(_servicer(CidServiceServicer, unary | streams), server)
    reconciliation = {
        "DiffCidSet": peer.both_ways("DiffCidSet"),
        "WatchCidEvents": peer.stream("WatchCidEvents"),
    }
    add_ReconciliationServiceServicer_to_server(_servicer(ReconciliationServiceServicer, reconciliation), server)
    health = {name: peer.unary(name) for name in ("GetHealth", "GetLiveness")}
    health["WatchHealth"] = peer.stream("WatchHealth")
    add_HealthServicer_to_server(_servicer(HealthServicer, health), server)
    status = {"GetStatus": peer.unary("GetStatus")}
    add_StatusServiceServicer_to_server(_servicer(StatusServiceServicer, status), server)
    port = server.add_insecure_port(address)
    peer.target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    server.start()
    try:
        yield peer
    finally:
        server.stop(None).wait()


def _servicer(base: type, methods: dict[str, Answer]) -> Any:
    return type(base.__name__, (base,), {name: staticmethod(method) for name, method in methods.items()})()
