"""An exclusive job has one run at a time per database, whatever happens to the instances."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from prometheus_client import generate_latest
from vsyncd.core.errors import Unavailable
from vsyncd.jobs.ledger import JobLedger, JobRun
from vsyncd.jobs.runner import Job, JobFailed, JobRunner
from vsyncd.observability.metrics import REGISTRY
from vsyncd.postgres.database import Database as Pool

from tests.harness.clusters import Database
from tests.harness.logs import captured_logs
from tests.harness.serving import opened, settings_for

# Seconds. No lease of this length ends during a test, however busy the machine is.
LEASE = 60.0
# It is renewed after a third of its length. If the machine stalls for longer than the lease, another runner takes over.
SHORT_LEASE = 12.0
POLL = 0.05


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """A pool with the service's role."""
    async with opened(settings_for(database.service_url)) as pool:
        yield pool


@contextlib.asynccontextmanager
async def running(pool: Pool, job: Job, *, lease: float = LEASE) -> AsyncIterator[JobLedger]:
    ledger = JobLedger(pool, lease=lease)
    runner = JobRunner([job], ledger, poll=POLL)
    runner.start()
    try:
        yield ledger
    finally:
        await runner.stop()


async def until(ledger: JobLedger, condition: Callable[[JobRun], bool]) -> JobRun:
    async with asyncio.timeout(60):
        while not condition(run := await ledger.find("sweep")):  # noqa: ASYNC110  what is awaited is in the database
            await asyncio.sleep(0.02)
    return run


def sweep(work: Callable[[], Awaitable[object]], *, interval: float = 3600, retry: float | None = None) -> Job:
    return Job(name="sweep", interval=interval, work=work, exclusive=True, retry=retry)


@pytest.mark.both_versions
async def test_one_of_several_instances_runs_at_a_time(pool: Pool) -> None:
    at_work = 0
    runs: list[int] = []
    enough = asyncio.Event()

    def of_instance(number: int) -> Job:
        async def work() -> None:
            nonlocal at_work
            at_work += 1
            assert at_work == 1
            await asyncio.sleep(0.005)
            at_work -= 1
            runs.append(number)
            if len(runs) >= 20:
                enough.set()

        return sweep(work, interval=0.001)

    async with contextlib.AsyncExitStack() as stack:
        for number in range(4):
            await stack.enter_async_context(running(pool, of_instance(number)))
        async with asyncio.timeout(60):
            await enough.wait()


async def test_the_interval_between_runs_continues_across_a_restart(pool: Pool) -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    async with running(pool, sweep(work)) as ledger:
        run = await until(ledger, lambda run: run.last_succeeded is not None)
        assert (run.holder, run.lease_until, run.last_error) == (None, None, None)
    async with running(pool, sweep(work)) as ledger:
        told = generate_latest(REGISTRY).decode()
        await asyncio.sleep(5 * POLL)
    assert runs == 1
    assert 'vsyncd_job_interval_seconds{job_name="sweep"} 3600.0' in told
    assert 'vsyncd_job_runs_total{job_name="sweep",result="succeeded"}' in told


async def test_a_missed_run_is_made_up_for(pool: Pool, database: Database) -> None:
    with psycopg.connect(database.owner) as connection:
        connection.execute(
            "INSERT INTO vsync.job_runs (name, last_started, last_finished, last_succeeded)"
            " SELECT 'sweep', at, at, at FROM (SELECT now() - interval '3 days' AS at) AS past"
        )
    ran = asyncio.Event()

    async def work() -> None:
        ran.set()

    async with running(pool, sweep(work)), asyncio.timeout(60):
        await ran.wait()


@pytest.mark.parametrize("running_still", [True, False])
async def test_times_of_a_clock_that_was_ahead_do_not_delay_a_run(
    pool: Pool, database: Database, *, running_still: bool
) -> None:
    with psycopg.connect(database.owner) as connection:
        connection.execute(
            "INSERT INTO vsync.job_runs (name, holder, lease_until, last_started, last_finished, last_succeeded)"
            " SELECT 'sweep', CASE WHEN %(running)s THEN 'another' END, CASE WHEN %(running)s THEN at + '1 minute' END,"
            " at, at, at FROM (SELECT now() + interval '9 years' AS at) AS ahead",
            {"running": running_still},
        )
    ran = asyncio.Event()

    async def work() -> None:
        ran.set()

    async with running(pool, sweep(work)) as ledger, asyncio.timeout(60):
        await ran.wait()
        run = await until(ledger, lambda run: run.last_succeeded is not None and run.last_succeeded <= run.now)
        assert (run.is_ahead, run.holder) == (False, None)
        assert run.last_finished is not None
        assert run.last_finished <= run.now


async def test_a_job_can_have_its_own_schedule(pool: Pool) -> None:
    asked: list[datetime | None] = []
    ran = asyncio.Event()

    def due(last: datetime | None) -> datetime:
        asked.append(last)
        return datetime.now(UTC) + timedelta(days=1 if last else -1)

    async def work() -> None:
        ran.set()

    async with running(pool, Job(name="sweep", interval=60, work=work, exclusive=True, due=due)) as ledger:
        async with asyncio.timeout(60):
            await ran.wait()
        run = await until(ledger, lambda run: run.last_succeeded is not None)
        async with asyncio.timeout(60):
            while asked[-1] is None:  # noqa: ASYNC110  the next look
                await asyncio.sleep(POLL)
    assert asked[0] is None
    assert asked[-1] == run.last_started


async def test_a_failed_run_is_recorded_with_its_reason_and_repeated(pool: Pool) -> None:
    failures: list[Exception] = [
        JobFailed("no room in the destination"),
        Unavailable("DATABASE_UNAVAILABLE", "The database is unreachable."),
        KeyError("someone@example.com"),
    ]
    seen: list[str | None] = []
    ledger = JobLedger(pool)

    async def work() -> None:
        seen.append((await ledger.find("sweep")).last_error)
        if failures:
            raise failures.pop(0)

    with captured_logs() as log:
        async with running(pool, sweep(work, retry=0.01)):
            run = await until(ledger, lambda run: run.last_succeeded is not None)
    assert seen == [None, "no room in the destination", "DATABASE_UNAVAILABLE", "KeyError"]
    assert run.last_error is None
    assert [line["reason"] for line in log.named("job failed")] == seen[1:3]
    assert len(log.named("job raised an unexpected error")) == 1
    assert "someone@example.com" not in log.text


async def test_another_instance_takes_over_after_the_lease_has_expired(pool: Pool) -> None:
    dead = JobLedger(pool, lease=1)
    assert await dead.claim("sweep", await dead.find("sweep"))
    ran = asyncio.Event()

    async def work() -> None:
        ran.set()

    async with running(pool, sweep(work)) as ledger, asyncio.timeout(60):
        assert not ran.is_set()
        await ran.wait()
        await until(ledger, lambda run: run.last_succeeded is not None)


_HOLDER = """
import asyncio, sys
from vsyncd.config import load_settings
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.runner import Job, JobRunner
from vsyncd.postgres.database import Database

async def work():
    print("at work", flush=True)
    await asyncio.Event().wait()

async def main():
    database = Database(load_settings(database_url=sys.argv[1]))
    await database.open()
    job = Job(name="sweep", interval=3600, work=work, exclusive=True)
    JobRunner([job], JobLedger(database, lease=float(sys.argv[2]))).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_another_instance_repeats_the_run_after_kill_9(pool: Pool, database: Database) -> None:
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _HOLDER, database.service_url, str(SHORT_LEASE)), stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    async with asyncio.timeout(60):
        while (line := await holder.stdout.readline()) != b"at work\n":
            assert line, "the holder has ended"  # a log line, for example of a slow query
    ran = asyncio.Event()

    async def work() -> None:
        ran.set()

    async with running(pool, sweep(work)) as ledger:
        first = await ledger.find("sweep")
        # A live process renews its lease.
        later = await until(ledger, lambda run: run.lease_until != first.lease_until)
        assert (later.holder, ran.is_set()) == (first.holder, False)
        holder.kill()
        await holder.wait()
        with psycopg.connect(database.owner) as connection:
            connection.execute("UPDATE vsync.job_runs SET lease_until = now() WHERE name = 'sweep'")
        async with asyncio.timeout(60):
            await ran.wait()
        await until(ledger, lambda run: run.last_succeeded is not None)


async def test_a_long_run_renews_its_lease_and_a_stopped_run_releases_it(pool: Pool) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running(pool, sweep(work), lease=SHORT_LEASE) as ledger:
        async with asyncio.timeout(60):
            await begun.wait()
        first = await ledger.find("sweep")
        later = await until(ledger, lambda run: run.lease_until != first.lease_until)
        assert later.is_running
        assert later.holder == first.holder
    assert ended.is_set()
    run = await ledger.find("sweep")
    assert (run.is_running, run.was_interrupted) == (False, True)


async def test_an_instance_without_database_ends_its_run_before_another_begins(pool: Pool, database: Database) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with psycopg.connect(database.admin, autocommit=True) as admin:
        async with running(pool, sweep(work, retry=3600), lease=3):
            async with asyncio.timeout(60):
                await begun.wait()
            # Another instance holds the lease, as after its expiry.
            admin.execute("UPDATE vsync.job_runs SET holder = 'another', lease_until = now() + interval '100 seconds'")
            async with asyncio.timeout(60):
                await ended.wait()
        row = admin.execute("SELECT holder FROM vsync.job_runs").fetchone()
    assert row == ("another",)


async def test_run_now_runs_a_job_that_is_not_due_unless_another_instance_runs_it(pool: Pool) -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    runner = JobRunner([], JobLedger(pool))
    assert await runner.run_now(sweep(work))
    assert await runner.run_now(sweep(work))
    other = JobLedger(pool)
    assert await other.claim("sweep", await other.find("sweep"))
    assert not await runner.run_now(sweep(work))
    assert runs == 2
