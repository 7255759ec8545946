"""A plain service for payments: grpc.aio on uvloop, a psycopg pool, one INSERT per call. No audit or validation.

It uses the same tables, so the database's own work (constraints, indexes, totals) is the same.
`python -m bench.peers.payments CONNINFO` prints its port and serves until it is terminated.
"""

import sys
from datetime import UTC
from decimal import Decimal
from typing import Any

import grpc
import uvloop
from psycopg_pool import AsyncConnectionPool
from vsync.payments.v1 import payment_pb2 as pb
from vsyncd.core.ids import new_id, time_of
from vsyncd.core.timestamps import timestamp

from bench.peers.plain import Handlers, serve

_INSERT = """
    INSERT INTO vsync.payments (id, created_at, correlation_id, amount, processor, requested_at, processed_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    RETURNING id, created_at, correlation_id, amount, processor, requested_at, processed_at
"""


class PlainPayments:
    """StorePayment in its simplest form."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def store(self, request: pb.StorePaymentRequest, context: object) -> pb.StorePaymentResponse:  # noqa: ARG002  gRPC gives it
        """StorePayment."""
        payment, identifier = request.payment, new_id()
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                _INSERT,
                (
                    identifier,
                    time_of(identifier),
                    payment.correlation_id,
                    Decimal(payment.amount),
                    payment.processor,
                    payment.requested_at.ToDatetime(UTC),
                    payment.processed_at.ToDatetime(UTC),
                ),
            )
            row = await cursor.fetchone()
        stored = pb.Payment(
            id=str(row[0]),
            created_at=timestamp(row[1]),
            correlation_id=row[2],
            amount=str(row[3]),
            processor=row[4],
            requested_at=timestamp(row[5]),
            processed_at=timestamp(row[6]),
        )
        return pb.StorePaymentResponse(payment=stored, stored=True)


def handlers(pool: AsyncConnectionPool[Any]) -> Handlers:
    """Returns the handlers by service and method."""
    store = grpc.unary_unary_rpc_method_handler(
        PlainPayments(pool).store, pb.StorePaymentRequest.FromString, pb.StorePaymentResponse.SerializeToString
    )
    return {"vsync.payments.v1.PaymentService": {"StorePayment": store}}


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], handlers))
