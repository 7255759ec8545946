"""Helpers for tests of credits: requests, the invariants of balances and ledgers, and recorded writes."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final

import grpc
from vsync.credits.v1 import credit_pb2 as pb
from vsyncd.core.timestamps import timestamp
from vsyncd.domains.credits.verification import PROBLEMS

from tests.harness.cids import a_request_id, rows
from tests.harness.clusters import Database
from tests.harness.recorded_writes import TRANSIENT_ERRORS, AnyWrite, ConcurrentCallers, retry_delay

ACCOUNTS: Final = ("alpha", "beta", "gamma")
# What callers may get in any state of the database.
REFUSALS: Final = frozenset(
    f"FAILED_PRECONDITION {reason}" for reason in ("INSUFFICIENT_CREDITS", "RESERVATION_CLOSED", "RESERVATION_EXPIRED")
)
# The share of the acknowledged transactions that are sent again.
_REPEATED: Final = 0.1
CREDIT, DEBIT, RESERVE, CAPTURE, RELEASE, EXPIRE = range(1, 7)


def in_days(days: float) -> Any:
    """Returns a time of the future, for a Timestamp field."""
    return timestamp(datetime.now(UTC) + timedelta(days=days))


def credit(account: str, amount: object, reference: str, **fields: Any) -> pb.CreditRequest:
    """Returns a request that credits an account."""
    return pb.CreditRequest(account=account, amount=str(amount), reference=reference, **fields)


def debit(account: str, amount: object, reference: str, **fields: Any) -> pb.DebitRequest:
    """Returns a request that debits an account."""
    return pb.DebitRequest(account=account, amount=str(amount), reference=reference, **fields)


def reserve(account: str, amount: object, reference: str, **fields: Any) -> pb.ReserveRequest:
    """Returns a request that reserves an amount, by default for a day."""
    given = {"expires_at": in_days(1)} | fields
    return pb.ReserveRequest(account=account, amount=str(amount), reference=reference, **given)


def check_invariants(database: Database) -> None:
    """Verifies that balances, ledgers and reservations agree: the problems that `vsyncd credits verify` finds."""
    for name, query in PROBLEMS.items():
        assert rows(database, query.replace('"vsync"', "vsync")) == [], name


@dataclass(kw_only=True)
class CreditWrite(AnyWrite):
    """A transaction, by its reference."""

    reference: str
    account: str


@dataclass
class RecordedCredits(ConcurrentCallers):
    """Transactions by concurrent callers, which share a few accounts."""

    # The maximum number of seconds that a caller waits after each round.
    max_pause: float = 0.0
    writes: list[CreditWrite] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _random: Random = field(default_factory=lambda: Random(1))  # noqa: S311  no secret

    async def open_accounts(self) -> None:
        """Opens the accounts and credits each."""
        for account in ACCOUNTS:
            await self.stub.OpenAccount(pb.OpenAccountRequest(account=account))
            await self._post("Credit", credit(account, 500, f"first-{account}"))

    async def keep_writing(self) -> None:
        """Credits, debits and reserves, and captures, releases or leaves the reservations to their expiry."""
        while not self.stopped:
            account, number = self._random.choice(ACCOUNTS), next(self._numbers)
            expires_at = in_days(self._random.choice([1, 1, 0.5 / 86_400]))
            *_, reserved = await asyncio.gather(
                self._post("Credit", credit(account, self._amount(), f"credit-{number}")),
                self._post("Debit", debit(account, self._amount(), f"debit-{number}")),
                self._post("Reserve", reserve(account, self._amount(), f"reserve-{number}", expires_at=expires_at)),
            )
            await asyncio.sleep(self._random.uniform(0, self.max_pause))
            if not reserved.acknowledged:
                continue
            given = {
                "account": account,
                "reservation_id": reserved.answer.transaction.reservation_id,
                "reference": f"close-{number}",
            }
            if self._random.random() < 0.5:
                await self._post("Capture", pb.CaptureRequest(**given, amount="0.01"))
            else:
                await self._post("Release", pb.ReleaseRequest(**given))

    def check(self, database: Database, *, allowed: Collection[str] = TRANSIENT_ERRORS) -> None:
        """Verifies that each acknowledged transaction took effect once, and every other completely or not at all."""
        self.check_errors({*allowed, *REFUSALS})
        self.check_effects(database)

    def check_effects(self, database: Database) -> None:
        """Verifies the effects of all writes."""
        check_invariants(database)
        posted = {
            (row["account"], row["reference"])
            for row in rows(database, "SELECT account, reference FROM vsync.credit_transactions WHERE kind <> 6")
        }
        audited: dict[str, int] = defaultdict(int)
        for row in rows(database, "SELECT correlation_id, action FROM vsync.audit_logs"):
            audited[row["correlation_id"]] += not row["action"].endswith(("OpenAccount", "ExpireReservations"))
        for write in self.writes:
            took_effect = (write.account, write.reference) in posted
            assert took_effect or not write.acknowledged, f"acknowledged and lost: {write}"
            assert audited.pop(write.request_id, 0) == took_effect, f"not audited once: {write}"
            posted.discard((write.account, write.reference))
        assert not posted, "an effect without a write"
        assert not any(audited.values()), "an audit entry without a write"

    async def _post(self, method: str, request: Any) -> CreditWrite:
        """Sends a transaction until it is acknowledged or refused."""
        request.request_id = a_request_id()
        write = CreditWrite(
            method=method,
            request=request,
            request_id=request.request_id,
            reference=request.reference,
            account=request.account,
        )
        self.writes.append(write)
        while (error := await self.attempt(write)) is not None:
            if self.stopped or error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                break
            await asyncio.sleep(retry_delay(error) or self._random.uniform(0.02, 0.1))
        if write.acknowledged and self._random.random() < _REPEATED:
            first = write.answer
            await self.attempt(write)
            assert write.answer == first, "a repeat has another answer"
        return write

    def _amount(self) -> Decimal:
        return Decimal(self._random.randint(1, 20_000)) / 100
