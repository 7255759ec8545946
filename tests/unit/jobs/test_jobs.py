"""Jobs run periodically until they are stopped, even if a run fails."""

import asyncio

from vsyncd.config import load_settings
from vsyncd.core.errors import Unavailable
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.runner import Job, JobRunner
from vsyncd.postgres.database import Database

from tests.harness.logs import captured_logs


def unused_ledger() -> JobLedger:
    """A ledger without a database: only exclusive jobs use it."""
    return JobLedger(Database(load_settings()))


async def test_a_job_continues_after_a_failed_run_until_it_is_stopped() -> None:
    runs = asyncio.Queue[int]()
    count = 0
    ended = asyncio.Event()

    async def work() -> None:
        nonlocal count
        count += 1
        await runs.put(count)
        if count == 1:
            raise Unavailable("DATABASE_UNAVAILABLE", "The database is unreachable.")
        if count == 3:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    with captured_logs() as log:
        runner = JobRunner([Job(name="sweep", interval=0.001, work=work)], unused_ledger())
        runner.start()
        async with asyncio.timeout(60):
            assert [await runs.get() for _ in range(3)] == [1, 2, 3]
            await runner.stop()
        assert ended.is_set()
        assert [(line["job"], line["reason"]) for line in log.named("job failed")] == [
            ("sweep", "DATABASE_UNAVAILABLE")
        ]


async def test_a_repeated_failure_is_logged_once_per_reason() -> None:
    """CIRCUIT_OPEN is not logged, because the circuit breaker logs it."""
    reasons = iter(["POOL_EXHAUSTED", "POOL_EXHAUSTED", "CIRCUIT_OPEN", "CIRCUIT_OPEN", "POOL_EXHAUSTED", ""])
    done = asyncio.Event()

    async def work() -> None:
        if reason := next(reasons, ""):
            raise Unavailable(reason, "Not now.")
        done.set()

    with captured_logs() as log:
        runner = JobRunner([Job(name="sweep", interval=0.001, work=work)], unused_ledger())
        runner.start()
        async with asyncio.timeout(60):
            await done.wait()
            await runner.stop()
        assert [line["reason"] for line in log.named("job failed")] == ["POOL_EXHAUSTED"] * 2
