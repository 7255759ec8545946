"""The server refuses further connections because other clients hold them all."""

import asyncio
import contextlib
from collections.abc import Iterator

import psycopg
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import failure_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.recorded_writes import code_and_reason
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import at_baseline, cids_of, first_good_answer, load, proxy_url, settings_of

EXHAUSTED = "UNAVAILABLE POOL_EXHAUSTED"
_OWN_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'vsyncd'"
)


@pytest.fixture
def limited(server: PrivateServer) -> Iterator[PrivateServer]:
    """The server with a low max_connections."""
    server.stop()
    server.start(max_connections="20")
    yield server
    server.stop()


@contextlib.contextmanager
def no_free_connections(database: Database) -> Iterator[None]:
    """Other clients hold every remaining connection."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(contextlib.closing(psycopg.connect(database.owner)))
        yield


async def test_the_pool_works_with_fewer_connections_and_reports_exhaustion_without_any(
    limited: PrivateServer, database: Database, proxy: FaultProxy, report: FaultReport
) -> None:
    settings = settings_of(proxy_url(database, proxy.port), db_min_connections=3, db_ping_timeout=20)
    async with Application(settings) as application, cids_of(application) as cids:
        primary = application.database.primary
        await at_baseline(application)
        await until(lambda: primary.last_status is not None)
        with no_free_connections(database):
            async with load(cids) as writes:
                await writes.progress(200)
            assert limited.execute(_OWN_CONNECTIONS, database.name) < [(8,)]
            writes.check(database, allowed={EXHAUSTED})
        # The service loses its own connections too.
        limited.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT 0')
        await primary.pool.drain()
        errors = await asyncio.gather(*(failure_of(cids.CountCids(pb.CountCidsRequest())) for _ in range(20)))
        assert {code_and_reason(error) for error in errors} == {EXHAUSTED}
        assert primary.last_error == "too many connections"
        limited.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT -1')
        report.recovered(await first_good_answer(lambda: cids.CountCids(pb.CountCidsRequest())))
        assert primary.breaker.trips == 0
        await at_baseline(application)
