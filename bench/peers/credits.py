"""A plain service for credits: grpc.aio on uvloop, a psycopg pool, one conditional UPDATE per call. No ledger or audit.

It uses the same table of accounts. `python -m bench.peers.credits CONNINFO` prints its port and serves until it is
terminated.
"""

import sys
from decimal import Decimal
from typing import Any

import grpc
import uvloop
from psycopg_pool import AsyncConnectionPool
from vsync.credits.v1 import credit_pb2 as pb

from bench.peers.plain import Handlers, serve

_DEBIT = """
    UPDATE vsync.credit_accounts SET available = available - %(amount)s
    WHERE account = %(account)s AND tenant = %(tenant)s AND available >= %(amount)s AND closed_at IS NULL
    RETURNING available, reserved
"""
TENANT = bytes(32)
_Context = grpc.aio.ServicerContext[pb.DebitRequest, pb.DebitResponse]


class PlainCredits:
    """Debit in its simplest form."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def debit(self, request: pb.DebitRequest, context: _Context) -> pb.DebitResponse:
        """Debit."""
        parameters = {"tenant": TENANT, "account": request.account, "amount": Decimal(request.amount)}
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_DEBIT, parameters)
            row = await cursor.fetchone()
        if row is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the balance is too low")
        transaction = pb.Transaction(
            account=request.account,
            kind=pb.TRANSACTION_KIND_DEBIT,
            amount=request.amount,
            reference=request.reference,
            available=str(row[0]),
            reserved=str(row[1]),
        )
        return pb.DebitResponse(transaction=transaction)


def handlers(pool: AsyncConnectionPool[Any]) -> Handlers:
    """Returns the handlers by service and method."""
    debit = grpc.unary_unary_rpc_method_handler(
        PlainCredits(pool).debit, pb.DebitRequest.FromString, pb.DebitResponse.SerializeToString
    )
    return {"vsync.credits.v1.CreditService": {"Debit": debit}}


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], handlers))
