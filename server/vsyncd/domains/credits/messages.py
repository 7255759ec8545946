"""Reads messages of credits, and creates them from records."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol
from uuid import UUID

from vsync.credits.v1 import credit_pb2 as pb

from vsyncd.core.paging import decode_page_token, encode_page_token
from vsyncd.core.tenants import Tenant
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.credits.records import (
    MAX_ACCOUNT_CHARS,
    MAX_AMOUNT,
    MAX_REFERENCE_CHARS,
    MIN_AMOUNT,
    Account,
    Kind,
    NewTransaction,
    Transaction,
    amount_text,
)

# A page of transactions without a token begins at the newest one.
NEWEST: Final = 2**63 - 1
_CENT: Final = Decimal("0.01")
_NUMBER_BYTES: Final = 8


class _Posting(Protocol):
    account: str
    reference: str


def read_account(validator: Validator, value: str) -> str:
    """Returns the name of an account."""
    return validator.identifier("account", value, max_chars=MAX_ACCOUNT_CHARS)


def read_transaction(
    request: _Posting,
    kind: Kind,
    validator: Validator,
    *,
    amount: Decimal | None,
    reservation_id: UUID | None = None,
    expires_at: datetime | None = None,
) -> NewTransaction:
    """Returns a transaction of a request."""
    return NewTransaction(
        account=read_account(validator, request.account),
        kind=kind,
        amount=amount,
        reference=validator.text("reference", request.reference, max_chars=MAX_REFERENCE_CHARS),
        reservation_id=reservation_id,
        expires_at=expires_at,
    )


def read_amount(validator: Validator, value: str) -> Decimal:
    """Returns an amount with two decimals."""
    return validator.decimal("amount", value, scale=2, min_value=MIN_AMOUNT, max_value=MAX_AMOUNT).quantize(_CENT)


def read_expiry(validator: Validator, request: pb.ReserveRequest, max_days: int) -> datetime:
    """Returns when a reservation expires. The database checks that this is in the future."""
    expires_at = validator.required_time("", request, "expires_at", round_down=True)
    if max_days and expires_at > datetime.now(UTC) + timedelta(days=max_days):
        validator.add("expires_at", f"must be within {max_days:,} days")
    return expires_at


def account_message(account: Account) -> pb.Account:
    """Returns the message of an account."""
    return pb.Account(
        account=account.account,
        available=amount_text(account.available),
        reserved=amount_text(account.reserved),
        transactions=account.transactions,
        opened_at=timestamp(account.opened_at),
        closed_at=timestamp(account.closed_at),
    )


def transaction_message(transaction: Transaction) -> pb.Transaction:
    """Returns the message of a transaction."""
    return pb.Transaction(
        id=str(transaction.id),
        account=transaction.account,
        number=transaction.number,
        kind=pb.TransactionKind.Name(transaction.kind),  # type: ignore[arg-type]  # the name of a value
        amount=amount_text(transaction.amount),
        available=amount_text(transaction.available),
        reserved=amount_text(transaction.reserved),
        reference=transaction.reference or "",
        reservation_id=str(transaction.reservation_id or ""),
        expires_at=timestamp(transaction.expires_at),
        created_at=timestamp(transaction.created_at),
    )


def decode_account(token: str, tenant: Tenant) -> str:
    """Returns the account in a page token, or an empty text for the first page. Raises InvalidFields."""
    return decode_page_token(token, "ListAccounts", tenant).decode() if token else ""


def encode_account(account: str | None, tenant: Tenant) -> str:
    """Returns the page token after an account, or an empty text on the last page."""
    return "" if account is None else encode_page_token(account.encode(), "ListAccounts", tenant)


def decode_number(token: str, tenant: Tenant, account: str) -> int:
    """Returns the number below which the page begins. Raises InvalidFields."""
    if not token:
        return NEWEST
    return int.from_bytes(decode_page_token(token, "ListTransactions", tenant, account))


def encode_number(number: int | None, tenant: Tenant, account: str) -> str:
    """Returns the page token below a number, or an empty text on the last page."""
    if number is None:
        return ""
    return encode_page_token(number.to_bytes(_NUMBER_BYTES), "ListTransactions", tenant, account)
