"""A database that is not running yet, refuses the password, or does not accept writes."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.resilience.circuit_breaker import HALF_OPEN

from tests.harness.cids import Stub, a_record, failure_of, info_of, until
from tests.harness.clusters import PASSWORD, SERVICE, Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.footprint import Footprint
from tests.harness.logs import captured_logs
from tests.harness.private_servers import PrivateServer
from tests.harness.recorded_writes import RecordedWrites
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import (
    DEADLINE,
    PATIENT,
    at_baseline,
    cids_of,
    first_good_answer,
    load,
    patient,
    proxy_url,
    settings_of,
)


async def test_a_service_that_starts_without_its_database_serves_once_it_is_running(
    database: Database, proxy: FaultProxy, report: FaultReport
) -> None:
    await proxy.refuse()
    # Few enough that the jobs wait for all of them.
    settings = settings_of(proxy_url(database, proxy.port), db_max_connections=3)
    async with Application(settings) as application, cids_of(application) as cids:
        error = await failure_of(cids.CountCids(pb.CountCidsRequest()))
        assert info_of(error).reason in {"DATABASE_UNAVAILABLE", "CIRCUIT_OPEN"}
        await until(lambda: not application.database.primary.breaker.closed)
        await proxy.accept()
        report.recovered(await first_good_answer(lambda: cids.CountCids(pb.CountCidsRequest())))
        await at_baseline(application)


async def test_after_a_long_outage_the_pool_is_full_and_no_resources_are_leaked(
    application: Application, cids: Stub, database: Database, proxy: FaultProxy, report: FaultReport
) -> None:
    """The outage is longer than every timeout of the tests, like an outage of minutes in production."""
    pool = application.database.primary.pool
    async with load(cids) as writes:
        pass
    await at_baseline(application)
    before = Footprint.now()
    async with writes.running(16):
        await writes.progress(20)
        await proxy.refuse()
        for _ in range(30):
            await failure_of(cids.CountCids(pb.CountCidsRequest()))
            await asyncio.sleep(0.1)
        await until(lambda: pool.get_stats()["pool_size"] == 0)
        await proxy.accept()
        report.recovered(await writes.progress(50), writes.errors)
    await at_baseline(application)
    await until(lambda: pool.get_stats()["pool_size"] >= 2)
    grown = Footprint.now().grown_since(before)
    report.figure("grown", grown)
    connections = application.settings.db_max_connections + 2
    assert grown["tasks"] <= 3 * connections  # the proxy has three per connection
    assert grown["descriptors"] <= 2 * connections
    assert grown["megabytes"] < 20
    writes.check(database)


@pytest.fixture
def with_passwords(server: PrivateServer) -> Iterator[None]:
    """The server requires the service role's password."""
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"local all {SERVICE} scram-sha-256\n{before}")
    server.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 60
    while accepts(server, "wrong"):  # until the server has read the file
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield
    hba.write_text(before)
    server.execute("SELECT pg_reload_conf()")


def accepts(server: PrivateServer, password: str) -> bool:
    """Whether the server accepts the service role with this password."""
    try:
        psycopg.connect(server.admin("postgres"), user=SERVICE, password=password).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.usefixtures("with_passwords")
async def test_a_wrong_password_fails_fast_with_few_attempts_until_it_is_corrected(
    database: Database, proxy: FaultProxy, folder: Path, report: FaultReport
) -> None:
    secret = folder / "password"
    secret.write_text("wrong")
    url = f"postgresql://{SERVICE}@127.0.0.1:{proxy.port}/{database.name}?sslmode=disable"
    settings = settings_of(url, db_password_file=str(secret), **PATIENT)
    with captured_logs() as log:
        async with Application(settings) as application, cids_of(application) as cids:
            writes = RecordedWrites(cids, deadline=DEADLINE)
            async with writes.running(4):
                await fails_fast_until_corrected(application, cids, proxy, secret, report)
                await writes.progress(20)
            writes.check(database)
            await at_baseline(application)
    (event,) = log.named("cannot connect to PostgreSQL")
    assert event["cause"] == "authentication failed"
    assert PASSWORD not in log.text
    assert quote(PASSWORD) not in log.text


async def fails_fast_until_corrected(
    application: Application, cids: Stub, proxy: FaultProxy, secret: Path, report: FaultReport
) -> None:
    """With a wrong password in the file, calls fail at once and few connection attempts are made."""
    breaker = application.database.primary.breaker
    trials: list[str] = []
    breaker.on_change.append(trials.append)
    await until(lambda: not breaker.closed)
    before = len(proxy.greetings)
    for _ in range(50):
        error = await failure_of(cids.CountCids(pb.CountCidsRequest()))
        assert info_of(error).reason in {"DATABASE_UNAVAILABLE", "CIRCUIT_OPEN"}
        await asyncio.sleep(0.02)
    # Only the monitor's trials, and attempts that were in progress: one trial, the pool's, and a health check's.
    attempts = proxy.greetings[before:]
    by_monitor = [greeting for greeting in attempts if b"vsyncd monitor" in greeting]
    assert len(by_monitor) <= trials.count(HALF_OPEN) + 1
    assert len(attempts) - len(by_monitor) <= application.settings.db_max_connections + 1
    # In one step: an attempt in between would find an empty file.
    new = secret.with_suffix(".new")
    await asyncio.to_thread(new.write_text, PASSWORD)
    await asyncio.to_thread(new.replace, secret)
    report.recovered(await first_good_answer(lambda: cids.CountCids(pb.CountCidsRequest())))


@patient
async def test_a_read_only_primary_serves_reads_and_refuses_writes(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    writes = RecordedWrites(cids, deadline=20)
    first = writes.creation()
    await writes.attempt(first)
    await at_baseline(application)  # no connection attempt is in progress, which would still be read-write
    # In the server's configuration: session settings override defaults of the role and the database.
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    server.execute("SELECT pg_reload_conf()")
    await application.database.primary.pool.drain()
    for call in (
        cids.CreateCid(pb.CreateCidRequest(record=a_record(2))),
        cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(3)])),
    ):
        assert info_of(await failure_of(call)).reason == "READ_ONLY_MODE"
    assert (await cids.GetCid(pb.GetCidRequest(cid=first.cids[0]))).record.cid == first.cids[0]
    async with writes.running(4):
        await until(lambda: writes.errors["UNAVAILABLE READ_ONLY_MODE"] > 0)
        server.execute("ALTER SYSTEM RESET default_transaction_read_only")
        server.execute("SELECT pg_reload_conf()")
        report.recovered(await writes.progress(20), writes.errors)
    writes.check(database)
    primary = application.database.primary
    await until(lambda: primary.last_status is not None and not primary.last_status.read_only)
