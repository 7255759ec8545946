"""Shows credits: concurrent debits of one account, references that are used twice, reservations and their expiry."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import vsync
from vsync.credits.v1 import credit_pb2 as pb
from vsync.credits.v1.credit_pb2_grpc import CreditServiceStub
from vsyncd.core.timestamps import timestamp

from scripts.demo_screen import Check, Screen

DEBITS = 1_000
_CALLERS = 64
_REPEATS = 100
_FUNDED = 800
_EXPIRY_TIMEOUT_S = 60


async def demonstrate(screen: Screen, target: str) -> list[Check]:
    """Runs the demonstration. Returns the checks."""
    async with vsync.connect(target) as client:
        credits_: Any = client.stub(CreditServiceStub)
        return [
            *await _debit(screen, credits_),
            *await _reserve(screen, credits_),
            *await _expire(screen, credits_),
            *await _explain(screen, credits_),
        ]


async def _debit(screen: Screen, credits_: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step(f"1  Debit {DEBITS:,} times from {_CALLERS} callers, with funds for {_FUNDED}, some twice", "Debit")
    await credits_.OpenAccount(pb.OpenAccountRequest(account="acme"))
    await credits_.Credit(pb.CreditRequest(account="acme", amount=str(_FUNDED), reference="invoice"))
    numbers = iter([*range(DEBITS), *range(_REPEATS)])
    posted: set[int] = set()
    refused: set[str] = set()

    async def keep_debiting() -> None:
        for number in numbers:
            request = pb.DebitRequest(account="acme", amount="1", reference=f"order-{number}")
            try:
                posted.add((await credits_.Debit(request)).transaction.number)
            except vsync.CallError as error:
                refused.add(error.reason)

    began = time.monotonic()
    await asyncio.gather(*(keep_debiting() for _ in range(_CALLERS)))
    screen.say(f"{(DEBITS + _REPEATS) / (time.monotonic() - began):,.0f} calls/s of one account")
    return [
        Check("debits posted once", _FUNDED, len(posted)),
        Check("the others are refused", "INSUFFICIENT_CREDITS", ", ".join(sorted(refused))),
        Check("available", "0.00", (await _account(credits_)).available),
    ]


async def _reserve(screen: Screen, credits_: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("2  Reserve 50, capture 20 of it", "Reserve, Capture")
    await credits_.Credit(pb.CreditRequest(account="acme", amount="50", reference="invoice-2"))
    held = await _hold(credits_, "hold", timedelta(days=1))
    await credits_.Capture(
        pb.CaptureRequest(account="acme", reservation_id=held, amount="20", reference="hold captured")
    )
    account = await _account(credits_)
    return [Check("available and reserved", "30.00, 0.00", f"{account.available}, {account.reserved}")]


async def _expire(screen: Screen, credits_: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("3  Reserve 50 for one second, and wait for the job that releases it", "Reserve")
    await credits_.Credit(pb.CreditRequest(account="acme", amount="20", reference="invoice-3"))
    await _hold(credits_, "forgotten", timedelta(seconds=1))
    began = time.monotonic()
    async with asyncio.timeout(_EXPIRY_TIMEOUT_S):
        while (await _account(credits_)).reserved != "0.00":  # noqa: ASYNC110  the server's job releases it
            await asyncio.sleep(0.1)
    screen.say(f"released after {time.monotonic() - began:.1f} s")
    account = await _account(credits_)
    return [Check("available and reserved", "50.00, 0.00", f"{account.available}, {account.reserved}")]


async def _explain(screen: Screen, credits_: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("4  Follow the ledger from the first transaction to the balance", "ListTransactions")
    ledger: list[Any] = []
    request = pb.ListTransactionsRequest(account="acme", page_size=1_000)
    while True:
        page = await credits_.ListTransactions(request)
        ledger += page.transactions
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    ledger.reverse()
    for entry in ledger[-3:]:
        screen.say(f"{entry.number}  {entry.amount:>6}  available {entry.available}, reserved {entry.reserved}")
    numbers = [entry.number for entry in ledger]
    lowest = min(min(Decimal(entry.available), Decimal(entry.reserved)) for entry in ledger)
    return [
        Check("the ledger has no gaps", "True", str(numbers == list(range(1, len(ledger) + 1)))),
        Check("no balance was negative", "True", str(lowest >= 0)),
    ]


async def _hold(credits_: Any, reference: str, duration: timedelta) -> str:  # noqa: ANN401  a stub
    expires_at = timestamp(datetime.now(UTC) + duration)
    request = pb.ReserveRequest(account="acme", amount="50", reference=reference, expires_at=expires_at)
    identifier: str = (await credits_.Reserve(request)).transaction.reservation_id
    return identifier


async def _account(credits_: Any) -> Any:  # noqa: ANN401  a stub
    return (await credits_.GetAccount(pb.GetAccountRequest(account="acme"))).account
