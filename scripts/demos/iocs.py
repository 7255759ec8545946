"""Shows IOCs: values in many forms, a feed that is stored twice, concurrent changes, and expiry."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import vsync
from vsync.iocs.v1 import ioc_pb2 as pb
from vsync.iocs.v1.ioc_pb2_grpc import IocServiceStub

from scripts.demo_screen import Check, Screen

FEED = 20_000
_BATCH = 1_000
_CALLERS = 4
_EXPIRY_TIMEOUT_S = 60
_URL = "http://evil.example/~a"


async def demonstrate(screen: Screen, target: str) -> list[Check]:
    """Runs the demonstration. Returns the checks."""
    async with vsync.connect(target) as client:
        iocs: Any = client.stub(IocServiceStub)
        return [
            *await _forms(screen, iocs),
            *await _feed(screen, iocs),
            *await _change(screen, iocs),
            *await _expire(screen, iocs),
        ]


async def _forms(screen: Screen, iocs: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("1  Put a URL, and check other forms of it", "PutIoc, CheckIocs")
    await iocs.PutIoc(_put("IOC_TYPE_URL", _URL, 90))
    forms = ["HTTP://EVIL.example:80/%7Ea", f"{_URL}#top", "http://evil.example/x/../~a", "http://evil.example/~A"]
    found = await _known(iocs, "IOC_TYPE_URL", forms)
    for form, known in zip(forms, found, strict=True):
        screen.say(f"{form:<32} {'known' if known else 'unknown'}")
    return [Check("known forms", 3, sum(found)), Check("another path is known", 0, int(found[3]))]


async def _feed(screen: Screen, iocs: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step(f"2  Store a feed of {FEED:,} addresses in batches, then store it again", "BatchPutIocs")
    created = []
    for _ in range(2):
        began = time.monotonic()
        created.append(await _store_feed(iocs))
        screen.say(f"{FEED / (time.monotonic() - began):,.0f} IOCs/s, {created[-1]:,} of them new")
    seen = [_address(number) for number in range(FEED - 500, FEED + 500)]
    return [
        Check("new IOCs", [FEED, 0], created),
        Check("of 1,000 seen addresses are known", 500, sum(await _known(iocs, "IOC_TYPE_IPV4", seen))),
    ]


async def _change(screen: Screen, iocs: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("3  Ten analysts change the same revision of an IOC at the same time", "PutIoc with a revision")

    async def outcome(confidence: int) -> str:
        try:
            await iocs.PutIoc(_put("IOC_TYPE_URL", _URL, confidence, revision=1))
        except vsync.CallError as error:
            return error.reason
        return "stored"

    outcomes = await asyncio.gather(*map(outcome, range(10)))
    return [
        Check("changes that are stored", 1, outcomes.count("stored")),
        Check("changes with REVISION_MISMATCH", 9, outcomes.count("REVISION_MISMATCH")),
    ]


async def _expire(screen: Screen, iocs: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("4  Put a hash for one second, and wait until it is unknown", "CheckIocs")
    digest = "d41d8cd98f00b204e9800998ecf8427e"
    request = _put("IOC_TYPE_MD5", digest, 50, ttl=timedelta(seconds=1))
    await iocs.PutIoc(request)
    began = time.monotonic()
    async with asyncio.timeout(_EXPIRY_TIMEOUT_S):
        while await _known(iocs, "IOC_TYPE_MD5", [digest]) == [True]:  # noqa: ASYNC110  it expires on the server
            await asyncio.sleep(0.1)
    screen.say(f"unknown after {time.monotonic() - began:.1f} s")
    again = await iocs.PutIoc(request)
    return [Check("when it is put again it is a new one", 1, again.ioc.revision)]


async def _store_feed(iocs: Any) -> int:  # noqa: ANN401  a stub
    """Returns the number of new IOCs."""
    begins = iter(range(0, FEED, _BATCH))

    async def keep_storing() -> int:
        created = 0
        for begin in begins:
            batch = [_new("IOC_TYPE_IPV4", _address(number), 70) for number in range(begin, begin + _BATCH)]
            response = await iocs.BatchPutIocs(pb.BatchPutIocsRequest(iocs=batch))
            created += sum(result.created for result in response.results)
        return created

    return sum(await asyncio.gather(*(keep_storing() for _ in range(_CALLERS))))


async def _known(iocs: Any, kind: Any, values: list[str]) -> list[bool]:  # noqa: ANN401  a stub, and the name of a type
    response = await iocs.CheckIocs(pb.CheckIocsRequest(type=kind, values=values))
    return [result.known for result in response.results]


def _put(kind: Any, value: str, confidence: int, **fields: Any) -> pb.PutIocRequest:  # noqa: ANN401  the name of a type
    return pb.PutIocRequest(ioc=_new(kind, value, confidence, **fields))


def _new(kind: Any, value: str, confidence: int, **fields: Any) -> pb.NewIoc:  # noqa: ANN401  the name of a type
    return pb.NewIoc(type=kind, value=value, confidence=confidence, source="feed", **fields)


def _address(number: int) -> str:
    return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
