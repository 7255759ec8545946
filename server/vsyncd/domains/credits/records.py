"""Records of accounts, their transactions and reservations."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.errors import AlreadyExists, FailedPrecondition, NotFound
from vsyncd.postgres.tables import RecordTable

MAX_ACCOUNT_CHARS: Final = 100
MAX_REFERENCE_CHARS: Final = 255
MIN_AMOUNT: Final = Decimal("0.01")
MAX_AMOUNT: Final = Decimal("9999999999999999.99")


class Kind(IntEnum):
    """What a transaction did: the values of the table and of TransactionKind."""

    CREDIT = 1
    DEBIT = 2
    RESERVE = 3
    CAPTURE = 4
    RELEASE = 5
    EXPIRE = 6


class State(IntEnum):
    """The state of a reservation."""

    OPEN = 1
    CAPTURED = 2
    RELEASED = 3
    EXPIRED = 4


class Account(NamedTuple):
    """An account, as queries select it (ACCOUNT_COLUMNS)."""

    account: str
    available: Decimal
    reserved: Decimal
    transactions: int
    opened_at: datetime
    closed_at: datetime | None


class NewTransaction(NamedTuple):
    """A validated transaction of a caller. Without an amount, the whole reservation is captured or released."""

    account: str
    kind: Kind
    amount: Decimal | None
    reference: str
    reservation_id: UUID | None = None
    expires_at: datetime | None = None


class Transaction(NamedTuple):
    """A row of the ledger, as queries select it (TRANSACTION_COLUMNS)."""

    id: UUID
    account: str
    number: int
    kind: int
    amount: Decimal
    available: Decimal
    reserved: Decimal
    reference: str | None
    reservation_id: UUID | None
    expires_at: datetime | None
    created_at: datetime


class Reservation(NamedTuple):
    """A reservation, as queries select it (RESERVATION_COLUMNS)."""

    id: UUID
    account: str
    amount: Decimal
    state: int
    expires_at: datetime
    closed_at: datetime | None


ACCOUNT_COLUMNS: Final = ", ".join(Account._fields)
TRANSACTION_COLUMNS: Final = ", ".join(Transaction._fields)
RESERVATION_COLUMNS: Final = ", ".join(Reservation._fields)
# The fragments of queries.sql.
COLUMNS: Final = {
    "account_columns": ACCOUNT_COLUMNS,
    "transaction_columns": TRANSACTION_COLUMNS,
    "reservation_columns": RESERVATION_COLUMNS,
}


class AccountPage(NamedTuple):
    """Accounts, and the name after which the next page begins, or None on the last page."""

    accounts: Sequence[Account]
    next_after: str | None


class TransactionPage(NamedTuple):
    """Transactions, and the number below which the next page begins, or None on the last page."""

    transactions: Sequence[Transaction]
    next_below: int | None


class AccountNotFound(NotFound):
    """The tenant has no such account."""

    def __init__(self) -> None:
        super().__init__("ACCOUNT_NOT_FOUND", "The account does not exist.")


class AccountClosed(FailedPrecondition):
    """The account is closed."""

    def __init__(self) -> None:
        super().__init__("ACCOUNT_CLOSED", "The account is closed.")


class InsufficientCredits(FailedPrecondition):
    """The available balance is less than the amount."""

    def __init__(self, available: Decimal, needed: Decimal) -> None:
        metadata = {"available": amount_text(available), "needed": amount_text(needed)}
        super().__init__("INSUFFICIENT_CREDITS", "The available balance is too low.", metadata=metadata)


class BalanceLimit(FailedPrecondition):
    """The balance would exceed MAX_AMOUNT."""

    def __init__(self) -> None:
        super().__init__(
            "BALANCE_LIMIT", "The balance would be too large.", metadata={"limit": amount_text(MAX_AMOUNT)}
        )


class ReservationNotFound(NotFound):
    """The account has no such reservation."""

    def __init__(self) -> None:
        super().__init__("RESERVATION_NOT_FOUND", "The reservation does not exist.")


class ReservationClosed(FailedPrecondition):
    """The reservation was captured or released, or it has expired."""

    def __init__(self, state: State) -> None:
        super().__init__("RESERVATION_CLOSED", "The reservation is closed.", metadata={"state": state.name})


class ReservationExpired(FailedPrecondition):
    """The reservation would have expired before it is made."""

    def __init__(self) -> None:
        super().__init__("RESERVATION_EXPIRED", "The time of expiry has passed.")


class ReferenceReused(AlreadyExists):
    """The account has another transaction with this reference."""

    def __init__(self, existing: Transaction) -> None:
        metadata = {"existing_id": str(existing.id)}
        super().__init__("REFERENCE_REUSED", "The reference has another transaction.", metadata=metadata)


def amount_text(amount: Decimal) -> str:
    """Returns an amount with two decimals."""
    return f"{amount:.2f}"


TABLES: Final = (
    RecordTable(Account, "credit_accounts", max_chars={"account": MAX_ACCOUNT_CHARS}),
    RecordTable(
        Transaction,
        "credit_transactions",
        max_chars={"account": MAX_ACCOUNT_CHARS, "reference": MAX_REFERENCE_CHARS},
    ),
    RecordTable(Reservation, "credit_reservations", max_chars={"account": MAX_ACCOUNT_CHARS}),
)
