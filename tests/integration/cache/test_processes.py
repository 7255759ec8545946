"""Two vsyncd processes over one PostgreSQL and one Valkey, as in production."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from vsync.health.v1 import health_pb2 as health
from vsync.health.v1 import health_pb2_grpc
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc

from tests.harness.cids import a_record, cid_of, failure_of
from tests.harness.clusters import Database
from tests.harness.processes import ServerProcess
from tests.harness.valkey import ValkeyServer
from tests.integration.cache.instances import eventually

# A job that one instance runs for all.
JOB = 'job_name="drop cache changes"'


class Instance:
    """One vsyncd, as a client sees it."""

    def __init__(self, server: ServerProcess, channel: grpc.aio.Channel, *, started: float) -> None:
        self.started = started
        self.server = server
        self.cids = cid_pb2_grpc.CidServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    async def health(self) -> tuple[int, int, str]:
        """Returns the overall status, the cache's status, and the number of known instances."""
        report = await self._health.GetHealth(health.HealthRequest(include_details=True))
        cache = next(each for each in report.dependencies if each.name == "redis-cache")
        return report.status, cache.status, cache.config.metadata["instances"]

    def metrics(self, *fragments: str) -> float:
        """Returns the sum of the samples whose lines contain all fragments."""
        with urlopen(f"http://127.0.0.1:{self.server.http_port}/metrics") as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return sum(float(line.split()[-1]) for line in lines if all(each in line for each in fragments))

    async def hits(self) -> float:
        """Returns the number of reads that were answered from the cache."""
        return await asyncio.to_thread(self.metrics, "vsyncd_cache_lookups_total", 'result="hit"')


@pytest.fixture
async def both(database: Database, valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[tuple[Instance, Instance]]:
    """Two instances, started concurrently."""
    given = {"REDIS_URL": valkey.url, "REDIS_BREAKER_RESET": "0.3", "LOG_FORMAT": "json"}
    servers = [ServerProcess(database, tmp_path / f"vsyncd-{number}.log", **given) for number in range(2)]
    started = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(server.target)) for server in servers]
        first, second = (Instance(*each, started=started) for each in zip(servers, channels, strict=True))
        yield first, second


async def test_two_instances_appear_as_one_to_a_client_that_alternates(
    both: tuple[Instance, Instance], valkey: ValkeyServer
) -> None:
    await agree(both, health.HEALTHY, health.HEALTHY)
    for number in range(6):
        writer, reader = both[number % 2], both[1 - number % 2]
        request = pb.GetCidRequest(cid=cid_of(number))
        assert (await failure_of(reader.cids.GetCid(request))).code() is grpc.StatusCode.NOT_FOUND
        call = writer.cids.CreateCid(pb.CreateCidRequest(record=a_record(number)))
        record = (await call).record
        token = dict(await call.trailing_metadata() or ())["x-consistency-token"]
        for metadata in ((("x-consistency-token", token),), (("x-consistency", "strong"),)):
            assert (await reader.cids.GetCid(request, metadata=metadata)).record == record
        for instance in both:
            await readable(instance, record)

    async def from_both_caches() -> bool:
        before = [await instance.hits() for instance in both]
        for instance in both:
            await instance.cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))
        return all([await each.hits() > hits for each, hits in zip(both, before, strict=True)])

    await eventually(from_both_caches)
    await one_runs_the_job(both)
    valkey.stop()
    await agree(both, health.DEGRADED, health.UNHEALTHY)
    for instance in both:
        assert (await instance.cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.cid == cid_of(1)
    valkey.start()
    await agree(both, health.HEALTHY, health.HEALTHY)


async def readable(instance: Instance, record: pb.CidRecord) -> None:
    """Waits until a record is read without a token, at most five seconds after the write."""

    async def read() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            return (await instance.cids.GetCid(pb.GetCidRequest(cid=record.cid))).record == record
        return False

    await eventually(read)


async def agree(both: tuple[Instance, Instance], overall: int, cache: int) -> None:
    """Waits until both report these statuses and, with a healthy cache, know each other."""

    async def agreed() -> bool:
        reports = [await instance.health() for instance in both]
        known = cache != health.HEALTHY or all(instances == "2" for *_, instances in reports)
        return known and [report[:2] for report in reports] == [(overall, cache)] * 2

    await eventually(agreed)


async def one_runs_the_job(both: tuple[Instance, Instance]) -> None:
    """The job is due at the start and every minute: both together have run it once, and once more for each minute."""

    async def runs() -> float:
        return sum([await asyncio.to_thread(each.metrics, "vsyncd_job_runs_total", JOB) for each in both])

    async def has_run() -> bool:
        return await runs() > 0

    await eventually(has_run)
    assert await runs() <= 1 + (time.monotonic() - both[0].started) // 60
