"""Exports: every record that matches, or only the CIDs, over ExportCids, through lost streams."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from vsync.consistency import not_older_than
from vsync.reconnect import DEFAULT_PATIENCE_S, OnWait, Reconnect, ignore_wait
from vsync.streams import read_stream, read_stream_async
from vsync.v1 import cid_pb2

if TYPE_CHECKING:
    from vsync.v1.cid_pb2_grpc import CidServiceAsyncStub, CidServiceStub


class ExportCursor:
    """The position of an export: the request for everything after the last message received."""

    def __init__(self, request: cid_pb2.ExportCidsRequest, reconnect: Reconnect) -> None:
        self.request = cid_pb2.ExportCidsRequest()
        self.request.CopyFrom(request)
        self._reconnect = reconnect

    def received(self, answer: cid_pb2.ExportCidsResponse) -> None:
        """Remembers the message's token. The first message of a stream has no records, and is no progress."""
        token = answer.resume_token or self.request.resume_token
        self._reconnect.received(progress=token != self.request.resume_token)
        self.request.resume_token = token


def run_export(
    stub: "CidServiceStub",
    request: cid_pb2.ExportCidsRequest,
    *,
    consistency_token: str | None = None,
    patience: float = DEFAULT_PATIENCE_S,
    on_wait: OnWait = ignore_wait,
) -> Iterator[cid_pb2.ExportCidsResponse]:
    """Gives every message of the export, each once.

    A lost stream is opened again after the last message received; the messages then say resumed, since what follows
    is read in a new snapshot. `consistency_token`: that of WatchCidEvents' first message; the export then contains
    everything before it. `on_wait` is called after each loss. Raises CallError when the server refuses, or when
    `patience` seconds pass without progress.
    """
    reconnect = Reconnect(patience)
    cursor = ExportCursor(request, reconnect)
    metadata = not_older_than(consistency_token)
    return read_stream(lambda: stub.ExportCids(cursor.request, metadata=metadata), cursor.received, reconnect, on_wait)


def run_export_async(
    stub: "CidServiceAsyncStub",
    request: cid_pb2.ExportCidsRequest,
    *,
    consistency_token: str | None = None,
    patience: float = DEFAULT_PATIENCE_S,
    on_wait: OnWait = ignore_wait,
) -> AsyncIterator[cid_pb2.ExportCidsResponse]:
    """As run_export, for asyncio."""
    reconnect = Reconnect(patience)
    cursor = ExportCursor(request, reconnect)
    metadata = not_older_than(consistency_token)
    return read_stream_async(
        lambda: stub.ExportCids(cursor.request, metadata=metadata), cursor.received, reconnect, on_wait
    )
