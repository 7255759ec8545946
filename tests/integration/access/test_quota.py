"""One principal cannot use up the calls and streams of all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from vsync.health.v1 import health_pb2, health_pb2_grpc
from vsync.v1 import cid_pb2, cid_pb2_grpc, reconciliation_pb2, reconciliation_pb2_grpc
from vsyncd.app import Application

from tests.harness.access import bearer, key_settings
from tests.harness.backups import locked
from tests.harness.cids import failure_of, info_of, status_of, unpacked
from tests.harness.clusters import Database
from tests.harness.logs import captured_logs

MAX_CALLS, MAX_STREAMS = 4, 3


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    callers = key_settings(tmp_path, {"one": ["reader", "writer"], "other": ["reader"]})
    return {**callers, "max_calls_per_principal": MAX_CALLS, "max_streams_per_principal": MAX_STREAMS}


def watch(channel: grpc.aio.Channel, caller: str = "") -> Any:
    stub: Any = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
    return stub.WatchCidEvents(reconciliation_pb2.WatchCidEventsRequest(), metadata=bearer(caller))


async def read(channel: grpc.aio.Channel, caller: str) -> None:
    stub: Any = cid_pb2_grpc.CidServiceStub(channel)
    await stub.ListCids(cid_pb2.ListCidsRequest(), metadata=bearer(caller))


async def assert_health(channel: grpc.aio.Channel) -> None:
    await health_pb2_grpc.HealthStub(channel).GetHealth(health_pb2.HealthRequest())


async def exceeds_quota(call: Any) -> None:
    error = await failure_of(call)
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert unpacked(status_of(error), error_details_pb2.RetryInfo()).retry_delay.ToMilliseconds() > 0


async def test_idle_streams_of_one_principal_leave_the_others_served(channel: grpc.aio.Channel) -> None:
    held = [watch(channel, "one") for _ in range(MAX_STREAMS)]
    for stream in held:
        await stream.read()
    with captured_logs() as log:
        await exceeds_quota(watch(channel, "one").read())
    [line] = log.named("quota exceeded")
    assert (line["caller"], line["kind"], line["limit"]) == ("key:one", "streams", MAX_STREAMS)
    other = watch(channel, "other")
    await other.read()
    await read(channel, "one")
    await read(channel, "other")
    await assert_health(channel)
    held[0].cancel()

    async def again() -> None:
        stream = watch(channel, "one")
        await stream.read()
        stream.cancel()

    await served_at_last(again)
    for stream in (*held, other):
        stream.cancel()


async def test_calls_of_one_principal_leave_the_others_served(channel: grpc.aio.Channel, database: Database) -> None:
    with locked(database, "vsync.cids"):
        held = [asyncio.create_task(read(channel, "one")) for _ in range(MAX_CALLS + 1)]
        await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        [rejected] = [call for call in held if call.done()]
        await exceeds_quota(rejected)
        held.remove(rejected)
        others = asyncio.create_task(read(channel, "other"))
        await watch(channel, "one").read()
        await assert_health(channel)
        assert not others.done()
    await asyncio.gather(*held, others)
    await read(channel, "one")


@contextlib.asynccontextmanager
async def forwarded(port: int) -> AsyncIterator[int]:
    """A port whose connections reach `port` from the address 127.0.0.2."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("overrides", [{"max_streams_per_principal": MAX_STREAMS}])
async def test_callers_without_credentials_are_counted_by_address(
    application: Application, channel: grpc.aio.Channel
) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    async with (
        forwarded(application.port) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}", options) as same,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as other,
    ):
        held = [watch(channel) for _ in range(MAX_STREAMS)]
        for stream in held:
            await stream.read()
        await exceeds_quota(watch(same).read())
        held.append(watch(other))
        await held[-1].read()
        for stream in held:
            stream.cancel()


async def served_at_last(call: Any) -> None:
    """Repeats a call until it is within the quota."""
    async with asyncio.timeout(60):
        while (error := await error_of(call)) is not None:
            assert info_of(error).reason == "QUOTA_EXCEEDED"
            await asyncio.sleep(0.05)


async def error_of(call: Any) -> grpc.aio.AioRpcError | None:
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return error
    return None
