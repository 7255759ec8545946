"""A plain service: grpc.aio on uvloop, a psycopg pool, one statement per call. No audit, validation or retries.

It uses the same table, so the database's own work (constraints, indexes, triggers) is the same.
`python -m bench.peers.plain CONNINFO` prints its port and serves until it is terminated.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeAlias
from uuid import UUID

import grpc
import uvloop
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool
from vsync.v1 import cid_pb2 as pb
from vsyncd.core.ids import new_id, time_of

Handlers: TypeAlias = dict[str, dict[str, "grpc.RpcMethodHandler[Any, Any]"]]

_INSERT = """
    INSERT INTO vsync.cids (id, created_at, updated_at, cid, key_type, key_value, ispb, branch, account_number,
                            account_type, tax_id, dict_request_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    RETURNING id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id,
              sync_status, created_at, updated_at, revision
"""
_SELECT = """
    SELECT id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id,
           sync_status, created_at, updated_at, revision
    FROM vsync.cids WHERE cid = %s
"""


class PlainService:
    """CreateCid and GetCid in their simplest form."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def create(self, request: pb.CreateCidRequest, context: object) -> pb.CreateCidResponse:  # noqa: ARG002  gRPC gives it
        """CreateCid."""
        record, identifier = request.record, new_id()
        now = time_of(identifier)
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                _INSERT,
                (
                    identifier,
                    now,
                    now,
                    bytes.fromhex(record.cid),
                    record.key_type,
                    record.key_value,
                    record.ispb,
                    record.branch or None,
                    record.account_number,
                    record.account_type,
                    record.tax_id,
                    UUID(record.dict_request_id) if record.dict_request_id else None,
                ),
            )
            row = await cursor.fetchone()
        return pb.CreateCidResponse(record=_message(row))

    async def get(self, request: pb.GetCidRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.GetCidResponse:
        """GetCid."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_SELECT, (bytes.fromhex(request.cid),))
            row = await cursor.fetchone()
        if row is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not found")
        return pb.GetCidResponse(record=_message(row))


def _message(row: Any) -> pb.CidRecord:  # noqa: ANN401  a row of whatever the columns are
    return pb.CidRecord(
        id=str(row[0]),
        cid=row[1].hex(),
        key_type=row[2],
        key_value=row[3],
        ispb=row[4],
        branch=row[5],
        account_number=row[6],
        account_type=row[7],
        tax_id=row[8],
        dict_request_id=str(row[9]) if row[9] else None,
        sync_status=row[10],
        created_at=row[11],
        updated_at=row[12],
        revision=row[13],
    )


def handlers(pool: AsyncConnectionPool[Any]) -> Handlers:
    """Returns the handlers by service and method."""
    service = PlainService(pool)
    return {
        "vsync.v1.CidService": {
            "CreateCid": grpc.unary_unary_rpc_method_handler(
                service.create, pb.CreateCidRequest.FromString, pb.CreateCidResponse.SerializeToString
            ),
            "GetCid": grpc.unary_unary_rpc_method_handler(
                service.get, pb.GetCidRequest.FromString, pb.GetCidResponse.SerializeToString
            ),
        }
    }


async def serve(conninfo: str, make_handlers: Callable[[AsyncConnectionPool[Any]], Handlers]) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        conninfo, min_size=25, max_size=25, open=False, kwargs={"autocommit": True, "row_factory": tuple_row}
    )
    await pool.open(wait=True)
    server = grpc.aio.server()
    for service, methods in make_handlers(pool).items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"port {port}", flush=True)
    await stop.wait()
    await server.stop(1)
    await pool.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], handlers))
