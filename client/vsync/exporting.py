"""Exports: every record that matches, or only the CIDs, over ExportCids, through lost streams."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from vsync.errors import CallError
from vsync.own_writes import not_older_than
from vsync.patience import OnWait, Patience, ignore_wait
from vsync.v1 import cid_pb2

if TYPE_CHECKING:
    from vsync.v1.cid_pb2_grpc import CidServiceAsyncStub, CidServiceStub


class ExportCursor:
    """How far an export has come."""

    def __init__(self, request: cid_pb2.ExportCidsRequest, patience: float) -> None:
        self._request = cid_pb2.ExportCidsRequest()
        self._request.CopyFrom(request)
        self._patience = Patience(patience)

    @property
    def request(self) -> cid_pb2.ExportCidsRequest:
        """Asks for what is behind the last message received."""
        return self._request

    def received(self, answer: cid_pb2.ExportCidsResponse) -> None:
        """Remembers the message's token: every message before it is the caller's by now."""
        self._request.resume_token = answer.resume_token or self._request.resume_token
        self._patience.progress()

    def delay_after(self, error: CallError) -> float:
        """Seconds to wait before the stream is opened again. Raises the error when that is pointless."""
        return self._patience.delay_after(error)


def run_export(
    stub: "CidServiceStub",
    request: cid_pb2.ExportCidsRequest,
    *,
    consistency_token: str | None = None,
    patience: float = 60.0,
    on_wait: OnWait = ignore_wait,
) -> Iterator[cid_pb2.ExportCidsResponse]:
    """Gives every message of the export, each once.

    A lost stream is opened again behind the last message received; the messages then say resumed, since what follows
    is read in a new snapshot. consistency_token: that of WatchCidEvents' first message, whose events the export then
    does not come before. on_wait hears of each loss. Raises CallError when the server refuses, or stays away for
    longer than patience seconds.
    """
    cursor = ExportCursor(request, patience)
    while True:
        call = stub.ExportCids(cursor.request, metadata=not_older_than(consistency_token))
        try:
            for answer in call:
                cursor.received(answer)
                yield answer
        except CallError as error:
            delay = cursor.delay_after(error)
            on_wait(error, delay)
            time.sleep(delay)
        else:
            return
        finally:
            call.cancel()


async def run_export_async(
    stub: "CidServiceAsyncStub",
    request: cid_pb2.ExportCidsRequest,
    *,
    consistency_token: str | None = None,
    patience: float = 60.0,
) -> AsyncIterator[cid_pb2.ExportCidsResponse]:
    """As run_export, for asyncio."""
    cursor = ExportCursor(request, patience)
    while True:
        call = stub.ExportCids(cursor.request, metadata=not_older_than(consistency_token))
        try:
            async for answer in call:
                cursor.received(answer)
                yield answer
        except CallError as error:
            await asyncio.sleep(cursor.delay_after(error))
        else:
            return
        finally:
            call.cancel()
