"""The HTTP probes: the contract's messages as JSON, and the metrics.

/live /ready /health /health/detailed /health/database: 200, or 503 when UNHEALTHY. DEGRADED still serves.
"""

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message
from prometheus_client.exposition import choose_encoder
from vsync.health.v1 import health_pb2 as pb

from vsyncd.health.records import Kind
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.reports import Reports
from vsyncd.http.server import Answer, Route
from vsyncd.observability.metrics import REGISTRY

# Beside the loop, since it takes some milliseconds, and one at a time, however many ask. What is counted meanwhile may
# be in it or not.
_SCRAPER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")

Field: TypeAlias = Any  # FieldDescriptor, of which protobuf's stubs have two that differ


class Probes:
    """Answers HTTP probes."""

    def __init__(self, board: DependencyRegistry, reports: Reports) -> None:
        self._board = board
        self._reports = reports

    @property
    def routes(self) -> Mapping[str, Route]:
        """What is answered, by path."""
        return {
            "/live": self._live,
            "/ready": self._ready,
            "/health": self._health,
            "/health/detailed": self._detailed,
            "/health/database": self._database,
            "/metrics": metrics,
        }

    async def _live(self, _: Mapping[str, str]) -> Answer:
        return _answer(self._reports.liveness())

    async def _ready(self, _: Mapping[str, str]) -> Answer:
        return _answer(self._reports.readiness())

    async def _health(self, _: Mapping[str, str]) -> Answer:
        return _answer(await self._reports.health(details=False))

    async def _detailed(self, _: Mapping[str, str]) -> Answer:
        return _answer(await self._reports.health(details=True))

    async def _database(self, _: Mapping[str, str]) -> Answer:
        return _answer(await self._reports.health(self._board.names_of(Kind.DATABASE), details=True))


async def metrics(headers: Mapping[str, str]) -> Answer:
    """Everything in REGISTRY, as text or OpenMetrics, whichever the scraper takes."""
    try:
        encode, content_type = choose_encoder(headers.get("accept", ""))
    except (TypeError, ValueError):  # of a version that is none
        encode, content_type = choose_encoder("")
    body = await asyncio.get_running_loop().run_in_executor(_SCRAPER, encode, REGISTRY)
    return Answer(HTTPStatus.OK, body, content_type)


def as_json(message: Message) -> dict[str, Any]:
    """A message with the proto's names, defaults written too, enums by name, and 64-bit integers as numbers, which
    protobuf's own JSON has as strings. A message field that is not set is left out."""
    return {
        field.name: _plain(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _plain(field: Field, value: Any) -> Any:  # noqa: ANN401  whatever type the field has
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    return [_single(field, item) for item in value] if field.is_repeated else _single(field, value)


def _single(field: Field, value: Any) -> Any:  # noqa: ANN401  as above
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return as_json(value) if isinstance(value, Message) else value


def _answer(report: pb.LivenessResponse | pb.HealthResponse) -> Answer:
    unhealthy = report.status == pb.UNHEALTHY
    status = HTTPStatus.SERVICE_UNAVAILABLE if unhealthy else HTTPStatus.OK
    return Answer(status, json.dumps(as_json(report), ensure_ascii=False).encode() + b"\n")
