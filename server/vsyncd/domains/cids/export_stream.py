"""ExportCids on the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

from vsync.v1 import cid_pb2 as pb

from vsyncd.core.errors import DeadlineExceeded
from vsyncd.core.paging import decode_token, encode_token
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.export_repository import ExportRepository
from vsyncd.domains.cids.messages import read_filter, record_message
from vsyncd.domains.cids.records import CidRecord
from vsyncd.domains.cids.repository import LEAST_ID
from vsyncd.observability.metrics import EXPORTED_RECORDS


class ExportStream:
    """Serves exports. `max_duration` is in seconds; past it a stream ends, and its resume_token goes on."""

    def __init__(self, repository: ExportRepository, *, max_duration: float) -> None:
        self._repository = repository
        self._max_duration = max_duration

    async def responses(self, request: pb.ExportCidsRequest) -> AsyncIterator[pb.ExportCidsResponse]:
        """The messages of one export. What matches nothing is one message without records."""
        validator = Validator()
        selection = read_filter(request.filter, validator)
        validator.raise_any()
        scope = ("ExportCids", request.cids_only, *selection)
        token = request.resume_token
        after = UUID(bytes=decode_token(token, *scope, field="resume_token")) if token else LEAST_ID
        sent = EXPORTED_RECORDS.labels("cids" if request.cids_only else "records")
        clock = asyncio.get_running_loop().time
        end = clock() + self._max_duration
        async with self._repository.open(
            selection, after=after, cids_only=request.cids_only, max_duration=self._max_duration
        ) as export:
            first = pb.ExportCidsResponse(resumed=bool(token), resume_token=token)
            first.snapshot_time.FromDatetime(export.snapshot_time)
            yield first
            async with aclosing(export.batches()) as batches:
                async for rows in batches:
                    if clock() > end:
                        raise DeadlineExceeded(
                            "EXPORT_TIMEOUT", "The export took too long; go on with its resume_token."
                        )
                    response = pb.ExportCidsResponse(
                        resume_token=encode_token(rows[-1][0].bytes, *scope),
                        resumed=bool(token),
                        snapshot_time=first.snapshot_time,
                    )
                    if request.cids_only:
                        response.cids = b"".join(row[1] for row in rows)
                    else:
                        response.records.extend(record_message(CidRecord._make(row)) for row in rows)
                    yield response
                    sent.inc(len(rows))
