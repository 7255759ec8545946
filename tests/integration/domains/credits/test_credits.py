"""Accounts, transactions and reservations."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import psycopg
import pytest
from vsync.credits.v1 import credit_pb2 as pb
from vsync.v1 import audit_pb2, audit_pb2_grpc
from vsyncd.app import Application
from vsyncd.domains.credits.expiry import Expiry
from vsyncd.postgres.mutations import Mutations

from tests.harness.cids import a_request_id, execute, failure_of, info_of, rows, until
from tests.harness.clusters import Database
from tests.harness.credits import CAPTURE, EXPIRE, check_invariants, credit, debit, in_days, reserve
from tests.harness.serving import fields_of, reason_of


@pytest.fixture(autouse=True)
def _agreeing(database: Database) -> Iterator[None]:
    """Balances, ledgers and reservations agree after each test."""
    yield
    check_invariants(database)


async def opened(stub: Any, *accounts: str, amount: int = 100) -> None:
    """Opens accounts with a balance."""
    for account in accounts:
        await stub.OpenAccount(pb.OpenAccountRequest(account=account))
        await stub.Credit(credit(account, amount, "opening"))


async def account(stub: Any, name: str = "a") -> tuple[str, str, int]:
    """Returns the balances and the number of transactions of an account."""
    found = (await stub.GetAccount(pb.GetAccountRequest(account=name))).account
    return found.available, found.reserved, found.transactions


def effects(database: Database) -> tuple[int, int, int]:
    """Returns the number of transactions, their audit entries and request ids."""
    (row,) = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.credit_transactions) AS t,"
        " (SELECT count(*) FROM vsync.audit_logs WHERE action NOT LIKE '%%Account') AS a,"
        " (SELECT count(DISTINCT request_id) FROM vsync.request_ids) AS r",
    )
    return row["t"], row["a"], row["r"]


async def test_each_transaction_returns_the_balances_after_it(
    credits_: Any, audit: "audit_pb2_grpc.AuditServiceAsyncStub"
) -> None:
    await opened(credits_, "a")
    first = (await credits_.Debit(debit("a", "0.5", "order-1"))).transaction
    assert (first.number, first.amount, first.available, first.reserved) == (2, "0.50", "99.50", "0.00")
    held = (await credits_.Reserve(reserve("a", 40, "order-2"))).transaction
    assert (held.available, held.reserved, held.reservation_id) == ("59.50", "40.00", held.id)
    taken = (
        await credits_.Capture(
            pb.CaptureRequest(account="a", reservation_id=held.id, amount="15.25", reference="order-2 shipped")
        )
    ).transaction
    assert (taken.kind, taken.available, taken.reserved) == (CAPTURE, "84.25", "0.00")
    held = (await credits_.Reserve(reserve("a", "84.25", "order-3"))).transaction
    back = await credits_.Release(pb.ReleaseRequest(account="a", reservation_id=held.id, reference="order-3 cancelled"))
    assert (back.transaction.amount, back.transaction.available) == ("84.25", "84.25")
    listed = (await credits_.ListTransactions(pb.ListTransactionsRequest(account="a"))).transactions
    assert [each.number for each in listed] == [6, 5, 4, 3, 2, 1]
    assert listed[4] == first
    (entry,) = (await audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(resource=f"credits/{first.id}"))).logs
    assert (entry.id, entry.action) == (first.id, "vsync.credits.v1.CreditService/Debit")


async def test_an_account_is_opened_once_and_closed_when_it_is_empty(credits_: Any) -> None:
    await opened(credits_, "a", amount=1)
    error = await failure_of(credits_.OpenAccount(pb.OpenAccountRequest(account="a")))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_EXISTS")
    close = pb.CloseAccountRequest(account="a", request_id=a_request_id())
    error = await failure_of(credits_.CloseAccount(close))
    assert info_of(error).reason == "ACCOUNT_NOT_EMPTY"
    assert info_of(error).metadata == {"available": "1.00", "reserved": "0.00"}
    last = (await credits_.Debit(debit("a", 1, "last"))).transaction
    closed = await credits_.CloseAccount(close)
    assert closed.account.HasField("closed_at")
    assert await credits_.CloseAccount(close) == closed
    assert (await credits_.CloseAccount(pb.CloseAccountRequest(account="a"))) == closed
    for call in (credits_.Credit(credit("a", 1, "late")), credits_.Debit(debit("a", 1, "late"))):
        assert reason_of(await failure_of(call)) == "ACCOUNT_CLOSED"
    assert (await credits_.Debit(debit("a", 1, "last"))).transaction == last, "a repeat is answered again"


async def test_a_lack_of_funds_is_an_error_with_both_amounts(credits_: Any, database: Database) -> None:
    await opened(credits_, "a")
    for call in (credits_.Debit(debit("a", "100.01", "x")), credits_.Reserve(reserve("a", "100.01", "x"))):
        error = await failure_of(call)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS")
        assert info_of(error).metadata == {"available": "100.00", "needed": "100.01"}
    checked = debit("a", "100.01", "x", validate_only=True)
    assert reason_of(await failure_of(credits_.Debit(checked))) == "INSUFFICIENT_CREDITS"
    limit = "9999999999999999.99"
    error = await failure_of(credits_.Credit(credit("a", limit, "x")))
    assert (reason_of(error), info_of(error).metadata) == ("BALANCE_LIMIT", {"limit": limit})
    assert effects(database) == (1, 1, 0)


async def test_a_reference_takes_effect_once_with_one_content(credits_: Any, database: Database) -> None:
    await opened(credits_, "a", "b")
    expires_at = in_days(1)
    held = await credits_.Reserve(reserve("a", 5, "hold", expires_at=expires_at))
    capture = pb.CaptureRequest(account="a", reservation_id=held.transaction.id, reference="take")
    requests: list[tuple[Any, Any, Any]] = [
        (credits_.Debit, debit("a", 10, "order"), debit("a", 11, "order")),
        (credits_.Reserve, reserve("a", 5, "hold", expires_at=expires_at), reserve("a", 5, "hold")),
        (credits_.Capture, capture, pb.CaptureRequest(**{**_fields(capture), "amount": "4.99"})),
        (credits_.Credit, credit("a", 100, "opening"), credit("a", 10, "order")),
    ]
    for call, request, other in requests:
        first = await call(request)
        before = effects(database)
        assert await call(request) == first
        for with_id in (request, other):
            with_id.request_id = a_request_id()
        assert await call(request) == first
        error = await failure_of(call(other))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "REFERENCE_REUSED")
        assert info_of(error).metadata.keys() == {"existing_id"}
        assert effects(database)[:2] == before[:2]
    assert (await credits_.Debit(debit("b", 11, "order"))).transaction.number == 2, "another account"


def _fields(request: pb.CaptureRequest) -> dict[str, Any]:
    return {field.name: value for field, value in request.ListFields()}


async def test_a_request_id_takes_effect_once(credits_: Any, database: Database) -> None:
    await opened(credits_, "a")
    request = debit("a", 60, "order", request_id=a_request_id())
    first = await credits_.Debit(request)
    again = await asyncio.gather(*(credits_.Debit(request) for _ in range(5)))
    assert again == [first] * 5
    other = debit("a", 1, "other", request_id=request.request_id)
    assert reason_of(await failure_of(credits_.Debit(other))) == "REQUEST_ID_REUSED"
    checked = await credits_.Debit(debit("a", 40, "checked", request_id=a_request_id(), validate_only=True))
    assert checked.transaction.available == "0.00"
    assert await account(credits_) == ("40.00", "0.00", 2)
    assert effects(database) == (2, 2, 1)


async def test_every_bad_field_is_named(credits_: Any) -> None:
    for amount in ("", "0", "0.001", "-1", "1e3", "10000000000000000"):
        assert fields_of(await failure_of(credits_.Debit(debit("a", amount, "r")))) == ["amount"]
    bad = debit("", 1, "x" * 256, request_id="no")
    assert set(fields_of(await failure_of(credits_.Debit(bad)))) == {"account", "reference", "request_id"}
    assert fields_of(await failure_of(credits_.GetAccount(pb.GetAccountRequest(account="x" * 101)))) == ["account"]
    for expires_at in (None, in_days(91)):
        error = await failure_of(credits_.Reserve(reserve("a", 1, "r", expires_at=expires_at)))
        assert fields_of(error) == ["expires_at"]
    assert fields_of(await failure_of(credits_.Release(pb.ReleaseRequest(account="a", reference="r")))) == [
        "reservation_id"
    ]
    await opened(credits_, "a")
    past = reserve("a", 1, "r", expires_at=in_days(-1))
    assert reason_of(await failure_of(credits_.Reserve(past))) == "RESERVATION_EXPIRED"
    held = (await credits_.Reserve(reserve("a", 1, "r"))).transaction
    more = pb.CaptureRequest(account="a", reservation_id=held.id, amount="1.01", reference="more")
    assert fields_of(await failure_of(credits_.Capture(more))) == ["amount"]


async def test_what_does_not_exist_is_not_found(credits_: Any) -> None:
    calls = [
        credits_.GetAccount(pb.GetAccountRequest(account="none")),
        credits_.CloseAccount(pb.CloseAccountRequest(account="none")),
        credits_.Debit(debit("none", 1, "r")),
        credits_.ListTransactions(pb.ListTransactionsRequest(account="none")),
    ]
    for call in calls:
        error = await failure_of(call)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")
    await opened(credits_, "a", "b")
    held = (await credits_.Reserve(reserve("b", 1, "r"))).transaction
    for identifier in (a_request_id(), held.id):
        request = pb.ReleaseRequest(account="a", reservation_id=identifier, reference="r")
        assert reason_of(await failure_of(credits_.Release(request))) == "RESERVATION_NOT_FOUND"


async def test_concurrent_calls_of_one_account_are_decided_one_after_the_other(
    credits_: Any, database: Database
) -> None:
    await opened(credits_, "a", "b")
    calls = [credits_.Debit(debit("a", 7, f"debit-{number}")) for number in range(40)]
    calls += [credits_.Reserve(reserve("a", 3, f"reserve-{number}")) for number in range(10)]
    calls += [credits_.Credit(credit("b", 1, f"credit-{number % 5}")) for number in range(20)]
    answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {reason_of(error) for error in failed} == {"INSUFFICIENT_CREDITS"}
    available, reserved, _ = await account(credits_)
    accepted = [answer.transaction for answer in answers[:50] if not isinstance(answer, grpc.aio.AioRpcError)]
    assert len(accepted) + len(failed) == 50
    assert float(available) == 100 - sum(float(each.amount) for each in accepted) < 3
    assert float(reserved) == sum(float(each.amount) for each in accepted if each.reservation_id)
    assert sorted(each.number for each in accepted) == list(range(2, 2 + len(accepted)))
    assert await account(credits_, "b") == ("105.00", "0.00", 6)
    assert effects(database)[0] == effects(database)[1] == len(accepted) + 7


async def test_expired_reservations_are_released(credits_: Any, application: Application, database: Database) -> None:
    """By the job of `application` or by the run of this test."""
    await opened(credits_, "a", "b")
    held = [
        (await credits_.Reserve(reserve(name, 10, f"r{number}"))).transaction
        for number, name in enumerate(["a", "a", "b"])
    ]
    kept = (await credits_.Reserve(reserve("b", 5, "kept"))).transaction
    for each in held:
        execute(
            database,
            f"UPDATE vsync.credit_reservations SET expires_at = now() - interval '1 s' WHERE id = '{each.id}'",  # noqa: S608
        )
    late = pb.CaptureRequest(account="a", reservation_id=held[0].id, reference="late")
    error = await failure_of(credits_.Capture(late))
    assert (reason_of(error), info_of(error).metadata) == ("RESERVATION_CLOSED", {"state": "EXPIRED"})
    await Expiry(application.database, Mutations(application.database)).run()
    await until(lambda: expired(database) == {"a": 2, "b": 1})
    assert await account(credits_) == ("100.00", "0.00", 5)
    assert await account(credits_, "b") == ("95.00", "5.00", 4)
    listed = (await credits_.ListTransactions(pb.ListTransactionsRequest(account="a"))).transactions
    assert [(each.kind, each.reference, each.available) for each in listed[:2]] == [
        (EXPIRE, "", "100.00"),
        (EXPIRE, "", "90.00"),
    ]
    release = pb.ReleaseRequest(account="b", reservation_id=kept.id, reference="back")
    await credits_.Release(release)
    again = pb.ReleaseRequest(account="b", reservation_id=kept.id, reference="back again")
    assert info_of(await failure_of(credits_.Release(again))).metadata == {"state": "RELEASED"}
    entries = rows(database, "SELECT payload, recorded_by FROM vsync.audit_logs WHERE action LIKE '%%Expire%%'")
    assert sum(entry["payload"]["reservations"] for entry in entries) == 3
    assert {entry["recorded_by"] for entry in entries} == {"vsyncd"}
    # Only exclusive jobs have a row: the job runs in one instance at a time.
    job = "SELECT FROM vsync.job_runs WHERE name = 'expire credits' AND last_succeeded IS NOT NULL"
    await until(lambda: len(rows(database, job)) == 1)


async def test_a_locked_account_delays_only_the_expiry_of_its_own_reservations(
    credits_: Any, application: Application, database: Database
) -> None:
    """It neither blocks writers of other accounts nor keeps the run from its end."""
    await opened(credits_, "a", "b", "c")
    await credits_.Reserve(reserve("a", 1, "first"))
    for number in range(2):
        await credits_.Reserve(reserve("b", 1, str(number)))
    expiry = Expiry(application.database, Mutations(application.database))
    with psycopg.connect(database.owner) as owner:
        owner.execute("SELECT FROM vsync.credit_accounts WHERE account = 'a' FOR UPDATE")
        execute(database, "UPDATE vsync.credit_reservations SET expires_at = now() - interval '1 s'")
        run = asyncio.ensure_future(expiry.run())
        await until(lambda: expired(database) == {"b": 2})
        assert (await credits_.Debit(debit("c", 1, "order"))).transaction.available == "99.00"
        await run
        assert expired(database) == {"b": 2}
    await expiry.run()
    await until(lambda: expired(database) == {"a": 1, "b": 2})
    assert await account(credits_) == ("100.00", "0.00", 3)
    assert await account(credits_, "b") == ("100.00", "0.00", 5)


def expired(database: Database) -> dict[str, int]:
    """Returns the number of expired reservations that were released, by account."""
    query = "SELECT account, count(*) AS count FROM vsync.credit_transactions WHERE kind = 6 GROUP BY 1"
    return {row["account"]: row["count"] for row in rows(database, query)}


async def test_pages_have_every_row_once(credits_: Any) -> None:
    names = [f"account-{number}" for number in range(5)]
    await opened(credits_, *names)
    for number in range(4):
        await credits_.Credit(credit(names[0], 1, str(number)))
    found: list[str] = []
    request = pb.ListAccountsRequest(page_size=2)
    while True:
        page = await credits_.ListAccounts(request)
        found += [each.account for each in page.accounts]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == names
    numbers: list[int] = []
    ledger = pb.ListTransactionsRequest(account=names[0], page_size=2)
    while True:
        transactions = await credits_.ListTransactions(ledger)
        numbers += [each.number for each in transactions.transactions]
        if not transactions.next_page_token:
            break
        ledger.page_token = transactions.next_page_token
    assert numbers == [5, 4, 3, 2, 1]
    other = pb.ListTransactionsRequest(account=names[1], page_token=ledger.page_token)
    assert fields_of(await failure_of(credits_.ListTransactions(other))) == ["page_token"]


async def test_a_locked_account_delays_only_its_own_calls(credits_: Any, database: Database) -> None:
    await opened(credits_, "a", "b")
    # A group waits for a lock for half a second. Then each of its members waits alone.
    alone = """
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '%%credit_accounts%%' AND query NOT LIKE '%%json%%'"""
    with psycopg.connect(database.owner) as owner:
        owner.execute("SELECT FROM vsync.credit_accounts WHERE account = 'a' FOR UPDATE")
        debits = [asyncio.ensure_future(credits_.Debit(debit("a", 1, str(number)))) for number in range(3)]
        assert (await credits_.Debit(debit("b", 1, "order"))).transaction.available == "99.00"
        await until(lambda: bool(rows(database, alone)))
        assert not any(each.done() for each in debits)
    answers = await asyncio.gather(*debits)
    assert sorted(answer.transaction.available for answer in answers) == ["97.00", "98.00", "99.00"]
