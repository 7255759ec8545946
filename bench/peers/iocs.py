"""A plain service for IOCs: grpc.aio on uvloop, a psycopg pool, one statement per call. No validation or audit.

It uses the same table, so the database's own work (constraints, indexes) is the same.
`python -m bench.peers.iocs CONNINFO` prints its port and serves until it is terminated.
"""

import sys
from datetime import timedelta
from typing import Any, Final

import grpc
import uvloop
from psycopg_pool import AsyncConnectionPool
from vsync.iocs.v1 import ioc_pb2 as pb
from vsyncd.core.ids import new_id, time_of

from bench.peers.plain import Handlers, serve

TENANT: Final = bytes(32)
_TTL: Final = timedelta(days=400)
_CHECK = """
    SELECT value, confidence FROM vsync.iocs
    WHERE tenant = %s AND type = %s AND value = ANY (%s::text[]) AND expires_at > now()
"""
_PUT = """
    INSERT INTO vsync.iocs AS i (tenant, audit_id, created_at, expires_at, type, confidence, value, source, tags)
    SELECT %s, %s, %s, %s, type, confidence, value, source, string_to_array(tags, ',')
    FROM unnest(%s::smallint[], %s::smallint[], %s::text[], %s::text[], %s::text[])
        AS new (type, confidence, value, source, tags)
    ORDER BY type, value
    ON CONFLICT (tenant, type, value) DO UPDATE SET
        audit_id = excluded.audit_id, confidence = excluded.confidence, source = excluded.source, tags = excluded.tags,
        expires_at = excluded.expires_at, revision = i.revision + 1
    RETURNING type, value, revision
"""


class PlainIocs:
    """CheckIocs and BatchPutIocs in their simplest form."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def check(self, request: pb.CheckIocsRequest, context: object) -> pb.CheckIocsResponse:  # noqa: ARG002  gRPC gives it
        """CheckIocs."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_CHECK, (TENANT, request.type, list(request.values)))
            known = dict(await cursor.fetchall())
        results = [pb.CheckedValue(known=value in known, confidence=known.get(value, 0)) for value in request.values]
        return pb.CheckIocsResponse(results=results)

    async def put(self, request: pb.BatchPutIocsRequest, context: object) -> pb.BatchPutIocsResponse:  # noqa: ARG002  gRPC gives it
        """BatchPutIocs."""
        identifier, iocs = new_id(), request.iocs
        now = time_of(identifier)
        parameters = (
            TENANT,
            identifier,
            now,
            now + _TTL,
            [ioc.type for ioc in iocs],
            [ioc.confidence for ioc in iocs],
            [ioc.value for ioc in iocs],
            [ioc.source for ioc in iocs],
            [",".join(ioc.tags) for ioc in iocs],
        )
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_PUT, parameters)
            revisions = {(kind, value): revision for kind, value, revision in await cursor.fetchall()}
        results = [pb.PutResult(value=ioc.value, revision=revisions[ioc.type, ioc.value]) for ioc in iocs]
        return pb.BatchPutIocsResponse(results=results)


def handlers(pool: AsyncConnectionPool[Any]) -> Handlers:
    """Returns the handlers by service and method."""
    service = PlainIocs(pool)
    return {
        "vsync.iocs.v1.IocService": {
            "CheckIocs": grpc.unary_unary_rpc_method_handler(
                service.check, pb.CheckIocsRequest.FromString, pb.CheckIocsResponse.SerializeToString
            ),
            "BatchPutIocs": grpc.unary_unary_rpc_method_handler(
                service.put, pb.BatchPutIocsRequest.FromString, pb.BatchPutIocsResponse.SerializeToString
            ),
        }
    }


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], handlers))
