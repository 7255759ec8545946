"""CheckIocs and BatchPutIocs beside a plain service with one statement per call, and the memory of vsyncd.

The plain service neither validates nor converts values, and writes no audit entry or request id.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from uuid import uuid4

import grpc
import psutil
import psycopg
import uvloop
from vsync.iocs.v1 import ioc_pb2 as pb
from vsync.iocs.v1.ioc_pb2_grpc import IocServiceStub

from bench.peers.iocs import TENANT
from bench.report import Figure, rate
from bench.servers import Service, database, plain_peer, postgres, vsyncd

PAIRS = 10
# The IOCs of each type in the table.
IOCS = 100_000
# Values of a call. Half of them are IOCs.
VALUES = 1_000
CHECKS = 100
BATCH = 1_000
BATCHES = 40
CONCURRENCY = 4
_CHECK = "/vsync.iocs.v1.IocService/CheckIocs"
_PUT = "/vsync.iocs.v1.IocService/BatchPutIocs"
_MAX_GROWTH_MIB = 8
_MIN_ADDRESSES, _MIN_DOMAINS, _MIN_PUT = 50_000, 15_000, 20_000
_FILL = """
    INSERT INTO vsync.iocs (tenant, audit_id, created_at, expires_at, type, confidence, value, source, tags)
    SELECT %s, vsync.uuid_v7(now()), now(), now() + interval '1 day', %s, 80, value, 'feed', '{botnet,c2}'
    FROM unnest(%s::text[]) AS value"""


def _ipv4(number: int) -> str:
    return str(IPv4Address(number * 40_503 % 2**32))


def _ipv6(number: int) -> str:
    return str(IPv6Address((0x20010DB8 << 96) + number * 2_654_435_761))


def _sha256(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def _domain(number: int) -> str:
    return f"update-{number}.{number * 7_919 % 10_007}.cdn.example.com"


# The number of the type, its values, and the values that must be checked per second.
_TYPES: Final = {
    "IPv4": (pb.IOC_TYPE_IPV4, _ipv4, _MIN_ADDRESSES),
    "IPv6": (pb.IOC_TYPE_IPV6, _ipv6, _MIN_ADDRESSES),
    "SHA-256": (pb.IOC_TYPE_SHA256, _sha256, _MIN_ADDRESSES),
    "domain": (pb.IOC_TYPE_DOMAIN, _domain, _MIN_DOMAINS),
}


def run() -> list[Figure]:
    """Returns the figures of alternating runs."""
    with (
        postgres() as admin,
        database(admin, "ours") as ours,
        database(admin, "theirs") as theirs,
        vsyncd(ours, DOMAINS="iocs") as service,
        plain_peer(theirs, "iocs") as peer,
    ):
        _fill(theirs, TENANT)
        _fill(ours, _tenant(service, ours))
        figures = [figure for name in _TYPES for figure in _check(name, service, peer)]
        return [*figures, *_put(service, peer)]


def _check(name: str, service: Service, peer: Service) -> list[Figure]:
    kind, value_of, at_least = _TYPES[name]
    requests = [
        pb.CheckIocsRequest(
            type=kind, values=[value_of((call * VALUES + number) * 2 % (2 * IOCS)) for number in range(VALUES)]
        ).SerializeToString()
        for call in range(CHECKS)
    ]
    mine, others = _pairs(service, peer, _CHECK, (requests for _ in range(PAIRS + 1)), per_call=VALUES)
    return _figures(f"CheckIocs, {name}", "values/s", mine, others, at_least)


def _put(service: Service, peer: Service) -> list[Figure]:
    process = psutil.Process(service.process.pid)
    sizes: list[float] = []

    def requests() -> Iterator[list[bytes]]:
        for pair in range(PAIRS + 1):
            sizes.append(process.memory_info().rss / 2**20)
            yield [_batch(pair * BATCHES + number) for number in range(BATCHES)]

    mine, others = _pairs(service, peer, _PUT, requests(), per_call=BATCH)
    growth = [size - sizes[1] for size in (*sizes[2:], process.memory_info().rss / 2**20)]
    return [
        *_figures("BatchPutIocs", "IOCs/s", mine, others, _MIN_PUT),
        Figure(
            bench="iocs",
            name=f"growth of vsyncd's memory while it stores {PAIRS * BATCHES * BATCH:,} IOCs",
            value=max(growth),
            unit="MiB",
            target=f"at most {_MAX_GROWTH_MIB}",
            is_met=max(growth) <= _MAX_GROWTH_MIB,
            samples=growth,
        ),
    ]


def _batch(number: int) -> bytes:
    types = list(_TYPES.values())
    first = 2 * IOCS + number * BATCH
    iocs = []
    for position in range(first, first + BATCH):
        kind, value_of, _ = types[position % len(types)]
        iocs.append(
            pb.NewIoc(
                type=kind, value=value_of(position), confidence=position % 101, source="feed", tags=["c2", "botnet"]
            )
        )
    # The client library sends a request_id with every mutation. The plain service ignores it.
    return pb.BatchPutIocsRequest(iocs=iocs, request_id=str(uuid4())).SerializeToString()


def _pairs(
    service: Service, peer: Service, method: str, rounds: Iterator[Sequence[bytes]], *, per_call: int
) -> tuple[list[float], list[float]]:
    samples: tuple[list[float], list[float]] = ([], [])
    for pair, requests in enumerate(rounds):
        # Which one begins alternates, too.
        for index in (0, 1) if pair % 2 else (1, 0):
            seconds = uvloop.run(_send((service, peer)[index].port, method, requests))
            if pair:  # the first pair warms up
                samples[index].append(len(requests) * per_call / seconds)
    return samples


async def _send(port: int, method: str, requests: Sequence[bytes]) -> float:
    """Sends the requests with CONCURRENCY at a time. Returns the seconds until the last answer."""
    left = iter(requests)

    async def keep_sending(channel: grpc.aio.Channel) -> None:
        call: Any = channel.unary_unary(method)  # bytes in both directions
        for request in left:
            await call(request, timeout=60)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        begin = time.perf_counter()
        await asyncio.gather(*(keep_sending(channel) for _ in range(CONCURRENCY)))
        return time.perf_counter() - begin


def _figures(name: str, unit: str, mine: list[float], others: list[float], at_least: int) -> list[Figure]:
    value = statistics.median(mine)
    return [
        Figure(
            bench="iocs",
            name=f"{name}, vsyncd",
            value=value,
            unit=unit,
            target=f"at least {at_least:,}",
            is_met=value >= at_least,
            samples=mine,
        ),
        rate("iocs", f"{name}, plain", others, unit),
        rate("iocs", f"{name}, vsyncd / plain", [each / other for each, other in zip(mine, others, strict=True)], "x"),
    ]


def _fill(conninfo: str, tenant: bytes) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for kind, value_of, _ in _TYPES.values():
            connection.execute(_FILL.encode(), [tenant, kind, [value_of(number) for number in range(IOCS)]])
        connection.execute("VACUUM ANALYZE vsync.iocs")


def _tenant(service: Service, conninfo: str) -> bytes:
    """Returns the tenant of the service's callers."""
    ioc = pb.NewIoc(type=pb.IOC_TYPE_IPV4, value="192.0.2.255", source="first")
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        IocServiceStub(channel).PutIoc(pb.PutIocRequest(ioc=ioc), timeout=60, wait_for_ready=True)
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT tenant FROM vsync.iocs").fetchone()
    if row is None:
        raise RuntimeError("the IOC was not stored")
    return bytes(row[0])
