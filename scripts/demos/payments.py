"""Shows payments: concurrent and repeated stores, exact totals, and a change of health that reaches a watcher."""

import asyncio
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import vsync
from vsync.payments.v1 import payment_pb2 as pb
from vsync.payments.v1 import processor_health_pb2 as health_pb
from vsync.payments.v1.payment_pb2_grpc import PaymentServiceStub
from vsync.payments.v1.processor_health_pb2_grpc import ProcessorHealthServiceStub
from vsync.v1 import audit_pb2
from vsyncd.core.timestamps import timestamp

from scripts.demo_screen import Check, Screen

PAYMENTS = 1_000
_CALLERS = 32
_BEGIN = datetime(2026, 11, 20, 8, tzinfo=UTC)
_PROCESSORS = ("default", "fallback")


def _payment(number: int) -> pb.Payment:
    at = _BEGIN + number * timedelta(seconds=11)
    return pb.Payment(
        correlation_id=f"order-{number}",
        amount=f"{Decimal(number % 997 + 1) / 100:.2f}",
        processor=_PROCESSORS[number % 3 == 0],
        requested_at=timestamp(at - timedelta(seconds=1)),
        processed_at=timestamp(at),
    )


async def demonstrate(screen: Screen, target: str) -> list[Check]:
    """Runs the demonstration. Returns the checks."""
    async with vsync.connect(target) as client:
        payments, processors = client.stub(PaymentServiceStub), client.stub(ProcessorHealthServiceStub)
        checks = [
            *await _store(screen, payments),
            *await _summaries(screen, payments),
            *await _watch(screen, processors),
        ]
        checks.append(Check("audit entries of StorePayment", PAYMENTS, await _audited(client)))
        return checks


async def _store(screen: Screen, payments: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step(f"1  Store {PAYMENTS:,} payments, each sent twice, with {_CALLERS} callers", "StorePayment")
    numbers = iter([*range(PAYMENTS), *range(PAYMENTS)])
    stored: list[bool] = []

    async def keep_storing() -> None:
        for number in numbers:
            answer = await payments.StorePayment(pb.StorePaymentRequest(payment=_payment(number)))
            stored.append(answer.stored)

    began = time.monotonic()
    await asyncio.gather(*(keep_storing() for _ in range(_CALLERS)))
    screen.say(f"{len(stored) / (time.monotonic() - began):,.0f} calls/s")
    other = _payment(1)
    other.amount = "0.99"
    try:
        await payments.StorePayment(pb.StorePaymentRequest(payment=other))
        answer = "stored"
    except vsync.AlreadyExistsError as error:
        answer = f"{error.reason}: {error.metadata['fields']}"
    screen.say(f"the same correlation id with another amount: {answer}")
    return [
        Check("payments stored by the first calls", PAYMENTS, sum(stored)),
        Check("another amount is refused", "PAYMENT_DIFFERS: amount", answer),
    ]


async def _summaries(screen: Screen, payments: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("2  Compare the totals with the sent payments", "GetPaymentsSummary")
    checks = []
    begins, ends = _BEGIN + timedelta(minutes=50, seconds=1), _BEGIN + timedelta(minutes=130)
    for name, request, inside in (
        ("all time", pb.GetPaymentsSummaryRequest(), range(PAYMENTS)),
        (
            "a part of the day",
            pb.GetPaymentsSummaryRequest(processed_from=timestamp(begins), processed_to=timestamp(ends)),
            [n for n in range(PAYMENTS) if begins <= _payment(n).processed_at.ToDatetime(UTC) <= ends],
        ),
    ):
        expected: dict[str, tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
        for payment in map(_payment, inside):
            count, amount = expected[payment.processor]
            expected[payment.processor] = count + 1, amount + Decimal(payment.amount)
        answer = await payments.GetPaymentsSummary(request)
        found = {each.processor: f"{each.payments:,} payments, {each.amount}" for each in answer.processors}
        for processor, (count, amount) in sorted(expected.items()):
            checks.append(Check(f"{processor}, {name}", f"{count:,} payments, {amount:.2f}", found[processor]))
    return checks


async def _watch(screen: Screen, processors: Any) -> list[Check]:  # noqa: ANN401  a stub
    screen.step("3  Report the health of a processor to a watcher", "ReportProcessorHealth, WatchProcessorHealth")
    watch = processors.WatchProcessorHealth(health_pb.WatchProcessorHealthRequest(processors=["default"]))
    first = (await watch.read()).processors[0].healthy
    began = time.monotonic()
    report = health_pb.ReportProcessorHealthRequest(processor="default", healthy=True, min_response_time_ms=12)
    await processors.ReportProcessorHealth(report)
    second = (await watch.read()).processors[0].healthy
    screen.say(f"the watcher received it after {1000 * (time.monotonic() - began):,.0f} ms")
    watch.cancel()
    return [Check("healthy before and after the report", "False, True", f"{first}, {second}")]


async def _audited(client: vsync.Client) -> int:
    now = datetime.now(UTC)
    request = audit_pb2.ListAuditLogsRequest(
        action="vsync.payments.v1.PaymentService/StorePayment",
        created_after=timestamp(now - timedelta(days=1)),
        created_before=timestamp(now + timedelta(days=1)),
        page_size=1_000,
    )
    count = 0
    while True:
        page = await client.audit.ListAuditLogs(request)
        count += len(page.logs)
        if not page.next_page_token:
            return count
        request.page_token = page.next_page_token
