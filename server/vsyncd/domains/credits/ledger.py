"""Posts transactions: checks them under the lock of the account, changes its balances, and writes its ledger.

Concurrent credits, debits and reservations of a tenant share a statement. With their accounts locked, it computes the
running balances of each with a window function, updates each account once and writes one row per transaction. What it
does not decide (repeated references, unknown and closed accounts, captures and releases) is executed one by one.
"""

from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple

from vsyncd.core.errors import InvalidFields, Violation
from vsyncd.core.ids import time_of
from vsyncd.core.tenants import audit_tenant
from vsyncd.domains.credits.records import (
    COLUMNS,
    MAX_AMOUNT,
    Account,
    AccountClosed,
    AccountNotFound,
    BalanceLimit,
    InsufficientCredits,
    Kind,
    NewTransaction,
    ReferenceReused,
    Reservation,
    ReservationClosed,
    ReservationExpired,
    ReservationNotFound,
    State,
    Transaction,
)
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Session, queries
from vsyncd.postgres.single_statement import Change, SingleStatement

# The columns of a change in the grouped statement.
GROUPED_COLUMNS: Final = (
    "account text, kind smallint, amount numeric, reference text, expires_at timestamptz, available_change numeric,"
    " reserved_change numeric"
)
_ZERO: Final = Decimal(0)


class _Changes(NamedTuple):
    """What a transaction adds to the balances."""

    available: Decimal
    reserved: Decimal = _ZERO


class _Position(NamedTuple):
    """The place of a transaction in the ledger: its number, and the balances after it."""

    number: int
    available: Decimal
    reserved: Decimal


class Ledger:
    """The ledgers of all accounts. Mutations have the tenant of the caller."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.credits", database.schema, **COLUMNS)
        self._grouped = SingleStatement(
            database,
            self._queries["post_many"],
            columns=GROUPED_COLUMNS,
            key="audit_id",
            before=self._queries["running"],
            lock=self._queries["lock_accounts"],
            returning=self._queries["decisions"],
            coalesce="post_credits",
        )

    async def post(self, mutation: Mutation, new: NewTransaction) -> Transaction:
        """Posts a transaction, or returns the one that the account has with this reference and equal content.

        Raises the errors of `records`.
        """
        # The number is not known before the account is locked.
        mutation = replace(mutation, resource=f"credits/{mutation.audit_id}")
        otherwise = partial(self._post_one, mutation, new)
        if new.amount is None or new.kind not in {Kind.CREDIT, Kind.DEBIT, Kind.RESERVE}:
            return await otherwise()
        changes = _changes(new, new.amount, None)
        row = {
            "account": new.account,
            "kind": new.kind.value,
            "amount": str(new.amount),
            "reference": new.reference,
            "expires_at": new.expires_at,
            "available_change": str(changes.available),
            "reserved_change": str(changes.reserved),
        }
        change = Change(mutation, row, b"", audit_tenant(mutation.tenant))
        return await self._grouped.decide(change, partial(_decided, mutation, new, new.amount), otherwise)

    async def _post_one(self, mutation: Mutation, new: NewTransaction) -> Transaction:
        async def work(session: Session) -> Outcome[Transaction]:
            account = await self._lock(session, mutation, new)
            reservation = await self._reservation(session, mutation, new)
            amount = new.amount if new.amount is not None else reservation.amount if reservation else _ZERO
            existing = await self._find(session, mutation, new)
            if existing is not None:
                return Outcome(_require_equal(existing, new, amount), b"", changed=False)
            await self._check_open(session, account, new, reservation)
            changes = _changes(new, amount, reservation)
            transaction = _transaction(mutation, new, amount, _next(account, amount, changes))
            await self._store(session, mutation, transaction, changes)
            return Outcome(transaction, b"", audit_tenant(mutation.tenant))

        async def replay(session: Session, _answer: bytes) -> Transaction:
            existing = await self._find(session, mutation, new)
            if existing is None:
                raise AssertionError("the ledger is append-only")
            return existing

        return await self._mutations.execute(mutation, work, replay)

    async def _lock(self, session: Session, mutation: Mutation, new: NewTransaction) -> Account:
        parameters = {"tenant": mutation.tenant, "account": new.account}
        row = await session.one(self._queries["lock_account"], parameters)
        if row is None:
            raise AccountNotFound
        return Account._make(row)

    async def _reservation(self, session: Session, mutation: Mutation, new: NewTransaction) -> Reservation | None:
        if new.reservation_id is None:
            return None
        parameters = {"tenant": mutation.tenant, "account": new.account, "id": new.reservation_id}
        row = await session.one(self._queries["get_reservation"], parameters)
        return None if row is None else Reservation._make(row)

    async def _find(self, session: Session, mutation: Mutation, new: NewTransaction) -> Transaction | None:
        parameters = {"tenant": mutation.tenant, "account": new.account, "reference": new.reference}
        row = await session.one(self._queries["get_by_reference"], parameters)
        return None if row is None else Transaction._make(row)

    async def _check_open(
        self, session: Session, account: Account, new: NewTransaction, reservation: Reservation | None
    ) -> None:
        if account.closed_at is not None:
            raise AccountClosed
        if new.kind is Kind.RESERVE:
            row = await session.single(self._queries["has_expired"], {"expires_at": new.expires_at})
            if row[0]:
                raise ReservationExpired
        elif new.reservation_id is not None:
            if reservation is None:
                raise ReservationNotFound
            if reservation.state != State.OPEN:
                raise ReservationClosed(State(reservation.state))
            if new.amount is not None and new.amount > reservation.amount:
                raise InvalidFields([Violation("amount", "must not exceed the amount of the reservation")])

    async def _store(self, session: Session, mutation: Mutation, transaction: Transaction, changes: _Changes) -> None:
        parameters: dict[str, Any] = {
            "tenant": mutation.tenant,
            **transaction._asdict(),
            "available_change": changes.available,
            "reserved_change": changes.reserved,
        }
        await session.run(self._queries["post_one"], parameters)
        if transaction.kind == Kind.RESERVE:
            await session.run(self._queries["insert_reservation"], parameters)
        elif transaction.reservation_id is not None:
            state = State.CAPTURED if transaction.kind == Kind.CAPTURE else State.RELEASED
            closing = {**parameters, "id": transaction.reservation_id, "state": state.value}
            await session.run(self._queries["close_reservation"], closing)


def _changes(new: NewTransaction, amount: Decimal, reservation: Reservation | None) -> _Changes:
    match new.kind:
        case Kind.CREDIT:
            return _Changes(amount)
        case Kind.DEBIT:
            return _Changes(-amount)
        case Kind.RESERVE:
            return _Changes(-amount, amount)
        case _:
            whole = reservation.amount if reservation else amount
            taken = amount if new.kind is Kind.CAPTURE else _ZERO
            return _Changes(whole - taken, -whole)


def _next(account: Account, amount: Decimal, changes: _Changes) -> _Position:
    """Returns the next position of the account. Raises InsufficientCredits and BalanceLimit."""
    available, reserved = account.available + changes.available, account.reserved + changes.reserved
    if available < 0:
        raise InsufficientCredits(account.available, amount)
    if available + reserved > MAX_AMOUNT:
        raise BalanceLimit
    return _Position(account.transactions + 1, available, reserved)


def _decided(mutation: Mutation, new: NewTransaction, amount: Decimal, value: list[Any]) -> Transaction:
    """Returns the transaction of a decision of the grouped statement. Raises InsufficientCredits and BalanceLimit."""
    is_accepted, number, available, reserved = value
    if is_accepted:
        return _transaction(mutation, new, amount, _Position(number, Decimal(available), Decimal(reserved)))
    if new.kind is Kind.CREDIT:
        raise BalanceLimit
    raise InsufficientCredits(Decimal(available), amount)


def _transaction(mutation: Mutation, new: NewTransaction, amount: Decimal, position: _Position) -> Transaction:
    return Transaction(
        id=mutation.audit_id,
        account=new.account,
        number=position.number,
        kind=new.kind.value,
        amount=amount,
        available=position.available,
        reserved=position.reserved,
        reference=new.reference,
        reservation_id=mutation.audit_id if new.kind is Kind.RESERVE else new.reservation_id,
        expires_at=new.expires_at,
        created_at=time_of(mutation.audit_id),
    )


def _require_equal(existing: Transaction, new: NewTransaction, amount: Decimal) -> Transaction:
    """Raises ReferenceReused unless the transaction has the content of the new one."""
    reservation_id = existing.id if new.kind is Kind.RESERVE else new.reservation_id
    content = (new.kind.value, amount, reservation_id, new.expires_at)
    if (existing.kind, existing.amount, existing.reservation_id, existing.expires_at) != content:
        raise ReferenceReused(existing)
    return existing
