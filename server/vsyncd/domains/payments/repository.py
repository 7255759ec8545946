"""Stores and reads payments."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import starmap
from typing import Any, Final
from uuid import UUID

from vsyncd.core.errors import AlreadyExists, NotFound, OutOfRange
from vsyncd.core.ids import new_ids
from vsyncd.core.validation import NO_ID
from vsyncd.domains.payments.records import (
    PAYMENT_COLUMNS,
    NewPayment,
    Page,
    Payment,
    PaymentFilter,
    Position,
    ProcessorTotal,
    StoredPayment,
)
from vsyncd.domains.payments.summaries import END_OF_TIME, divide
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import Contention
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Session, queries
from vsyncd.postgres.single_statement import Change, SingleStatement

# The payments that one page reads at most, with the filter `processor`.
MAX_SCANNED_ROWS: Final = 10_000
# Keys deleted in one transaction.
_DROP_STEP: Final = 5_000
_BEGIN_OF_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = Position(_BEGIN_OF_TIME, NO_ID)
_NEW_PAYMENT_COLUMNS: Final = (
    "payment_key text, amount numeric, processor text, requested_at timestamptz, processed_at timestamptz"
)
_ID_BYTES: Final = 16


class PaymentRepository:
    """The tables of payments and their totals."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.payments", database.schema, columns=PAYMENT_COLUMNS)
        self._single_store = SingleStatement(
            database,
            self._queries["store"],
            columns=_NEW_PAYMENT_COLUMNS,
            key="audit_id",
            before=self._queries["insert_keys"],
            coalesce="store_payment",
        )

    async def store(self, mutation: Mutation, new: NewPayment) -> StoredPayment:
        """Stores a payment with the audit entry's id. Concurrent calls share a statement.

        Returns the existing payment if its content is equal. Raises AlreadyExists (PAYMENT_DIFFERS).
        """
        mutation = replace(mutation, resource=f"payments/{mutation.audit_id}")
        result = StoredPayment(Payment.created(mutation.audit_id, new), stored=True)

        async def otherwise() -> StoredPayment:
            [stored] = await self._store(mutation, [new], [mutation.audit_id])
            return stored

        # `correlation_id` is the column of the audit entry.
        row = {"payment_key": new.correlation_id, **new._asdict()}
        del row["correlation_id"]
        return await self._single_store.execute(Change(mutation, row, _answer([result])), result, otherwise)

    async def store_batch(self, mutation: Mutation, new_payments: Sequence[NewPayment]) -> list[StoredPayment]:
        """Stores all payments that do not exist yet. Raises AlreadyExists with the index of the first that differs."""
        return await self._store(mutation, new_payments, new_ids(len(new_payments)))

    async def _store(
        self, mutation: Mutation, new_payments: Sequence[NewPayment], identifiers: Sequence[UUID]
    ) -> list[StoredPayment]:
        async def work(session: Session) -> Outcome[list[StoredPayment]]:
            results = await self._insert(session, new_payments, identifiers)
            count = sum(result.stored for result in results)
            payload = {"payments": len(results), "stored": count} if len(results) > 1 else None
            return Outcome(results, _answer(results), payload, changed=count > 0)

        async def replay(_session: Session, answer: bytes) -> list[StoredPayment]:
            return _results(answer, new_payments)

        return await self._mutations.execute(mutation, work, replay)

    async def _insert(
        self, session: Session, new_payments: Sequence[NewPayment], identifiers: Sequence[UUID]
    ) -> list[StoredPayment]:
        rows = json.dumps(
            [{"id": each[0], **each[1]._asdict()} for each in zip(identifiers, new_payments, strict=True)], default=str
        )
        stored = {row[0] for row in await session.all(self._queries["store_many"], {"rows": rows})}
        results = [
            StoredPayment(Payment.created(*each), each[0] in stored)
            for each in zip(identifiers, new_payments, strict=True)
        ]
        if len(stored) == len(results):
            return results
        missing = [result.payment.correlation_id for result in results if not result.stored]
        query, parameters = self._queries["get_by_correlation_ids"], {"correlation_ids": missing}
        existing = {row[2]: Payment._make(row) for row in await session.all(query, parameters)}
        for index, result in enumerate(results):
            if not result.stored:
                payment = existing.get(result.payment.correlation_id)
                if payment is None:
                    raise Contention  # it is past its retention, and its key is about to be deleted
                _require_equal(payment, result.payment.content, index if len(results) > 1 else None)
                results[index] = StoredPayment(payment, stored=False)
        return results

    async def get(self, *, identifier: UUID | None = None, correlation_id: str = "") -> Payment:
        """Returns the payment with an id, or with a correlation id. Raises NotFound (PAYMENT_NOT_FOUND)."""
        if identifier is not None:
            query, parameters = self._queries["get_by_id"], dict[str, Any](id=identifier)
        else:
            query, parameters = self._queries["get_by_correlation_ids"], {"correlation_ids": [correlation_id]}
        row = await self._database.read(lambda session: session.one(query, parameters), ReadMode.PRIMARY_PREFERRED)
        if row is None:
            raise NotFound("PAYMENT_NOT_FOUND", "The payment does not exist.")
        return Payment._make(row)

    async def page(self, selected: PaymentFilter, *, after: Position | None, size: int) -> Page:
        """Returns up to `size` payments after a position, in the order of processed_at and id."""
        # Ids are positive, so NO_ID is before every payment of the same time.
        start = after or _FIRST._replace(processed_at=selected.processed_from or _BEGIN_OF_TIME)
        scan = size + 1 if selected.processor is None else MAX_SCANNED_ROWS
        parameters = {
            "after": start.processed_at,
            "after_id": start.id,
            "below": selected.processed_below or END_OF_TIME,
            "processor": selected.processor,
            "scan": scan,
            "size": size,
        }
        query = self._queries["list"]
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        payments = [Payment._make(row[:7]) for row in rows if row[0] is not None]
        scanned, scan_end = rows[0][7], Position(*rows[0][8:])
        last = Position(payments[-1].processed_at, payments[-1].id) if len(payments) == size else scan_end
        is_last_page = scanned < scan and (len(payments) < size or last == scan_end)
        return Page(payments, None if is_last_page else last)

    async def summary(self, begins: datetime | None, ends: datetime | None) -> list[ProcessorTotal]:
        """Returns the total of each processor with payments in [begins, ends). Raises OutOfRange (PAYMENTS_GONE)."""
        if begins is None and ends is None:
            query = self._queries["summary"]
            rows = await self._database.read(lambda session: session.all(query), ReadMode.REPLICA_PREFERRED)
            return list(starmap(ProcessorTotal, rows))
        divided = divide(begins, ends)
        parameters = {
            "first_hour": divided.first_hour or _BEGIN_OF_TIME,
            "below_hour": divided.below_hour or END_OF_TIME,
            "hours": [part.hour for part in divided.parts],
            "begins": [part.begins for part in divided.parts],
            "ends": [part.ends for part in divided.parts],
        }
        query = self._queries["summary_of_range"]
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        if not rows[0][0]:
            raise OutOfRange("PAYMENTS_GONE", "Payments of the first or last hour are past retention; use whole hours.")
        return [ProcessorTotal(*row[1:]) for row in rows if row[1] is not None]

    async def fold_totals(self) -> int:
        """Adds the deltas of totals to the totals. Returns their number."""
        row = await self._database.transaction(lambda session: session.single(self._queries["fold_totals"]))
        return int(row[0])

    async def drop_keys(self) -> int:
        """Deletes the correlation ids of payments whose partition was dropped. Returns their number."""
        query, parameters = self._queries["drop_keys"], {"step": _DROP_STEP}
        dropped, step = 0, _DROP_STEP
        while step == _DROP_STEP:
            row = await self._database.transaction(lambda session: session.single(query, parameters), repeatable=True)
            step = int(row[0])
            dropped += step
        return dropped


def _require_equal(existing: Payment, new: NewPayment, index: int | None) -> None:
    """Raises AlreadyExists (PAYMENT_DIFFERS)."""
    pairs = zip(NewPayment._fields, existing.content, new, strict=True)
    different = [name for name, there, here in pairs if there != here]
    if different:
        metadata = {"fields": ",".join(different), "existing_id": str(existing.id)}
        if index is not None:
            metadata["index"] = str(index)
        raise AlreadyExists("PAYMENT_DIFFERS", "The correlation id has another payment.", metadata=metadata)


def _answer(results: Sequence[StoredPayment]) -> bytes:
    """Returns the id of each payment, and a byte for whether it was stored."""
    return b"".join(result.payment.id.bytes + bytes([result.stored]) for result in results)


def _results(answer: bytes, new_payments: Sequence[NewPayment]) -> list[StoredPayment]:
    step = _ID_BYTES + 1
    parts = [answer[at : at + step] for at in range(0, len(answer), step)]
    return [
        StoredPayment(Payment.created(UUID(bytes=part[:_ID_BYTES]), new), stored=part[_ID_BYTES] == 1)
        for part, new in zip(parts, new_payments, strict=True)
    ]
