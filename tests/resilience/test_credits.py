"""Credits under faults: no acknowledged transaction is lost, none is posted twice, and balances equal their ledgers."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.credits.v1 import credit_pb2 as pb
from vsync.credits.v1.credit_pb2_grpc import CreditServiceStub
from vsyncd.app import Application

from tests.harness.cids import a_request_id, failure_of, info_of, rows, until
from tests.harness.clusters import Database
from tests.harness.credits import REFUSALS, RecordedCredits, check_invariants, credit, debit
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.processes import ServerProcess
from tests.harness.recorded_writes import TRANSIENT_ERRORS
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import DEADLINE, PATIENT, at_baseline
from tests.resilience.test_processes import CALLERS, DISCONNECTED, RECONNECT, SHUTTING_DOWN

serves_credits = pytest.mark.settings.with_args(domains="credits")
patient = pytest.mark.settings.with_args(**PATIENT, domains="credits")


@pytest.fixture
async def stub(application: Application) -> AsyncIterator[Any]:
    """A stub of the CreditService of `application`."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        yield CreditServiceStub(channel)


@contextlib.asynccontextmanager
async def load(stub: Any) -> AsyncIterator[RecordedCredits]:
    """Callers that post transactions from before the block until its end."""
    writes = RecordedCredits(stub, deadline=DEADLINE)
    await writes.open_accounts()
    async with writes.running(6):
        await writes.progress(20)
        yield writes


def effects(database: Database) -> tuple[int, int]:
    """Returns the number of debits and of their audit entries."""
    check_invariants(database)
    (row,) = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.credit_transactions WHERE kind = 2) AS t,"
        " (SELECT count(*) FROM vsync.audit_logs WHERE action LIKE '%%/Debit') AS a",
    )
    return row["t"], row["a"]


@pytest.mark.soak
@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 25), (signal.SIGTERM, 5)])
async def test_a_restart_of_vsyncd_under_load_loses_and_duplicates_no_transaction(
    database: Database, folder: Path, report: FaultReport, *, number: signal.Signals, times: int
) -> None:
    server = ServerProcess(database, folder / "log", DOMAINS="credits")
    server.start()
    try:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedCredits(CreditServiceStub(channel))
            await writes.open_accounts()
            async with writes.running(CALLERS):
                for _ in range(times):
                    await writes.progress(3 * CALLERS)
                    await server.restart(number)
                report.recovered(await writes.progress(3 * CALLERS), writes.errors)
    finally:
        server.stop()
    writes.check(database, allowed={DISCONNECTED, SHUTTING_DOWN})


@serves_credits
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
async def test_a_database_that_stops_under_load_loses_and_duplicates_no_transaction(
    application: Application,
    stub: Any,
    database: Database,
    server: PrivateServer,
    report: FaultReport,
    *,
    how: signal.Signals,
) -> None:
    async with load(stub) as writes:
        await asyncio.to_thread(server.stop, how)
        await until(lambda: not application.database.primary.breaker.closed)
        await asyncio.to_thread(server.start)
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


@serves_credits
@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_connections_that_are_cut_repeatedly_lose_and_duplicate_no_transaction(
    application: Application, stub: Any, database: Database, proxy: FaultProxy, report: FaultReport
) -> None:
    end = asyncio.get_running_loop().time() + 60
    async with load(stub) as writes:
        while asyncio.get_running_loop().time() < end:
            proxy.cut()
            await writes.progress(50)
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


class EitherStub:
    """Sends each call to one of several instances."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._stubs: list[Any] = [CreditServiceStub(channel) for channel in channels]

    def __getattr__(self, method: str) -> Any:
        return getattr(random.choice(self._stubs), method)  # noqa: S311  no secret


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seconds", [60, 1800])
async def test_no_sequence_of_faults_makes_a_balance_wrong(
    database: Database, server: PrivateServer, folder: Path, report: FaultReport, *, seconds: int
) -> None:
    """Two instances, of which one is killed or stopped; PostgreSQL is killed, or ends the connections of both."""
    instances = [
        ServerProcess(database, folder / f"log{number}", DOMAINS="credits", DATABASE_URL=database.service_url)
        for number in range(2)
    ]
    faults: Counter[str] = Counter()
    cut = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database.name}'"  # noqa: S608  a constant
    async with contextlib.AsyncExitStack() as stack:
        for instance in instances:
            stack.callback(instance.kill)
            instance.start()
        channels = [grpc.aio.insecure_channel(instance.target, options=RECONNECT) for instance in instances]
        for channel in channels:
            await stack.enter_async_context(channel)
        writes = RecordedCredits(EitherStub(channels), deadline=30, max_pause=2.0)
        await writes.open_accounts()
        end = asyncio.get_running_loop().time() + seconds
        async with writes.running(CALLERS):
            while asyncio.get_running_loop().time() < end:
                await writes.progress(20 * CALLERS, seconds=900)
                fault = random.choice(["SIGKILL", "SIGKILL", "SIGTERM", "PostgreSQL", "connections"])  # noqa: S311  no secret
                faults[fault] += 1
                if fault == "PostgreSQL":
                    await asyncio.to_thread(server.stop, signal.SIGKILL)
                    await asyncio.to_thread(server.start)
                elif fault == "connections":
                    await asyncio.to_thread(server.execute, cut)
                else:
                    await random.choice(instances).restart(signal.Signals[fault])  # noqa: S311  no secret
                await asyncio.to_thread(check_invariants, database)
            report.recovered(await writes.progress(CALLERS, seconds=900), writes.errors)
    report.figure("faults", dict(faults))
    report.figure("acknowledged", sum(write.acknowledged for write in writes.writes))
    query = "SELECT kind, count(*) AS count FROM vsync.credit_transactions GROUP BY 1 ORDER BY 1"
    report.figure("transactions by kind", {row["kind"]: row["count"] for row in rows(database, query)})
    assert writes.errors.keys() <= {*TRANSIENT_ERRORS, *REFUSALS, DISCONNECTED, SHUTTING_DOWN}
    writes.check_effects(database)
    (row,) = rows(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert row["deadlocks"] == 0


@patient
@pytest.mark.parametrize(
    "answered", [pytest.param(False, id="before", marks=pytest.mark.soak), pytest.param(True, id="after")]
)
async def test_debits_whose_connection_is_cut_take_effect_once(
    stub: Any, database: Database, proxy: FaultProxy, *, answered: bool
) -> None:
    """The connection is cut before the server gets the statement, or when it answers."""
    await stub.OpenAccount(pb.OpenAccountRequest(account="a"))
    await stub.Credit(credit("a", 100, "opening"))
    (proxy.cut_answer_to if answered else proxy.cut_before)(b"json_to_recordset")
    requests = [debit("a", 1, str(number), request_id=a_request_id()) for number in range(30)]
    answers = await asyncio.gather(*map(stub.Debit, requests))
    assert proxy.cuts == 1
    assert effects(database) == (30, 30)
    assert await asyncio.gather(*map(stub.Debit, requests)) == answers
    assert (await stub.GetAccount(pb.GetAccountRequest(account="a"))).account.available == "70.00"


@patient
async def test_after_an_unknown_commit_the_reference_makes_a_repeat_safe(
    stub: Any, database: Database, proxy: FaultProxy
) -> None:
    await stub.OpenAccount(pb.OpenAccountRequest(account="a"))
    await stub.Credit(credit("a", 100, "opening"))
    proxy.cut_answer_to(b"json_to_recordset")
    error = await failure_of(stub.Debit(debit("a", 1, "order")))
    assert info_of(error).reason == "COMMIT_UNKNOWN"
    assert (await stub.Debit(debit("a", 1, "order"))).transaction.available == "99.00"
    assert effects(database) == (1, 1)
