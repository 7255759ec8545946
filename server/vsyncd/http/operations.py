"""The operations page, and the answer of GetStatus as JSON, which it shows.

The page consists of the files in the folder `page`. It loads nothing from other addresses, and its
Content-Security-Policy forbids that.
"""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from typing import Final

from vsync.message_json import as_json
from vsync.v1 import status_pb2 as pb

from vsyncd.http.server import Response, Route

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/operations.css": ("operations.css", "text/css; charset=utf-8"),
    "/operations.js": ("operations.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
)


class OperationsPage:
    """The routes of the page. `status` returns the status of this server."""

    def __init__(self, status: Callable[[], Awaitable[pb.ServerStatus]]) -> None:
        self._status = status

    @property
    def routes(self) -> Mapping[str, Route]:
        folder = files("vsyncd.http") / "page"
        pages: dict[str, Route] = {
            path: partial(_file, Response(HTTPStatus.OK, (folder / name).read_bytes(), content_type, _HEADERS))
            for path, (name, content_type) in _FILES.items()
        }
        return {**pages, "/status": self._json}

    async def _json(self, headers: Mapping[str, str]) -> Response:
        compressed = "gzip" in headers.get("accept-encoding", "")
        # Takes milliseconds for many participants, and must not block the event loop.
        body = await asyncio.to_thread(_encode, await self._status(), compressed=compressed)
        encoding = (("content-encoding", "gzip"),) if compressed else ()
        return Response(HTTPStatus.OK, body, headers=(*_HEADERS, *encoding))


async def _file(response: Response, _: Mapping[str, str]) -> Response:
    return response


def _encode(status: pb.ServerStatus, *, compressed: bool) -> bytes:
    body = json.dumps(as_json(status), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return gzip.compress(body, 1) if compressed else body
