"""Span, metric and log show the same status, however a call ends, for all four kinds of method."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode as SpanStatus
from vsyncd.core.errors import NotFound
from vsyncd.observability.metrics import CALLS
from vsyncd.observability.tracing import TRACES
from vsyncd.observability.tracing.spans import OpenTelemetrySpans
from vsyncd.transport.server import build_server
from vsyncd.transport.telemetry import cancellation_code

from tests.harness.cids import until
from tests.harness.fault_proxy import FaultProxy
from tests.harness.logs import LogLines, captured_logs
from tests.harness.serving import settings_for

SERVICE = "test.v1.Status"
KINDS = {"Unary": "unary", "Download": "server_stream", "Upload": "client_stream", "Chat": "bidi_stream"}
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class Behaviour:
    """What the methods do once they have read a request; `entered` is set then, and `left` when they have ended."""

    run: Callable[[Any], Awaitable[None]]
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def register(self, registry: Any) -> None:
        """Registers one method of each kind, as generated code does."""
        constructors: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
        }
        registry.add_registered_method_handlers(SERVICE, constructors)

    async def _act(self, context: Any) -> None:
        self.entered.set()
        try:
            await self.run(context)
        finally:
            self.left.set()

    async def _unary(self, _request: bytes, context: Any) -> bytes:
        await self._act(context)
        return b""

    async def _download(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self._act(context)

    async def _upload(self, requests: AsyncIterable[bytes], context: Any) -> bytes:
        async for _ in requests:
            await self._act(context)
        return b""

    async def _chat(self, requests: AsyncIterable[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            await self._act(context)


async def forever(_context: Any) -> None:
    await asyncio.Event().wait()


async def not_found(_context: Any) -> None:
    raise NotFound("CID_NOT_FOUND", "There is no such record.")


async def defect(_context: Any) -> None:
    raise ZeroDivisionError


async def abort(context: Any) -> None:
    await context.abort(grpc.StatusCode.ABORTED, "first")


async def abort_twice(context: Any) -> None:
    with suppress(grpc.aio.AbortError):
        await abort(context)
    await context.abort(grpc.StatusCode.NOT_FOUND, "second")


async def abort_then_fail(context: Any) -> None:
    with suppress(grpc.aio.AbortError):
        await abort(context)
    raise ZeroDivisionError


async def fail_when_cancelled(context: Any) -> None:
    try:
        await forever(context)
    except asyncio.CancelledError:
        raise NotFound("CID_NOT_FOUND", "There is no such record.") from None


async def abort_when_cancelled(context: Any) -> None:
    try:
        await forever(context)
    finally:
        await abort(context)


async def await_cancelled_task(_context: Any) -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


@dataclass
class Trial:
    """A server whose methods behave alike, a channel to it through a proxy, and what was observed."""

    behaviour: Behaviour
    proxy: FaultProxy
    channel: grpc.aio.Channel
    log: LogLines
    exporter: InMemorySpanExporter

    def call(self, method: str, **options: Any) -> Any:
        """Starts a call that sends one request and does not end its stream of requests."""
        path = f"/{SERVICE}/{method}"

        async def requests() -> AsyncIterator[bytes]:
            yield b"request"
            await asyncio.Event().wait()

        channel: Any = self.channel
        match method:
            case "Unary":
                return channel.unary_unary(path)(b"request", **options)
            case "Download":
                return channel.unary_stream(path)(b"request", **options)
            case "Upload":
                return channel.stream_unary(path)(requests(), **options)
        return channel.stream_stream(path)(requests(), **options)

    async def span(self) -> ReadableSpan:
        """The call's span, once it has ended."""
        await until(lambda: bool(self.exporter.get_finished_spans()))
        [span] = self.exporter.get_finished_spans()
        return span


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Spans are recorded."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    TRACES.spans = OpenTelemetrySpans(provider)
    yield exporter
    TRACES.spans = None
    provider.shutdown()


@asynccontextmanager
async def trial(run: Callable[[Any], Awaitable[None]], exporter: InMemorySpanExporter) -> AsyncIterator[Trial]:
    behaviour = Behaviour(run)
    settings = settings_for("postgresql://nobody@127.0.0.1:1/nothing")
    server, port, _ = build_server(settings, [behaviour.register])
    await server.start()
    with captured_logs(level="INFO") as log:
        try:
            async with FaultProxy(port) as proxy, grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
                yield Trial(behaviour, proxy, channel, log, exporter)
        finally:
            await server.stop(None)


def counted(method: str) -> dict[str, int]:
    """grpc_server_handled_total of a method, by code."""
    return dict(CALLS.method(f"{SERVICE}/{method}", grpc_type=KINDS[method]).handled)


async def cancel(trial: Trial, call: Any) -> None:
    call.cancel()
    await trial.behaviour.left.wait()


async def lose_client(trial: Trial, _call: Any) -> None:
    trial.proxy.cut()
    await trial.behaviour.left.wait()


async def lose_cancellation(trial: Trial, _call: Any) -> None:
    """Only the server's own timer can end the call."""
    trial.proxy.hang()
    await trial.behaviour.left.wait()
    trial.proxy.flow()


async def do_nothing(trial: Trial, _call: Any) -> None:
    await trial.behaviour.left.wait()


Fault = Callable[[Trial, Any], Awaitable[None]]
Case = tuple[Callable[[Any], Awaitable[None]], Fault, grpc.StatusCode, grpc.StatusCode | None]

ENDS: dict[str, Case] = {
    # name: what the method does, what happens to the call, the status recorded, the status that the caller receives
    "cancelled": (forever, cancel, grpc.StatusCode.CANCELLED, grpc.StatusCode.CANCELLED),
    "cancelled, then failed": (fail_when_cancelled, cancel, grpc.StatusCode.CANCELLED, grpc.StatusCode.CANCELLED),
    "cancelled, then aborted": (abort_when_cancelled, cancel, grpc.StatusCode.CANCELLED, grpc.StatusCode.CANCELLED),
    "client lost": (forever, lose_client, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE),
    "failed": (not_found, do_nothing, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND),
    "cancelled task awaited": (
        await_cancelled_task,
        do_nothing,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INTERNAL,
    ),
    "defect": (defect, do_nothing, grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL),
    "aborted": (abort, do_nothing, grpc.StatusCode.ABORTED, grpc.StatusCode.ABORTED),
    "aborted twice": (abort_twice, do_nothing, grpc.StatusCode.ABORTED, grpc.StatusCode.ABORTED),
    "aborted, then failed": (abort_then_fail, do_nothing, grpc.StatusCode.ABORTED, grpc.StatusCode.ABORTED),
}


async def status_of(call: Any, method: str) -> grpc.StatusCode:
    """The status that the caller receives."""
    code: grpc.StatusCode
    try:
        if method in {"Unary", "Upload"}:
            await call
        else:
            async for _ in call:
                pass
    except grpc.aio.AioRpcError as error:
        code = error.code()
        return code
    except asyncio.CancelledError:
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.OK


async def observed(trial: Trial, method: str, before: dict[str, int]) -> tuple[grpc.StatusCode, str, str]:
    """The status in the span, the code counted, and the code logged."""
    span = await trial.span()
    number: Any = (span.attributes or {})["rpc.grpc.status_code"]
    code = CODES[number]
    is_error = span.status.status_code is SpanStatus.ERROR
    assert is_error == (code in {grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED})
    [count] = [name for name, value in counted(method).items() if value != before.get(name, 0)]
    tally = CALLS.method(f"{SERVICE}/{method}", grpc_type=KINDS[method])
    assert tally.started == sum(tally.handled.values()), "the call is in flight for ever"
    [line] = [line for line in trial.log.events if line["event"] in {"call failed", "call cancelled"}]
    return code, count, line["code"]


def unhandled(log: LogLines) -> list[dict[str, Any]]:
    """What gRPC and asyncio have logged: errors that they had to handle.

    gRPC's event loops share one file descriptor per process. While other tests of the process still have a loop, one of
    them may read what another one was woken for (https://github.com/grpc/grpc/issues/25364).
    """
    shared = "PollerCompletionQueue._handle_events"
    return [line for line in log.events if not line["logger"].startswith("vsyncd.") and shared not in line["event"]]


SPELLED = {"CANCELLED": "Canceled"}


def spelled(code: grpc.StatusCode) -> str:
    return SPELLED.get(code.name, code.name.title().replace("_", ""))


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("end", ENDS)
async def test_span_metric_and_log_agree_on_the_status(
    end: str, method: str, exporter: InMemorySpanExporter, capfd: pytest.CaptureFixture[str]
) -> None:
    run, fault, recorded, received = ENDS[end]
    before = counted(method)
    async with asyncio.timeout(60), trial(run, exporter) as attempt:
        call = attempt.call(method)
        waiting = asyncio.ensure_future(status_of(call, method))
        await attempt.behaviour.entered.wait()
        await fault(attempt, call)
        assert await waiting is received
        assert await observed(attempt, method, before) == (recorded, spelled(recorded), recorded.name)
    assert unhandled(attempt.log) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", KINDS)
async def test_a_call_whose_deadline_passes_is_recorded_as_deadline_exceeded(
    method: str, exporter: InMemorySpanExporter, capfd: pytest.CaptureFixture[str]
) -> None:
    before = counted(method)
    async with asyncio.timeout(60), trial(forever, exporter) as attempt:
        await attempt.channel.channel_ready()
        call = attempt.call(method, timeout=3)
        waiting = asyncio.ensure_future(status_of(call, method))
        await attempt.behaviour.entered.wait()
        await lose_cancellation(attempt, call)
        assert await waiting is grpc.StatusCode.DEADLINE_EXCEEDED
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        assert await observed(attempt, method, before) == (code, "DeadlineExceeded", code.name)
    assert unhandled(attempt.log) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("elapsed", "left", "code"),
    [
        (1.0, None, grpc.StatusCode.CANCELLED),
        (1.0, 0.0, grpc.StatusCode.DEADLINE_EXCEEDED),
        (1.001, 0.009, grpc.StatusCode.DEADLINE_EXCEEDED),
        (100.001, 0.999, grpc.StatusCode.DEADLINE_EXCEEDED),
        (5.0, 5.0, grpc.StatusCode.CANCELLED),
        (0.1, 0.1, grpc.StatusCode.CANCELLED),
        (95.0, 5.0, grpc.StatusCode.CANCELLED),
    ],
)
def test_a_timeout_that_grpc_has_rounded_up_is_no_cancellation(
    elapsed: float, left: float | None, code: grpc.StatusCode
) -> None:
    assert cancellation_code(elapsed=elapsed, left=left) is code
