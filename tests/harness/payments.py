"""Helpers for tests of payments: payments by number, and recorded writes."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from vsync.payments.v1 import payment_pb2 as pb

from tests.harness.cids import a_request_id, rows
from tests.harness.clusters import Database
from tests.harness.recorded_writes import TRANSIENT_ERRORS, AnyWrite, ConcurrentCallers

PROCESSORS: Final = ("default", "fallback")
BEGIN: Final = datetime(2026, 11, 20, tzinfo=UTC)
BATCH_SIZE: Final = 5

# What must hold in every state of the database. Each query returns the rows for which it does not.
_VIOLATIONS: Final = {
    "a payment without its key": """
        SELECT p.id FROM vsync.payments AS p LEFT JOIN vsync.payment_keys AS k
        ON k.payment_id = p.id AND k.correlation_id = p.correlation_id WHERE k.payment_id IS NULL""",
    "a key without its payment": """
        SELECT k.payment_id FROM vsync.payment_keys AS k LEFT JOIN vsync.payments AS p ON p.id = k.payment_id
        WHERE p.id IS NULL""",
    "totals of an hour that differ from its payments": """
        SELECT * FROM (
            SELECT date_trunc('hour', processed_at, 'UTC') AS hour, processor, count(*) AS payments,
                   sum(amount) AS amount
            FROM vsync.payments GROUP BY 1, 2) AS stored
        FULL JOIN (
            SELECT hour, processor, sum(payments) AS payments, sum(amount) AS amount
            FROM (SELECT hour, processor, payments, amount FROM vsync.payment_hours
                  UNION ALL SELECT hour, processor, payments, amount FROM vsync.payment_deltas) AS every
            GROUP BY 1, 2) AS totals USING (hour, processor)
        WHERE stored.payments IS DISTINCT FROM totals.payments OR stored.amount IS DISTINCT FROM totals.amount""",
    "totals of a processor that differ from its hours": """
        SELECT * FROM (SELECT processor, sum(payments) AS payments, sum(amount) AS amount
                       FROM vsync.payment_hours GROUP BY 1) AS hours
        FULL JOIN vsync.payment_totals AS t USING (processor)
        WHERE hours.payments IS DISTINCT FROM t.payments OR hours.amount IS DISTINCT FROM t.amount""",
    "deltas below the horizon of the last fold": """
        SELECT seq FROM vsync.payment_deltas AS d JOIN vsync.payment_fold AS f ON d.transaction_id < f.horizon
        WHERE vsync.is_of_this_cluster(f.xmin, f.transaction_id)""",
}


def a_payment(number: int, **changes: Any) -> pb.Payment:
    """Returns a payment that is derived from its number. `changes` replace fields."""
    at = BEGIN + number * timedelta(minutes=7)
    fields: dict[str, Any] = {
        "correlation_id": f"order-{number}",
        "amount": f"{Decimal(number % 10_000 + 1) / 100:.2f}",
        "processor": PROCESSORS[number % 2],
        "requested_at": at - timedelta(seconds=1),
        "processed_at": at,
    }
    return pb.Payment(**fields | changes)


def check_invariants(database: Database) -> None:
    """Verifies that keys and totals are those of the payments."""
    for name, query in _VIOLATIONS.items():
        assert rows(database, query) == [], name


@dataclass(kw_only=True)
class PaymentWrite(AnyWrite):
    """A mutation that stores payments."""

    correlation_ids: Sequence[str]


@dataclass
class RecordedPayments(ConcurrentCallers):
    """Stores of payments by concurrent callers."""

    writes: list[PaymentWrite] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def keep_writing(self) -> None:
        """Stores payments, alone and in batches, each of which repeats a payment."""
        while not self.stopped:
            number = next(self._numbers)
            stored = await self.write_until_acknowledged(self._single(number))
            batch = [next(self._numbers) for _ in range(BATCH_SIZE)]
            await self.write_until_acknowledged(self._batch([*batch, number] if stored else batch))

    def check(self, database: Database, *, allowed: Collection[str] = TRANSIENT_ERRORS) -> None:
        """Verifies that each acknowledged write took effect once, and every other completely or not at all."""
        self.check_errors(allowed)
        check_invariants(database)
        stored = {row["correlation_id"] for row in rows(database, "SELECT correlation_id FROM vsync.payments")}
        kept = {str(row["request_id"]) for row in rows(database, "SELECT request_id FROM vsync.request_ids")}
        audited = {
            row["correlation_id"]: row["times"]
            for row in rows(database, "SELECT correlation_id, count(*) AS times FROM vsync.audit_logs GROUP BY 1")
        }
        due: set[str] = set()
        for write in self.writes:
            took_effect = write.request_id in kept
            assert took_effect or not write.acknowledged, f"acknowledged and lost: {write}"
            assert audited.pop(write.request_id, 0) == took_effect, f"not audited once: {write}"
            due |= set(write.correlation_ids) if took_effect else set()
        assert stored == due
        assert not audited, "an effect without a write"

    def _single(self, number: int) -> PaymentWrite:
        request = pb.StorePaymentRequest(payment=a_payment(number), request_id=a_request_id())
        return self._record("StorePayment", request, [number])

    def _batch(self, numbers: Sequence[int]) -> PaymentWrite:
        request = pb.BatchStorePaymentsRequest(payments=map(a_payment, numbers), request_id=a_request_id())
        return self._record("BatchStorePayments", request, numbers)

    def _record(
        self, method: str, request: pb.StorePaymentRequest | pb.BatchStorePaymentsRequest, numbers: Sequence[int]
    ) -> PaymentWrite:
        ids = [a_payment(number).correlation_id for number in numbers]
        write = PaymentWrite(method=method, request=request, request_id=request.request_id, correlation_ids=ids)
        self.writes.append(write)
        return write
