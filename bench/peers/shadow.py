"""A plain service for shadow evaluations: grpc.aio on uvloop, a psycopg pool, one INSERT per call.

It only finds out whether the results differ. It has no paths, audit entries, request ids or validation. It uses the
same table, so the database's own work (constraints, indexes, rollups) is the same.
`python -m bench.peers.shadow CONNINFO` prints its port and serves until it is terminated.
"""

import asyncio
import json
import signal
import sys
from typing import Any
from uuid import UUID

import grpc
import uvloop
from google.protobuf.json_format import MessageToDict
from psycopg_pool import AsyncConnectionPool
from vsync.shadow.v1 import shadow_pb2 as pb
from vsyncd.core.ids import time_of

_INSERT = "INSERT INTO vsync.evaluations VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"


class PlainService:
    """RecordEvaluation in its simplest form."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def record(self, request: pb.RecordEvaluationRequest, context: object) -> pb.RecordEvaluationResponse:  # noqa: ARG002  gRPC gives it
        """RecordEvaluation."""
        evaluation = request.evaluation
        identifier = UUID(evaluation.evaluation_id)
        primary, shadow = MessageToDict(evaluation.primary_result), MessageToDict(evaluation.shadow_result)
        diverged = primary != shadow
        async with self._pool.connection() as connection:
            await connection.execute(
                _INSERT,
                (
                    identifier,
                    time_of(identifier),
                    evaluation.candidate.name,
                    evaluation.candidate.version,
                    bytes.fromhex(evaluation.input_fingerprint),
                    json.dumps(primary),
                    json.dumps(shadow),
                    evaluation.primary_latency.ToMicroseconds(),
                    evaluation.shadow_latency.ToMicroseconds(),
                    diverged,
                    int(diverged),
                    ["score"] if diverged else [],
                ),
            )
        evaluation.diverged = diverged
        return pb.RecordEvaluationResponse(evaluation=evaluation, recorded=True)


async def main(conninfo: str) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        conninfo, min_size=25, max_size=25, open=False, kwargs={"autocommit": True}
    )
    await pool.open(wait=True)
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        PlainService(pool).record,
        pb.RecordEvaluationRequest.FromString,
        pb.RecordEvaluationResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("vsync.shadow.v1.ShadowService", {"RecordEvaluation": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"port {port}", flush=True)
    await stop.wait()
    await server.stop(1)
    await pool.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
