"""The VSyncs in the answer of GetStatus."""

from typing import Final

from vsync.v1 import status_pb2 as pb

from vsyncd.core.timestamps import timestamp
from vsyncd.postgres.queries import Session, queries

# By participant and key type.
_MAX_GROUPS: Final = 2_000


class VsyncStatusReader:
    """Reads the section `vsyncs`."""

    def __init__(self, schema: str) -> None:
        self._query = queries("vsyncd.domains.reconciliation", schema)["status_vsyncs"]

    async def read(self, session: Session, status: pb.ServerStatus) -> None:
        rows = await session.all(self._query, {"limit": _MAX_GROUPS + 1})
        for ispb, key_type, vsync, count, verdict, since, verified_at in rows[:_MAX_GROUPS]:
            status.vsyncs.add(
                ispb=ispb,
                key_type=key_type,
                vsync=vsync.hex(),
                count=count,
                verdict=verdict or 0,
                verdict_since=timestamp(since),
                verified_at=timestamp(verified_at),
            )
        if len(rows) > _MAX_GROUPS:
            status.truncated.append("vsyncs")
