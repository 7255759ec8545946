"""The HTTP probes, with the messages of vsync.health.v1 as JSON, and the metrics.

/live /ready /health /health/detailed /health/database answer 503 if UNHEALTHY, and 200 otherwise.
"""

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final

from prometheus_client.exposition import choose_encoder
from vsync.health.v1 import health_pb2 as pb
from vsync.message_json import as_json

from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.service import Reports
from vsyncd.http.server import Response, Route
from vsyncd.observability.metrics import REGISTRY

# A scrape takes milliseconds and must not block the event loop. One thread: only one scrape at a time.
_SCRAPER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")


class Probes:
    def __init__(self, registry: DependencyRegistry, reports: Reports) -> None:
        self._registry = registry
        self._reports = reports

    @property
    def public_routes(self) -> Mapping[str, Route]:
        """The routes that reveal no hosts, names and versions."""
        return {"/live": self._live, "/ready": self._ready, "/health": self._health}

    @property
    def admin_routes(self) -> Mapping[str, Route]:
        return {"/health/detailed": self._detailed, "/health/database": self._database, "/metrics": metrics}

    async def _live(self, _: Mapping[str, str]) -> Response:
        return _respond(self._reports.liveness())

    async def _ready(self, _: Mapping[str, str]) -> Response:
        return _respond(self._reports.readiness())

    async def _health(self, _: Mapping[str, str]) -> Response:
        return _respond(await self._reports.health(details=False))

    async def _detailed(self, _: Mapping[str, str]) -> Response:
        return _respond(await self._reports.health(details=True))

    async def _database(self, _: Mapping[str, str]) -> Response:
        return _respond(await self._reports.health(self._registry.names_of(pb.DATABASE), details=True))


async def metrics(headers: Mapping[str, str]) -> Response:
    """Returns the metrics of REGISTRY in the format that the scraper accepts, text or OpenMetrics."""
    try:
        encode, content_type = choose_encoder(headers.get("accept", ""))
    except (TypeError, ValueError):  # an invalid version
        encode, content_type = choose_encoder("")
    body = await asyncio.get_running_loop().run_in_executor(_SCRAPER, encode, REGISTRY)
    return Response(HTTPStatus.OK, body, content_type)


def _respond(report: pb.LivenessResponse | pb.HealthResponse) -> Response:
    unhealthy = report.status == pb.UNHEALTHY
    status = HTTPStatus.SERVICE_UNAVAILABLE if unhealthy else HTTPStatus.OK
    return Response(status, json.dumps(as_json(report), ensure_ascii=False).encode() + b"\n")
