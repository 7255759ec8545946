"""An outage of minutes with production's timeouts: it leaks no resources."""

import asyncio
import os
from typing import Final

import pytest
from vsyncd.app import Application

from tests.harness.cids import until
from tests.harness.clusters import Database
from tests.harness.footprint import Footprint
from tests.harness.private_servers import PrivateServer
from tests.harness.recorded_writes import RecordedWrites
from tests.harness.recovery import FaultReport
from tests.harness.serving import settings_for
from tests.resilience.conftest import DEADLINE, at_baseline, cids_of

# OUTAGE_SECONDS shortens it while working on this test.
OUTAGE_S: Final = float(os.environ.get("OUTAGE_SECONDS", "300"))


@pytest.mark.soak
async def test_five_minutes_without_a_database_leak_no_resources(
    database: Database, server: PrivateServer, report: FaultReport
) -> None:
    settings = settings_for(
        database.service_url,
        db_auto_migrate=False,
        db_min_connections=5,
        db_acquire_timeout=2,
        db_ping_timeout=5,
        http_listen="127.0.0.1:0",
    )
    async with Application(settings) as application, cids_of(application) as cids:
        primary = application.database.primary
        writes = RecordedWrites(cids, deadline=DEADLINE)
        async with writes.running(16):
            await writes.progress(1000)
        await at_baseline(application)
        before = Footprint.now()
        async with writes.running(16):
            await writes.progress(20)
            await asyncio.to_thread(server.stop)
            await until(lambda: not primary.breaker.closed)
            await asyncio.sleep(OUTAGE_S)
            assert primary.pool.get_stats()["pool_size"] == 0
            await asyncio.to_thread(server.start)
            report.recovered(await writes.progress(200), writes.errors)
        await at_baseline(application)
        grown = Footprint.now().grown_since(before)
        report.figure("grown", grown)
        report.figure("seconds_without_database", OUTAGE_S)
        assert primary.breaker.trips == 1
        assert grown["tasks"] <= 2
        assert grown["descriptors"] <= settings.db_max_connections
        assert grown["megabytes"] < 20
    writes.check(database)
