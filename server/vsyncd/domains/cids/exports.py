"""Exports: all CIDs that match a filter, from one snapshot, as the messages of ExportCids."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final
from uuid import UUID

from vsync.v1 import cid_pb2 as pb

from vsyncd.core.errors import DeadlineExceeded
from vsyncd.core.ids import MIN_ID
from vsyncd.core.paging import decode_token, encode_token
from vsyncd.core.scope import Scope
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.access_paths import choose_access_path, filter_parameters, ispb_condition, with_access_path
from vsyncd.domains.cids.messages import read_filter, record_message
from vsyncd.domains.cids.records import CID_COLUMNS, CidFilter, CidRecord
from vsyncd.observability.metrics import EXPORTED_RECORDS
from vsyncd.postgres.queries import Query, queries
from vsyncd.postgres.snapshots import Snapshot, SnapshotReader

RECORDS_PER_MESSAGE: Final = 1_000
CIDS_PER_MESSAGE: Final = 10_000


class Exporter:
    """Serves ExportCids. A stream ends at its slot's deadline; its resume_token continues it."""

    def __init__(self, snapshots: SnapshotReader, *, schema: str) -> None:
        self._snapshots = snapshots
        self._query = queries("vsyncd.domains.cids", schema, columns=CID_COLUMNS)["export"]

    async def responses(self, request: pb.ExportCidsRequest, scope: Scope) -> AsyncIterator[pb.ExportCidsResponse]:
        """Yields the messages of one export: the first has no records.

        Raises InvalidFields, IspbDenied, ResourceExhausted (OVERLOADED), DeadlineExceeded (EXPORT_TIMEOUT).
        """
        with Validator() as validator:
            cid_filter = read_filter(request.filter, validator)
        token_scope = ("ExportCids", request.cids_only, *cid_filter[:6])
        selected = cid_filter.within(scope)
        token = request.resume_token
        after = UUID(bytes=decode_token(token, *token_scope, field="resume_token")) if token else MIN_ID

        async def export(snapshot: Snapshot) -> AsyncGenerator[pb.ExportCidsResponse]:
            header = pb.ExportCidsResponse(
                resumed=bool(token), resume_token=token, snapshot_time=timestamp(snapshot.time)
            )
            yield header
            blocks = snapshot.stream(
                export_query(self._query, selected, cids_only=request.cids_only),
                filter_parameters(selected, after),
                block_rows=CIDS_PER_MESSAGE if request.cids_only else RECORDS_PER_MESSAGE,
            )
            async with aclosing(blocks):
                async for rows in blocks:
                    response = pb.ExportCidsResponse(
                        resume_token=encode_token(rows[-1][0].bytes, *token_scope),
                        resumed=header.resumed,
                        snapshot_time=header.snapshot_time,
                    )
                    if request.cids_only:
                        response.cids = b"".join(row[1] for row in rows)
                    else:
                        response.records.extend(record_message(CidRecord._make(row)) for row in rows)
                    yield response
                    EXPORTED_RECORDS.labels("cids" if request.cids_only else "records").inc(len(rows))

        async with self._snapshots.slot() as deadline, aclosing(self._snapshots.stream("export", export)) as responses:
            async for response in responses:
                if asyncio.get_running_loop().time() > deadline:
                    message = "The export exceeded its maximum duration. Continue with its resume_token."
                    raise DeadlineExceeded("EXPORT_TIMEOUT", message)
                yield response


def export_query(template: Query, cid_filter: CidFilter, *, cids_only: bool) -> Query:
    """Returns the query of an export: `template` with its placeholders replaced."""
    path, _ = choose_access_path(cid_filter)
    query = with_access_path(template, path, condition_on_ispb=ispb_condition(cid_filter))
    return Query(query.name, query.sql.replace(b"/*SELECTED*/", b"id, cid" if cids_only else CID_COLUMNS.encode()))
