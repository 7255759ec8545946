"""The latency of GetCid during faults of Redis, compared with GetCid without a cache at the same time."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

import grpc
import uvloop
from vsync.v1 import cid_pb2 as pb
from vsync.v1.cid_pb2_grpc import CidServiceStub

from bench.entries import record
from bench.report import Figure
from bench.servers import Service, vsyncd
from tests.harness.fault_proxy import FaultProxy
from tests.harness.valkey import ValkeyServer, valkey_server

if TYPE_CHECKING:  # generated for type checkers alone
    from vsync.v1.cid_pb2_grpc import CidServiceAsyncStub

# The additional milliseconds that a fault of Redis may cost a caller.
MAX_DIFFERENCE_MS: Final = 20.0
ROUNDS: Final = 3
# Duration of each fault in seconds.
_SECONDS: Final = 2.0
_IN_FLIGHT: Final = 4
_RECORDS: Final = 500
_RECOVERY: Final = 30.0

_Fault = Callable[[ValkeyServer, FaultProxy], AbstractAsyncContextManager[None]]


def run(conninfo: str) -> list[Figure]:
    """Returns, for each fault, the P99 with a cache minus the P99 without."""
    return uvloop.run(_run(conninfo))


async def _run(conninfo: str) -> list[Figure]:
    faults: tuple[_Fault, ...] = (_none, _frozen, _gone, _full, _slow)
    more: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="vsyncd-bench-") as folder, valkey_server(Path(folder)) as valkey:
        async with (
            FaultProxy(valkey.socket) as proxy,
            _service(conninfo) as (without, _),
            _service(conninfo, REDIS_URL=f"redis://127.0.0.1:{proxy.port}") as (cached, service),
        ):
            for number in range(_RECORDS):
                await without.CreateCid(pb.CreateCidRequest(record=record(number)))
            for round_ in range(ROUNDS):
                for fault in faults:
                    await _in_use(cached, service)
                    async with fault(valkey, proxy):
                        mine, theirs = await asyncio.gather(_p99(cached), _p99(without))
                    more.setdefault(fault.__name__.strip("_"), []).append((mine - theirs) * 1000)
                print(f"  faults, round {round_ + 1} of {ROUNDS}", flush=True)
    return [_figure(name, samples) for name, samples in more.items()]


def _figure(fault: str, samples: list[float]) -> Figure:
    name = f"GetCid, P99 more than without a cache, Redis {'in order' if fault == 'none' else fault}"
    value = statistics.median(samples)
    return Figure(
        bench="cache",
        name=name,
        value=value,
        unit="ms",
        target=f"at most {MAX_DIFFERENCE_MS:g}",
        is_met=value <= MAX_DIFFERENCE_MS,
        samples=samples,
    )


@asynccontextmanager
async def _service(conninfo: str, **settings: str) -> "AsyncIterator[tuple[CidServiceAsyncStub, Service]]":
    with vsyncd(conninfo, REDIS_BREAKER_RESET="0.3", **settings) as service:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            yield CidServiceStub(channel), service


async def _in_use(cids: "CidServiceAsyncStub", service: Service) -> None:
    """Waits until the cache answers."""
    deadline = time.monotonic() + _RECOVERY
    before = await asyncio.to_thread(_hits, service)
    while await asyncio.to_thread(_hits, service) <= before:
        if time.monotonic() > deadline:
            raise TimeoutError("the cache does not come back")
        for number in range(20):
            await cids.GetCid(_request(number))


def _hits(service: Service) -> float:
    with urlopen(f"http://127.0.0.1:{service.http_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    hits = [line for line in lines if line.startswith("vsyncd_cache_lookups_total") and 'result="hit"' in line]
    return sum(float(line.split()[-1]) for line in hits)


async def _p99(cids: "CidServiceAsyncStub") -> float:
    """Returns the 99th percentile of the latency in seconds."""
    took: list[float] = []
    end = time.perf_counter() + _SECONDS

    async def call(first: int) -> None:
        number = first
        while (begun := time.perf_counter()) < end:
            await cids.GetCid(_request(number))
            took.append(time.perf_counter() - begun)
            number += _IN_FLIGHT

    await asyncio.gather(*(call(first) for first in range(_IN_FLIGHT)))
    return statistics.quantiles(took, n=100)[-1]


def _request(number: int) -> pb.GetCidRequest:
    return pb.GetCidRequest(cid=record(number % _RECORDS).cid)


@asynccontextmanager
async def _none(_: ValkeyServer, __: FaultProxy) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _frozen(valkey: ValkeyServer, _: FaultProxy) -> AsyncIterator[None]:
    """Redis accepts connections and never answers (SIGSTOP)."""
    valkey.freeze()
    try:
        yield
    finally:
        valkey.thaw()


@asynccontextmanager
async def _gone(valkey: ValkeyServer, _: FaultProxy) -> AsyncIterator[None]:
    valkey.stop()
    try:
        yield
    finally:
        valkey.start()


@asynccontextmanager
async def _full(valkey: ValkeyServer, _: FaultProxy) -> AsyncIterator[None]:
    """Redis is empty and has no memory, so every read is a miss that cannot be stored."""
    with valkey.client() as client:
        client.flushall()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")


@asynccontextmanager
async def _slow(_: ValkeyServer, proxy: FaultProxy) -> AsyncIterator[None]:
    """Redis answers later than calls wait."""
    proxy.delay = 0.06
    try:
        yield
    finally:
        proxy.delay = 0.0
