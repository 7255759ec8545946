"""Payments under faults: no acknowledged payment is lost, none is stored twice, and totals are exact."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.payments.v1 import payment_pb2 as pb
from vsync.payments.v1.payment_pb2_grpc import PaymentServiceStub
from vsyncd.app import Application

from tests.harness.cids import a_request_id, failure_of, info_of, rows, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.payments import RecordedPayments, a_payment, check_invariants
from tests.harness.private_servers import PrivateServer
from tests.harness.processes import ServerProcess
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import DEADLINE, PATIENT, at_baseline
from tests.resilience.test_processes import CALLERS, DISCONNECTED, RECONNECT, SHUTTING_DOWN

serves_payments = pytest.mark.settings.with_args(domains="payments")
patient = pytest.mark.settings.with_args(**PATIENT, domains="payments")


@pytest.fixture
async def payments(application: Application) -> AsyncIterator[Any]:
    """A stub of the PaymentService of `application`."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        yield PaymentServiceStub(channel)


@contextlib.asynccontextmanager
async def load(payments: Any) -> AsyncIterator[RecordedPayments]:
    """Callers that store payments from before the block until its end."""
    writes = RecordedPayments(payments, deadline=DEADLINE)
    async with writes.running(16):
        await writes.progress(20)
        yield writes


def effects(database: Database) -> tuple[int, int]:
    """Returns the number of payments and audit entries."""
    check_invariants(database)
    (row,) = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.payments) AS p, (SELECT count(*) FROM vsync.audit_logs) AS a",
    )
    return row["p"], row["a"]


@pytest.mark.soak
@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 25), (signal.SIGTERM, 5)])
async def test_a_restart_of_vsyncd_under_load_loses_and_duplicates_no_payment(
    database: Database, folder: Path, report: FaultReport, *, number: signal.Signals, times: int
) -> None:
    server = ServerProcess(database, folder / "log", DOMAINS="payments")
    server.start()
    try:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedPayments(PaymentServiceStub(channel))
            async with writes.running(CALLERS):
                for _ in range(times):
                    await writes.progress(3 * CALLERS)
                    await server.restart(number)
                report.recovered(await writes.progress(3 * CALLERS), writes.errors)
    finally:
        server.stop()
    writes.check(database, allowed={DISCONNECTED, SHUTTING_DOWN})


@serves_payments
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
async def test_a_database_that_stops_under_load_loses_and_duplicates_no_payment(
    application: Application,
    payments: Any,
    database: Database,
    server: PrivateServer,
    report: FaultReport,
    *,
    how: signal.Signals,
) -> None:
    async with load(payments) as writes:
        await asyncio.to_thread(server.stop, how)
        await until(lambda: not application.database.primary.breaker.closed)
        await asyncio.to_thread(server.start)
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


@serves_payments
@pytest.mark.soak
async def test_connections_that_are_cut_repeatedly_lose_and_duplicate_no_payment(
    application: Application, payments: Any, database: Database, proxy: FaultProxy, report: FaultReport
) -> None:
    async with load(payments) as writes:
        for _ in range(20):
            proxy.cut()
            await writes.progress(5)
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


@patient
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
async def test_stores_whose_connection_is_cut_take_effect_once(
    payments: Any, database: Database, proxy: FaultProxy, *, answered: bool
) -> None:
    """The connection is cut before the server gets the statement, or when it answers."""
    await payments.GetPaymentsSummary(pb.GetPaymentsSummaryRequest())
    (proxy.cut_answer_to if answered else proxy.cut_before)(b"json_to_recordset")
    requests = [pb.StorePaymentRequest(payment=a_payment(n), request_id=a_request_id()) for n in range(30)]
    answers = await asyncio.gather(*map(payments.StorePayment, requests))
    assert proxy.cuts == 1
    assert all(answer.stored for answer in answers)
    assert effects(database) == (30, 30)
    assert await asyncio.gather(*map(payments.StorePayment, requests)) == answers


@patient
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
async def test_a_batch_whose_commit_is_cut_takes_effect_once(
    payments: Any, database: Database, proxy: FaultProxy, *, answered: bool
) -> None:
    await payments.GetPaymentsSummary(pb.GetPaymentsSummaryRequest())
    batch = pb.BatchStorePaymentsRequest(payments=map(a_payment, range(40, 45)), request_id=a_request_id())
    (proxy.cut_answer_to if answered else proxy.cut_before)(b"COMMIT", after=b"json_to_recordset")
    stored = await payments.BatchStorePayments(batch)
    assert (proxy.cuts, all(result.stored for result in stored.results)) == (1, True)
    assert effects(database) == (5, 1)
    assert await payments.BatchStorePayments(batch) == stored
    assert effects(database) == (5, 1)


@patient
async def test_without_a_request_id_an_unknown_commit_is_reported(
    payments: Any, database: Database, proxy: FaultProxy
) -> None:
    await payments.GetPaymentsSummary(pb.GetPaymentsSummaryRequest())
    proxy.cut_answer_to(b"json_to_recordset")
    request = pb.StorePaymentRequest(payment=a_payment(1))
    error = await failure_of(payments.StorePayment(request))
    assert info_of(error).reason == "COMMIT_UNKNOWN"
    assert effects(database) == (1, 1)
    assert not (await payments.StorePayment(request)).stored
