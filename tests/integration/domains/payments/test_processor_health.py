"""Reports about processors, and their watchers, on one and on two instances, with and without Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.payments.v1 import processor_health_pb2 as pb
from vsync.payments.v1.processor_health_pb2_grpc import ProcessorHealthServiceStub
from vsyncd.app import Application
from vsyncd.cache import wiring
from vsyncd.config import Settings
from vsyncd.domains.payments.health_repository import HealthReading, HealthRepository
from vsyncd.domains.payments.health_watcher import POLL_INTERVAL_S
from vsyncd.domains.registry import load_settings

from tests.harness.cids import a_request_id, execute, failure_of, rows
from tests.harness.clusters import Database
from tests.harness.serving import fields_of, reason_of
from tests.harness.valkey import ValkeyServer, valkey_server

TIMEOUT_S = 60
EXPIRE = "UPDATE vsync.processor_health SET reported_at = now() - interval '31 s'"


def report(healthy: bool, ms: int = 7, processor: str = "default") -> pb.ReportProcessorHealthRequest:
    """Returns a report."""
    return pb.ReportProcessorHealthRequest(processor=processor, healthy=healthy, min_response_time_ms=ms)


async def health_of(processors: Any, processor: str = "default", **metadata: str) -> tuple[bool, int]:
    """Returns the answer of GetProcessorHealth."""
    answer = await processors.GetProcessorHealth(
        pb.GetProcessorHealthRequest(processor=processor), metadata=tuple(metadata.items())
    )
    return answer.health.healthy, answer.health.min_response_time_ms


class Watch:
    """A watch, and the last health of each processor that it has sent."""

    def __init__(self, processors: Any, *names: str) -> None:
        self.call = processors.WatchProcessorHealth(pb.WatchProcessorHealthRequest(processors=names), timeout=TIMEOUT_S)
        self.last: dict[str, tuple[bool, int]] = {}

    async def sends(self, processor: str, healthy: bool, ms: int) -> None:
        """Reads until the processor has this health."""
        while self.last.get(processor) != (healthy, ms):
            response = await self.call.read()
            assert response is not grpc.aio.EOF
            self.last |= {each.processor: (each.healthy, each.min_response_time_ms) for each in response.processors}


async def test_a_report_is_valid_for_30_seconds_and_audited(processors: Any, database: Database) -> None:
    assert await health_of(processors) == (False, 0)
    request = report(True, 12)
    request.request_id = a_request_id()
    first = await processors.ReportProcessorHealth(request)
    assert await health_of(processors) == (True, 12)
    assert await processors.ReportProcessorHealth(request) == first
    request.healthy = False
    assert reason_of(await failure_of(processors.ReportProcessorHealth(request))) == "REQUEST_ID_REUSED"
    only_checked = pb.ReportProcessorHealthRequest(processor="default", validate_only=True)
    assert not (await processors.ReportProcessorHealth(only_checked)).health.healthy
    assert await health_of(processors) == (True, 12)
    (entry,) = rows(database, "SELECT resource, payload FROM vsync.audit_logs")
    assert entry == {"resource": "processors/default", "payload": {"healthy": True, "min_response_time_ms": 12}}
    execute(database, EXPIRE)
    assert await health_of(processors) == (False, 12)
    execute(database, "UPDATE vsync.processor_health SET reported_at = now() + interval '1 hour'")
    assert await health_of(processors) == (False, 12), "written while a clock was ahead"


async def test_bad_fields_are_named(processors: Any) -> None:
    bad = report(True, 3_600_001, "other")
    bad.request_id = "no"
    error = await failure_of(processors.ReportProcessorHealth(bad))
    assert fields_of(error) == ["processor", "min_response_time_ms", "request_id"]
    assert fields_of(await failure_of(processors.GetProcessorHealth(pb.GetProcessorHealthRequest()))) == ["processor"]
    watch = processors.WatchProcessorHealth(pb.WatchProcessorHealthRequest(processors=["default", "x", "y"]))
    assert fields_of(await failure_of(watch.read())) == ["processors[1]", "processors[2]"]


async def test_a_watcher_receives_each_state_and_the_end_of_a_report(processors: Any, database: Database) -> None:
    watch, other = Watch(processors), Watch(processors, "fallback")
    await watch.sends("default", False, 0)
    assert watch.last == {"default": (False, 0), "fallback": (False, 0)}
    await processors.ReportProcessorHealth(report(True))
    await watch.sends("default", True, 7)
    await processors.ReportProcessorHealth(report(True, 8))
    await watch.sends("default", True, 8)
    execute(database, EXPIRE)
    await watch.sends("default", False, 8)
    await processors.ReportProcessorHealth(report(True, 1, "fallback"))
    await other.sends("fallback", True, 1)
    assert other.last.keys() == {"fallback"}


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A running, empty Valkey."""
    with valkey_server(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def instances(settings: Settings, **overrides: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Two instances over one database: a stub of each, and one of a client of both."""
    given = load_settings(**settings.model_dump() | overrides)
    async with contextlib.AsyncExitStack() as stack:
        applications = [await stack.enter_async_context(Application(given)) for _ in range(2)]
        addresses = [f"127.0.0.1:{application.port}" for application in applications]
        both = "ipv4:" + ",".join(addresses)
        balanced = (("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),)
        stubs: list[Any] = []
        for target in (*addresses, both):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options=balanced))
            await channel.channel_ready()
            stubs.append(ProcessorHealthServiceStub(channel))
        yield stubs[0], stubs[1], stubs[2]


async def changes_reach_watchers_of_both(first: Any, second: Any, both: Any) -> None:
    """Reports through either instance reach the watchers of each."""
    watches = [Watch(first), Watch(second), Watch(both), Watch(both)]
    await asyncio.gather(*(watch.sends("default", False, 0) for watch in watches))
    for ms, reporter in enumerate((first, second, both, both), 1):
        await reporter.ReportProcessorHealth(report(True, ms))
        await asyncio.gather(*(watch.sends("default", True, ms) for watch in watches))


async def test_a_change_reaches_the_watchers_of_another_instance(settings: Settings) -> None:
    async with instances(settings) as (first, second, both):
        await changes_reach_watchers_of_both(first, second, both)
        await first.ReportProcessorHealth(report(False, 9))
        assert await health_of(second) == (False, 9)


async def test_a_change_is_noticed_within_a_second_without_redis(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most the read that is running during a report misses it, and the interval of reads is half a second."""
    assert 2 * POLL_INTERVAL_S <= 1
    seen: list[bool] = []
    read = HealthRepository.read

    async def recorded(self: HealthRepository, processors: Sequence[str]) -> dict[str, HealthReading]:
        readings = await read(self, processors)
        seen.append(readings["default"].health.healthy)
        return readings

    monkeypatch.setattr(HealthRepository, "read", recorded)
    async with instances(settings) as (first, second, _):
        watch = Watch(second)
        await watch.sends("default", False, 0)
        for ms in range(1, 6):
            healthy = ms % 2 == 1
            await first.ReportProcessorHealth(report(healthy, ms))
            before = len(seen)
            await watch.sends("default", healthy, ms)
            assert seen[before:].count(not healthy) <= 1


async def test_redis_has_a_copy_and_watchers_need_no_redis(
    settings: Settings, valkey: ValkeyServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "_OPERATION_TIMEOUT_S", 20.0)
    async with instances(settings, redis_url=valkey.url, redis_breaker_reset=0.3) as (first, second, both):
        await changes_reach_watchers_of_both(first, second, both)
        key = b"vsync:payments:processor:default"
        with valkey.client() as client:
            assert 0 < client.pttl(key) <= 30_000
            execute(database, EXPIRE)
            assert await health_of(second) == (True, 4), "the copy answers"
            assert await health_of(second, **{"x-consistency": "strong"}) == (False, 4)
            client.pexpire(key, 20_000)
            assert await health_of(second) == (False, 4), "a copy older than 5 s does not"
        await first.ReportProcessorHealth(report(True, 5))
        await asyncio.to_thread(valkey.stop)
        watch = Watch(second)
        await watch.sends("default", True, 5)
        await first.ReportProcessorHealth(report(False, 6))
        await watch.sends("default", False, 6)
        assert await health_of(second) == (False, 6)
        valkey.start()

        async def copied() -> bool:
            await first.ReportProcessorHealth(report(True, 10))
            with valkey.client() as client:
                return client.get(key) is not None

        async with asyncio.timeout(TIMEOUT_S):
            while not await copied():  # noqa: ASYNC110  until the circuit breaker has closed
                await asyncio.sleep(0.1)


async def test_a_copy_is_not_replaced_by_an_older_report(
    settings: Settings, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "_OPERATION_TIMEOUT_S", 20.0)
    async with instances(settings, redis_url=valkey.url) as (first, second, both):
        reports = [each.ReportProcessorHealth(report(True, ms)) for ms, each in enumerate((first, second, both) * 10)]
        await asyncio.gather(*reports)
        assert await health_of(first) == await health_of(first, **{"x-consistency": "strong"})
