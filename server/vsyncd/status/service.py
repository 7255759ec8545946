"""Implements StatusService."""

from typing import Final

from vsync.v1 import status_pb2 as pb
from vsync.v1.status_pb2_grpc import StatusServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.scope import Scope, current_scope
from vsyncd.status.collector import StatusCollector
from vsyncd.status.findings import find

STATUS_SERVICE: Final = "vsync.v1.StatusService"


class StatusService(StatusServiceServicer):
    """See status.proto."""

    def __init__(self, collector: StatusCollector) -> None:
        self._collector = collector

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        status = await self._collector.status()
        return pb.GetStatusResponse(status=visible(status, current_scope()))


def visible(status: pb.ServerStatus, scope: Scope) -> pb.ServerStatus:
    """Returns what callers with this scope may see of a status."""
    if not scope.is_restricted:
        return status
    narrowed = pb.ServerStatus()
    narrowed.CopyFrom(status)
    del narrowed.imports[:], narrowed.batches[:], narrowed.vsyncs[:], narrowed.findings[:]
    narrowed.batches.extend(batch for batch in status.batches if batch.ispb in scope)
    narrowed.vsyncs.extend(vsync for vsync in status.vsyncs if vsync.ispb in scope)
    narrowed.findings.extend(find(narrowed))
    return narrowed
