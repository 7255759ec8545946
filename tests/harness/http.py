"""HTTP requests as probes and scrapers send them, and bytes as they should not."""

import asyncio
import http.client
import json
import re
from typing import Any, NamedTuple

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class HttpAnswer(NamedTuple):
    """What came back. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def get_now(port: int, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> HttpAnswer:
    """Ask by the standard library's client, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body=body, headers={name.replace("_", "-"): headers[name] for name in headers})
        response = connection.getresponse()
        return HttpAnswer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


async def get(port: int, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> HttpAnswer:
    """`get_now`, beside the loop that answers."""
    return await asyncio.to_thread(get_now, port, path, method=method, body=body, **headers)


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send these bytes, and read until the server has no more and closes."""
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
    """The numbers of /metrics, by name and labels."""

    def of(self, name: str, **labels: str) -> float:
        """The sum of what has this name and at least these labels; 0 when there is none."""
        return sum(
            value for (found, its), value in self.items() if found == name and labels.items() <= dict(its).items()
        )


async def scrape(port: int) -> Samples:
    """Read /metrics."""
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
