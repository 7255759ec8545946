"""Storing and reading payments."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from vsync.payments.v1 import payment_pb2 as pb
from vsync.v1 import audit_pb2, audit_pb2_grpc

from tests.harness.cids import a_request_id, failure_of, info_of, rows
from tests.harness.clusters import Database
from tests.harness.payments import BEGIN, a_payment, check_invariants
from tests.harness.serving import fields_of, reason_of

STORE = "vsync.payments.v1.PaymentService/StorePayment"


def store(number: int = 1, **changes: Any) -> pb.StorePaymentRequest:
    """Returns a request that stores a payment."""
    return pb.StorePaymentRequest(payment=a_payment(number, **changes))


def batch(*numbers: int) -> pb.BatchStorePaymentsRequest:
    """Returns a request that stores payments."""
    return pb.BatchStorePaymentsRequest(payments=map(a_payment, numbers))


def effects(database: Database) -> tuple[int, int, int]:
    """Returns the number of payments, audit entries and request ids."""
    (row,) = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.payments) AS p, (SELECT count(*) FROM vsync.audit_logs) AS a,"
        " (SELECT count(DISTINCT request_id) FROM vsync.request_ids) AS r",
    )
    return row["p"], row["a"], row["r"]


async def test_a_payment_is_stored_once_and_audited(
    payments: Any, audit: "audit_pb2_grpc.AuditServiceAsyncStub", database: Database
) -> None:
    first = await payments.StorePayment(store(amount="5"))
    assert first.stored
    assert (first.payment.amount, first.payment.correlation_id) == ("5.00", "order-1")
    again = await payments.StorePayment(store(amount="5.00"))
    assert (again.stored, again.payment) == (False, first.payment)
    assert effects(database) == (1, 1, 0)
    resource = f"payments/{first.payment.id}"
    (entry,) = (await audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(resource=resource))).logs
    assert (entry.id, entry.action) == (first.payment.id, STORE)
    for selector in ({"id": first.payment.id}, {"correlation_id": "order-1"}):
        assert (await payments.GetPayment(pb.GetPaymentRequest(**selector))).payment == first.payment


async def test_other_content_is_an_error_that_names_the_differing_fields(payments: Any, database: Database) -> None:
    stored = (await payments.StorePayment(store())).payment
    other = store(amount="99.99", processed_at=BEGIN)
    error = await failure_of(payments.StorePayment(other))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(error) == "PAYMENT_DIFFERS"
    assert info_of(error).metadata == {"fields": "amount,processed_at", "existing_id": stored.id}
    both = pb.BatchStorePaymentsRequest(payments=[a_payment(2), other.payment])
    assert info_of(await failure_of(payments.BatchStorePayments(both))).metadata["index"] == "1"
    assert effects(database) == (1, 1, 0)


BAD_FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"correlation_id": ""}, {"correlation_id"}),
    ({"correlation_id": "x" * 256}, {"correlation_id"}),
    ({"correlation_id": "a\0b"}, {"correlation_id"}),
    ({"amount": "0.00", "processor": "other"}, {"amount", "processor"}),
    ({"amount": "100000000.00"}, {"amount"}),
    ({"amount": "1.001"}, {"amount"}),
    ({"requested_at": None, "processed_at": None}, {"requested_at", "processed_at"}),
    ({"processed_at": {"seconds": 253_370_764_800}}, {"processed_at"}),
]


async def test_every_bad_field_is_named(payments: Any) -> None:
    for changes, fields in BAD_FIELDS:
        request = store(**changes)
        request.request_id = "no"
        error = await failure_of(payments.StorePayment(request))
        assert set(fields_of(error)) == {f"payment.{field}" for field in fields} | {"request_id"}
        many = pb.BatchStorePaymentsRequest(payments=[a_payment(2), request.payment])
        error = await failure_of(payments.BatchStorePayments(many))
        assert set(fields_of(error)) == {f"payments[1].{field}" for field in fields}


async def test_a_batch_has_distinct_correlation_ids_and_at_most_1000_payments(payments: Any) -> None:
    assert fields_of(await failure_of(payments.BatchStorePayments(batch(1, 2, 1)))) == ["payments[2].correlation_id"]
    for numbers in ((), range(1001)):
        assert fields_of(await failure_of(payments.BatchStorePayments(batch(*numbers)))) == ["payments"]


async def test_validate_only_answers_and_stores_nothing(payments: Any, database: Database) -> None:
    for request, method in ((store(), payments.StorePayment), (batch(1, 2), payments.BatchStorePayments)):
        request.validate_only = True
        request.request_id = a_request_id()
        answer = await method(request)
        assert all(each.stored for each in getattr(answer, "results", [answer]))
    assert effects(database) == (0, 0, 0)
    check_invariants(database)


@pytest.mark.parametrize(
    ("method", "request_", "other"),
    [("StorePayment", store(1), store(2)), ("BatchStorePayments", batch(1, 2), batch(3))],
    ids=["single", "batch"],
)
async def test_a_request_id_takes_effect_once_with_one_content(
    payments: Any, database: Database, method: str, request_: Any, other: Any
) -> None:
    call: Callable[[Any], Any] = getattr(payments, method)
    request_.request_id = other.request_id = a_request_id()
    first = await call(request_)
    before = effects(database)
    assert await call(request_) == first, "the first answer, with stored"
    assert effects(database) == before
    assert reason_of(await failure_of(call(other))) == "REQUEST_ID_REUSED"
    assert effects(database) == before


async def test_a_batch_stores_what_is_new(payments: Any, database: Database) -> None:
    await payments.StorePayment(store(2))
    answer = await payments.BatchStorePayments(batch(1, 2, 3))
    assert [result.stored for result in answer.results] == [True, False, True]
    assert [result.payment.correlation_id for result in answer.results] == ["order-1", "order-2", "order-3"]
    (entry,) = rows(database, "SELECT payload FROM vsync.audit_logs WHERE action LIKE '%%Batch%%'")
    assert entry["payload"] == {"payments": 3, "stored": 2}
    again = await payments.BatchStorePayments(batch(1, 2, 3))
    assert [result.stored for result in again.results] == [False] * 3
    assert effects(database) == (3, 2, 0)
    check_invariants(database)


async def test_concurrent_stores_of_one_payment_store_it_once(payments: Any, database: Database) -> None:
    single = [payments.StorePayment(store(1)) for _ in range(40)]
    batches = [payments.BatchStorePayments(batch(*order)) for order in ((1, 2, 3), (3, 2, 1)) * 5]
    answers = await asyncio.gather(*single, *batches)
    stored = [answer.stored for answer in answers[:40]]
    stored += [each.stored for answer in answers[40:] for each in answer.results]
    assert sum(stored) == 3
    assert effects(database)[0] == 3
    check_invariants(database)


async def test_an_unknown_payment_is_not_found(payments: Any) -> None:
    for selector in ({"id": a_request_id()}, {"correlation_id": "none"}):
        error = await failure_of(payments.GetPayment(pb.GetPaymentRequest(**selector)))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "PAYMENT_NOT_FOUND")
    assert fields_of(await failure_of(payments.GetPayment(pb.GetPaymentRequest()))) == ["selector"]
    assert fields_of(await failure_of(payments.GetPayment(pb.GetPaymentRequest(id="no")))) == ["id"]


async def listed(payments: Any, page_size: int, **selected: Any) -> list[str]:
    """Returns the correlation ids of every page."""
    ids: list[str] = []
    request = pb.ListPaymentsRequest(page_size=page_size, **selected)
    while True:
        page = await payments.ListPayments(request)
        ids += [payment.correlation_id for payment in page.payments]
        if not page.next_page_token:
            return ids
        request.page_token = page.next_page_token


@pytest.mark.parametrize("page_size", [1, 3, 12, 100])
async def test_pages_have_every_payment_once_in_the_order_of_time(payments: Any, page_size: int) -> None:
    same_time = [a_payment(number, processed_at=BEGIN) for number in range(100, 103)]
    await payments.BatchStorePayments(pb.BatchStorePaymentsRequest(payments=[*map(a_payment, range(9)), *same_time]))
    names = ["order-0", "order-100", "order-101", "order-102", *(f"order-{number}" for number in range(1, 9))]
    assert await listed(payments, page_size) == names
    assert await listed(payments, page_size, processor="fallback") == [names[i] for i in (2, 4, 6, 8, 10)]
    inside = {"processed_from": a_payment(2).processed_at, "processed_to": a_payment(4).processed_at}
    assert await listed(payments, page_size, **inside) == ["order-2", "order-3", "order-4"]
    assert await listed(payments, page_size, processor="none") == []


async def test_a_page_token_is_valid_for_its_filter_only(payments: Any) -> None:
    await payments.BatchStorePayments(batch(1, 2))
    token = (await payments.ListPayments(pb.ListPaymentsRequest(page_size=1))).next_page_token
    other = pb.ListPaymentsRequest(page_token=token, processor="default")
    assert fields_of(await failure_of(payments.ListPayments(other))) == ["page_token"]
    backwards = pb.ListPaymentsRequest(
        processed_from=a_payment(2).processed_at, processed_to=a_payment(1).processed_at, page_size=-1
    )
    assert set(fields_of(await failure_of(payments.ListPayments(backwards)))) == {"processed_to", "page_size"}
