"""StorePayment beside a plain service with one INSERT, and GetPaymentsSummary with few and with many payments."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import psycopg
from vsync.payments.v1 import payment_pb2 as pb
from vsync.payments.v1.payment_pb2_grpc import PaymentServiceStub
from vsyncd.core.timestamps import timestamp

from bench import load
from bench.report import Figure, rate, ratio
from bench.servers import Service, database, plain_peer, postgres, vsyncd

CALLS = 10_000
PAIRS = 10
FEW, MANY = 1_000, 1_000_000
_SUMMARY_CALLS = 2_000
_STORE = "/vsync.payments.v1.PaymentService/StorePayment"
_SUMMARY = "/vsync.payments.v1.PaymentService/GetPaymentsSummary"
_BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
_STEP = 50_000
_FILL = """
    INSERT INTO vsync.payments (id, created_at, requested_at, processed_at, amount, correlation_id, processor)
    SELECT id, vsync.uuid_v7_time(id), at, at, 0.01 * (1 + n %% 100000), 'filled-' || n,
           CASE WHEN n %% 3 = 0 THEN 'fallback' ELSE 'default' END
    FROM (SELECT n, now() - n * interval '1 s' AS at FROM generate_series(%s::integer, %s) AS n) AS t,
         vsync.uuid_v7(at + n * interval '1 s') AS id"""


def run() -> list[Figure]:
    """Returns the figures of alternating runs."""
    with postgres() as admin:
        return [*_store(admin), *_summary(admin)]


def _store(admin: str) -> list[Figure]:
    with (
        database(admin, "ours") as ours,
        database(admin, "theirs") as theirs,
        vsyncd(ours, DOMAINS="payments") as service,
        plain_peer(theirs, "payments") as peer,
    ):
        mine, others = _pairs(service, peer)
    return [
        rate("payments", "StorePayment, vsyncd", mine, "calls/s"),
        rate("payments", "StorePayment, plain", others, "calls/s"),
        ratio("payments", "StorePayment, vsyncd / plain", mine, others, at_least=1.0),
    ]


def _pairs(service: Service, peer: Service) -> tuple[list[float], list[float]]:
    samples: tuple[list[float], list[float]] = ([], [])
    for pair in range(PAIRS + 1):
        requests = [_request(pair * CALLS + number) for number in range(CALLS)]
        # Which one begins alternates, too.
        for index in (0, 1) if pair % 2 else (1, 0):
            calls = load.run((service, peer)[index].port, _STORE, requests, concurrency=64)
            if pair:  # the first pair warms up
                samples[index].append(calls)
    return samples


def _request(number: int) -> bytes:
    at = _BEGIN + number * timedelta(milliseconds=50)
    payment = pb.Payment(
        correlation_id=f"order-{number}",
        amount=f"{number % 10_000 + 1}.{number % 100:02d}",
        processor="fallback" if number % 3 == 0 else "default",
        requested_at=timestamp(at),
        processed_at=timestamp(at),
    )
    # The client library sends a request_id with every mutation. The plain service ignores it.
    return pb.StorePaymentRequest(payment=payment, request_id=str(uuid4())).SerializeToString()


def _summary(admin: str) -> list[Figure]:
    with (
        database(admin, "few") as few,
        database(admin, "many") as many,
        vsyncd(few, DOMAINS="payments") as service_of_few,
        vsyncd(many, DOMAINS="payments") as service_of_many,
    ):
        _fill(few, FEW)
        _fill(many, MANY)
        for service, payments in ((service_of_few, FEW), (service_of_many, MANY)):
            _await_total(service, payments)
        with_few, with_many = _summary_pairs(service_of_few, service_of_many)
    return [
        rate("payments", f"GetPaymentsSummary, {FEW:,} payments", with_few, "ms"),
        rate("payments", f"GetPaymentsSummary, {MANY:,} payments", with_many, "ms"),
        ratio("payments", "GetPaymentsSummary, time with many / few", with_many, with_few, at_most=1.2),
    ]


def _summary_pairs(few: Service, many: Service) -> tuple[Sequence[float], Sequence[float]]:
    """Returns the milliseconds of a call, one call at a time."""
    samples: tuple[list[float], list[float]] = ([], [])
    requests = [pb.GetPaymentsSummaryRequest().SerializeToString()] * _SUMMARY_CALLS
    for pair in range(PAIRS + 1):
        for index in (0, 1) if pair % 2 else (1, 0):
            calls = load.run((few, many)[index].port, _SUMMARY, requests, concurrency=1)
            if pair:
                samples[index].append(1000 / calls)
    return samples


def _fill(conninfo: str, payments: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for begin in range(1, payments + 1, _STEP):
            connection.execute(_FILL.encode(), [begin, min(begin + _STEP - 1, payments)])
        connection.execute("SELECT vsync.fold_payment_totals()")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _await_total(service: Service, payments: int) -> None:
    """Waits until the service is ready, and checks the total."""
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        stub = PaymentServiceStub(channel)
        deadline = time.monotonic() + 60
        while (total := stub.GetPaymentsSummary(pb.GetPaymentsSummaryRequest()).total_payments) != payments:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{total} instead of {payments} payments")
