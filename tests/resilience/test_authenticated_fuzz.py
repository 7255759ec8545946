"""A million invalid requests of authenticated callers end with errors of the client.

The callers have certificates or keys, and different roles. Metadata and deadlines are random too.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from tests.harness.access import bearer, key_of
from tests.harness.bad_requests import METHODS, START, WATCH_S, answer, invalid_message, random_bytes
from tests.harness.clusters import Database
from tests.harness.recovery import FaultReport
from tests.harness.secure_server import CALLERS, SecureServer, secure_server

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1000000"))
_IN_FLIGHT = 64
_NEVER = ("INTERNAL", "UNKNOWN", "UNIMPLEMENTED", "DATA_LOSS")
_AUTHORIZATIONS = (
    "",
    "Bearer",
    "Bearer ",
    "bearer x",
    f"Bearer {key_of('impostor')}",
    "Basic YTpi",
    "Bearer a.b.c",
    "x" * 3000,
)
_CORRELATION_IDS = ("", " ", "x" * 2000, "12345678909", "%0a%00", "01020304-0506-0708-090a-0b0c0d0e0f10", "0" * 32)
_CONSISTENCIES = ("", "x", "0/0", "FFFFFFFF/FFFFFFFF", "-1", "9" * 400, "eyJ4IjoxfQ==", "primary")
_DEADLINES_S = (0, 0.0005, 0.002, 0.01, 0.1, 1, 100_000, *[20] * 23)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]


class Caller:
    """A channel with a certificate, or with a key in the metadata."""

    def __init__(self, name: str, channel: grpc.aio.Channel, credentials: Sequence[tuple[str, str]]) -> None:
        self.name = name
        self.channel = channel
        self._credentials = credentials

    def metadata(self, rng: random.Random) -> list[tuple[str, str | bytes]]:
        """Returns the credentials and random metadata; sometimes other credentials."""
        found: list[tuple[str, str | bytes]] = list(self._credentials)
        if rng.random() < 0.05:
            found = [("authorization", rng.choice(_AUTHORIZATIONS)) for _ in range(rng.randrange(3))]
        for name, values in (
            ("x-correlation-id", _CORRELATION_IDS),
            ("x-consistency", _CONSISTENCIES),
            ("traceparent", _CORRELATION_IDS),
            ("tracestate", _CORRELATION_IDS),
        ):
            found += [(name, rng.choice(values)) for _ in range(rng.choice((0, 0, 0, 1, 1, 2)))]
        if rng.random() < 0.1:
            found.append(("x-consistency-bin", rng.randbytes(rng.randrange(50))))
        return found


@pytest.fixture
async def callers(server: SecureServer) -> AsyncIterator[list[Caller]]:
    async with AsyncExitStack() as channels:
        found = []
        for name in CALLERS:
            for target, certificate in ((server.target, name), (server.token_target, "")):
                credentials = server.credentials(certificate)
                channel = grpc.aio.secure_channel(target, credentials, options=server.options)
                await channels.enter_async_context(channel)
                found.append(Caller(name, channel, () if certificate else bearer(name)))
        yield found


@pytest.fixture
async def server(database: Database, folder: Path) -> AsyncIterator[SecureServer]:
    """It accepts messages up to 64 KiB."""
    with secure_server(database, folder, DOMAINS="all", GRPC_MAX_REQUEST_BYTES="65536") as server:
        yield server


async def test_invalid_requests_are_never_an_internal_error(
    server: SecureServer, callers: list[Caller], report: FaultReport
) -> None:
    counts: Counter[str] = Counter()
    privileged = [caller for caller in callers if caller.name in {"all", "own"}]
    begun = time.monotonic()

    async def send(worker: int) -> None:
        rng = random.Random(worker)  # noqa: S311  deterministic test data
        for _ in range(worker, REQUESTS, _IN_FLIGHT):
            method, caller = rng.choice(METHODS), rng.choice(privileged if rng.random() < 0.7 else callers)
            count = 3 if method.client_streaming else 1
            if rng.random() < 0.3:
                requests = [random_bytes(rng) for _ in range(count)]
            else:
                invalid = rng.choice((0.01, 0.05, 0.3, 1.0))
                requests = [invalid_message(method, rng, invalid=invalid) for _ in range(count)]
            if method.client_streaming and rng.random() < 0.5:
                requests.insert(0, START)
            deadline = rng.choice(_DEADLINES_S)
            timeout_s = min(deadline, WATCH_S) if method.name.startswith("Watch") else deadline
            metadata = caller.metadata(rng)
            found = await answer(caller.channel, method, requests, timeout_s=timeout_s, metadata=metadata)
            assert not found.startswith(_NEVER), (method.full_name, found, requests, metadata, deadline)
            counts[found] += 1

    async with asyncio.TaskGroup() as tasks:
        for worker in range(_IN_FLIGHT):
            tasks.create_task(send(worker))
    report.figure("seconds", round(time.monotonic() - begun))
    report.figure("answers", dict(counts.most_common()))
    # Most requests pass authentication and reach the method.
    assert (
        counts["OK"] + sum(each for name, each in counts.items() if name.startswith("INVALID_ARGUMENT")) > REQUESTS / 10
    )
    for event in (server.folder / "server.log").read_text().splitlines():
        assert '"level": "error"' not in event, event
