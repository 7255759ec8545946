"""Sends HTTP requests as probes and scrapers do, and malformed bytes."""

import asyncio
import http.client
import json
import re
from typing import Any, NamedTuple

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class HttpAnswer(NamedTuple):
    """A response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def get_now(port: int, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> HttpAnswer:
    """Sends a request with the standard library's client over a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body=body, headers={name.replace("_", "-"): headers[name] for name in headers})
        response = connection.getresponse()
        return HttpAnswer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


async def get(port: int, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> HttpAnswer:
    """Does the same as `get_now` in a thread, because the server runs in the event loop."""
    return await asyncio.to_thread(get_now, port, path, method=method, body=body, **headers)


async def exchange(port: int, *parts: bytes) -> bytes:
    """Sends the bytes, and returns all that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


class Samples(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """The values of /metrics by name and labels."""

    def of(self, name: str, **labels: str) -> float:
        """Returns the sum of the samples with this name and at least these labels; 0 if there are none."""
        return sum(
            value for (found, its), value in self.items() if found == name and labels.items() <= dict(its).items()
        )


async def scrape(port: int) -> Samples:
    """Returns the samples of /metrics."""
    answer = await get(port, "/metrics")
    assert answer.status == 200
    samples = Samples()
    for line in answer.body.decode().splitlines():
        if not line.startswith("#"):
            matched = _SAMPLE.match(line)
            assert matched, line
            name, labels, value = matched.groups()
            samples[name, frozenset(_LABEL.findall(labels or ""))] = float(value)
    return samples
