"""The interceptors, tested with a service of this module."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from vsyncd.access.control import AccessControl
from vsyncd.access.denials import Denials
from vsyncd.config import StartError, load_settings
from vsyncd.core.context import current_context
from vsyncd.core.errors import NotFound
from vsyncd.transport.draining import Drain
from vsyncd.transport.interceptors import interceptors
from vsyncd.transport.server import build_server

from tests.harness.cids import failure_of, info_of, status_of, unpacked, until
from tests.harness.logs import captured_logs
from tests.harness.serving import serving, settings_for

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"
SECRET = "sEcReT-7f3a9c"  # noqa: S105  a value to be looked for where it must not be
CORRELATION_ID = "0af7651916cd43dd8448eb211c80319c"
CPF = "12345678909"
Serve = Callable[[bytes, Any], Awaitable[bytes]]


def registration(serve: Serve, service: str, registry: Any) -> None:
    """Registers a service with one unary and one streaming method over bytes, as generated code does."""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await serve(request, context)

    handlers: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(serve),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    registry.add_registered_method_handlers(service, handlers)


def called(serve: Serve, *, service: str = "test.v1.Service", **overrides: Any) -> Any:
    """A channel to a server with that service."""
    settings = settings_for(NO_DATABASE, **overrides)
    services = [partial(registration, serve, name) for name in (service, "vsync.health.v1.Health")]
    return serving(settings, services)


async def echo(request: bytes, _context: Any) -> bytes:
    """Returns the request."""
    return request


def test_the_order_of_the_interceptors() -> None:
    settings = load_settings()
    found = interceptors(settings, Drain(), lambda _: None, AccessControl(settings), Denials())
    assert [type(interceptor).__name__ for interceptor in found] == [
        "Correlation",
        "Tracing",
        "Telemetry",
        "ErrorMapping",
        "Admission",
        "Authentication",
        "Authorization",
        "Quota",
        "Deadline",
    ]


async def _correlation_id(channel: grpc.aio.Channel, *given: tuple[str, str]) -> str:
    method: Any = channel.unary_unary("/test.v1.Service/Call")
    call = method(b"", metadata=given)
    seen = await call
    [echoed] = [value for name, value in await call.trailing_metadata() if name == "x-correlation-id"]
    assert seen.decode() == echoed
    return str(echoed)


async def test_a_correlation_id_is_accepted_or_created_and_returned() -> None:
    async def correlation_id(_request: bytes, _context: Any) -> bytes:
        return current_context().correlation_id.encode()

    async with called(correlation_id) as channel:
        for good in (CORRELATION_ID, str(uuid.uuid4()).upper(), "01ARZ3NDEKTSV4RRFFQ69G5FAV"):
            assert await _correlation_id(channel, ("x-correlation-id", good)) == good
        made = {await _correlation_id(channel) for _ in range(3)}
        assert len({uuid.UUID(one) for one in made}) == 3
        with captured_logs() as log:
            for bad in ("a b", "x" * 129, "order-1", "8" + "0" * 25, CPF, f"{{{CORRELATION_ID}}}", "x" * 32):
                replaced = await _correlation_id(channel, ("x-correlation-id", bad))
                assert replaced != bad
                uuid.UUID(replaced)
        assert len(log.named("correlation id replaced")) == 7
        assert CPF not in log.text


@pytest.mark.parametrize("method", ["Call", "Stream"])
async def test_a_defect_is_answered_and_logged_without_its_text(method: str) -> None:
    async def fail(_request: bytes, _context: Any) -> bytes:
        raise ZeroDivisionError(SECRET)

    with captured_logs() as log:
        async with called(fail) as channel:
            error = await failure_of(_call(channel, method, metadata=(("x-correlation-id", CORRELATION_ID),)))
            await until(lambda: bool(log.named("call failed")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert info_of(error).reason == "INTERNAL"
    assert dict(error.trailing_metadata())["x-correlation-id"] == CORRELATION_ID
    [line] = log.named("internal error")
    assert (line["error"], line["correlation_id"]) == ("ZeroDivisionError", CORRELATION_ID)
    assert any("in fail" in place or "fail" in place for place in line["where"])
    assert log.named("call failed")[0]["level"] == "warning"
    assert SECRET not in log.text
    assert SECRET not in repr((error.details(), error.trailing_metadata()))


@pytest.mark.parametrize("method", ["Call", "Stream"])
async def test_a_failure_is_answered_with_its_details(method: str) -> None:
    async def fail(_request: bytes, _context: Any) -> bytes:
        raise NotFound("CID_NOT_FOUND", "There is no such record.", metadata={"a": "b"})

    with captured_logs() as log:
        async with called(fail) as channel:
            error = await failure_of(_call(channel, method))
            await until(lambda: bool(log.named("call failed")))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "There is no such record.")
    assert dict(info_of(error).metadata) == {"a": "b"}
    [line] = log.named("call failed")
    assert (line["level"], line["code"], line["method"]) == ("info", "NOT_FOUND", f"test.v1.Service/{method}")


async def test_calls_above_the_limit_are_rejected_but_probes_are_not() -> None:
    entered = asyncio.Semaphore(0)
    leave = asyncio.Event()

    async def wait(_request: bytes, _context: Any) -> bytes:
        entered.release()
        await leave.wait()
        return b""

    async with called(wait, max_concurrent_calls=2) as channel:
        held = [asyncio.create_task(_call(channel, method)) for method in ("Call", "Stream")]
        for _ in held:
            await entered.acquire()
        for method in ("Call", "Stream"):
            error = await failure_of(_call(channel, method))
            assert (error.code(), info_of(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert unpacked(status_of(error), error_details_pb2.RetryInfo()).retry_delay.ToMilliseconds() > 0
        probe = asyncio.create_task(_call(channel, "Call", service="vsync.health.v1.Health"))
        await entered.acquire()
        leave.set()
        await asyncio.gather(*held, probe)
        await _call(channel, "Call")


async def test_streams_use_at_most_half_of_the_call_limit() -> None:
    entered = asyncio.Semaphore(0)
    leave = asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        if request:
            return request
        entered.release()
        await leave.wait()
        return b""

    async with called(wait, max_concurrent_calls=6) as channel:
        held = [asyncio.create_task(_call(channel, "Stream")) for _ in range(3)]
        for _ in held:
            await entered.acquire()
        error = await failure_of(_call(channel, "Stream", request=b"x"))
        assert info_of(error).reason == "OVERLOADED"
        assert await _call(channel, "Call", request=b"x") == b"x"
        leave.set()
        await asyncio.gather(*held)
        assert await _call(channel, "Stream", request=b"x") == b"x"


async def test_a_unary_call_without_a_deadline_gets_the_default_and_a_stream_none() -> None:
    async def wait(_request: bytes, _context: Any) -> bytes:
        remaining = current_context().remaining()
        if remaining is None:
            return b"none"
        await asyncio.Event().wait()
        return b""

    async with called(wait, grpc_default_deadline=0.1) as channel:
        error = await failure_of(_call(channel, "Call"))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "QUERY_TIMEOUT")
        assert await _call(channel, "Stream") == b"none"


async def test_the_callers_deadline_applies() -> None:
    async def remaining(_request: bytes, _context: Any) -> bytes:
        return str(current_context().remaining()).encode()

    async with called(remaining) as channel:
        # gRPC sends a deadline as a length of time, rounded up.
        assert 15 < float(await _call(channel, "Call", timeout=20)) < 21
        assert 25 < float(await _call(channel, "Call")) < 31


async def test_a_cancelled_call_cancels_its_handler_and_leaves_the_count() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        if request:
            return request
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    with captured_logs() as log:
        async with called(wait, max_concurrent_calls=1) as channel:
            call: Any = channel.unary_unary("/test.v1.Service/Call")(b"")
            waiting = asyncio.ensure_future(call)
            await asyncio.wait_for(entered.wait(), 60)
            call.cancel()
            await asyncio.wait([waiting])
            await asyncio.wait_for(cancelled.wait(), 60)
            assert await _call(channel, "Call", request=b"x") == b"x"
            await until(lambda: bool(log.named("call cancelled")))
    assert len(log.named("call cancelled")) == 1


async def test_reflection_lists_the_services_unless_it_is_off() -> None:
    for on in (True, False):
        async with called(echo, grpc_reflection=on) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            if not on:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                continue
            answer = await call.read()
            names = {service.name for service in answer.list_services_response.service}
            assert {"test.v1.Service", "grpc.health.v1.Health"} <= names


async def test_reflection_finds_methods_and_reports_unknown_names() -> None:
    method = "vsync.v1.CidService.CountCids"
    names = [method, "vsync.v1.CidService", "vsync.v1.CidRecord", "vsync.v1.CidService.Nothing"]
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    async with called(echo) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    kinds = [answer.WhichOneof("message_response") for answer in answers]
    assert kinds == [*["file_descriptor_response"] * 3, "error_response"]


async def test_a_message_that_is_too_large_is_rejected_in_both_directions() -> None:
    async with called(echo, grpc_max_request_bytes=2000, grpc_max_response_bytes=1500) as channel:
        assert len(await _call(channel, "Call", request=b"x" * 1400)) == 1400
        for size in (1600, 2100):
            error = await failure_of(_call(channel, "Call", request=b"x" * size))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_address_that_is_taken_stops_the_start() -> None:
    settings = settings_for(NO_DATABASE)
    server, port, _ = build_server(settings, [])
    await server.start()
    try:
        with pytest.raises(StartError, match="GRPC_LISTEN"):
            build_server(settings_for(NO_DATABASE, grpc_listen=f"127.0.0.1:{port}"), [])
    finally:
        await server.stop(None)


async def _call(
    channel: grpc.aio.Channel, method: str, *, request: bytes = b"", service: str = "test.v1.Service", **how: Any
) -> bytes:
    """Calls a method of either kind, and returns its only response."""
    path = f"/{service}/{method}"
    if method == "Call":
        unary: Any = channel.unary_unary(path)
        response: bytes = await unary(request, **how)
        return response
    stream: Any = channel.unary_stream(path)
    [response] = [answer async for answer in stream(request, **how)]
    return response
