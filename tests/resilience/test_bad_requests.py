"""Random bytes and values are reported as errors of the client."""

import asyncio
import random
from typing import Any

import grpc
import pytest
from vsyncd.app import Application

from tests.harness.bad_requests import METHODS, SEEDS, START, WATCH_S, answer, invalid_message, random_bytes
from tests.harness.clusters import Database
from tests.harness.serving import settings_for

_OUR_FAULT = ("INTERNAL", "UNKNOWN", "UNIMPLEMENTED", "UNAVAILABLE", "DATA_LOSS")


@pytest.fixture
async def channel(database: Database) -> Any:
    """A channel to a vsyncd that accepts messages up to 64 KiB."""
    settings = settings_for(
        database.service_url,
        db_auto_migrate=False,
        domains="all",
        http_listen="127.0.0.1:0",
        grpc_max_request_bytes=65536,
    )
    async with (
        Application(settings) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
    ):
        yield channel


@pytest.mark.parametrize("rounds", [20, pytest.param(2000, marks=pytest.mark.soak)])
async def test_random_input_is_never_an_internal_error(channel: grpc.aio.Channel, rounds: int) -> None:
    rng = random.Random(rounds)  # noqa: S311  deterministic test data
    for method in METHODS:
        for _ in range(rounds):
            for requests in ([random_bytes(rng) for _ in range(3)], [invalid_message(method, rng) for _ in range(3)]):
                if method.client_streaming and rng.random() < 0.5:
                    requests.insert(0, START)
                timeout_s = WATCH_S if method.name.startswith("Watch") else 20
                found = await answer(channel, method, requests, timeout_s=timeout_s)
                assert not found.startswith(_OUR_FAULT), (method.full_name, found, requests)
    assert await answer(channel, METHODS[0], [SEEDS[0]]) in {"OK", "ALREADY_EXISTS CID_EXISTS"}


async def test_a_message_above_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    answers = await asyncio.gather(*(answer(channel, method, [b"\0" * 65537]) for method in METHODS))
    names = [method.full_name for method in METHODS]
    assert dict(zip(names, answers, strict=True)) == dict.fromkeys(names, "RESOURCE_EXHAUSTED")
