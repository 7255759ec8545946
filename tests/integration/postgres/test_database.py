"""Reads and transactions on a real server, with lost connections, locks and deadlocks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from grpc import StatusCode
from vsyncd.core.context import RequestContext, reset_current_context, set_current_context
from vsyncd.core.errors import NotFound, ServiceError, Unavailable
from vsyncd.postgres.database import Database as DatabaseClient
from vsyncd.postgres.queries import Query, Session

from tests.harness.cids import rows, until, waiting_for_locks
from tests.harness.clusters import Database
from tests.harness.cutting_proxy import CuttingProxy, cutting_proxy
from tests.harness.serving import opened, settings_for

COUNT = Query("count", b"SELECT n FROM public.counters WHERE id = %(id)s")
COUNT_UP = Query("count_up", b"UPDATE public.counters SET n = n + 1 WHERE id = %(id)s RETURNING n")
PREPARED = Query("prepared", b"SELECT name FROM pg_prepared_statements WHERE statement LIKE '%%pg_backend_pid%%'")
MY_PID = Query("my_pid", b"SELECT pg_backend_pid()")


@pytest.fixture
def counted(database: Database) -> Database:
    """A database with a table of two counters."""
    with psycopg.connect(database.admin) as connection:
        connection.execute("CREATE TABLE public.counters AS SELECT id, 0 AS n FROM generate_series(1, 2) AS id")
        connection.execute("GRANT ALL ON public.counters TO PUBLIC")
    return database


@pytest.fixture
async def client(counted: Database) -> AsyncIterator[DatabaseClient]:
    """The primary, through vsyncd's pool."""
    async with opened(settings_for(counted.service_url, db_acquire_timeout=20)) as client:
        yield client


def counts(database: Database) -> list[int]:
    """Returns the counters."""
    return [row["n"] for row in rows(database, "SELECT n FROM public.counters ORDER BY id")]


async def failed(work: Any) -> ServiceError:
    """Returns the error that the work raises."""
    with pytest.raises(ServiceError) as caught:
        await work
    return caught.value


async def count_up(session: Session, counter: int = 1) -> int:
    """Increments a counter."""
    row = await session.one(COUNT_UP, {"id": counter})
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("prepare", [True, False])
async def test_statements_are_prepared_unless_disabled_for_a_pooler(database: Database, prepare: bool) -> None:
    async def work(session: Session) -> int:
        for _ in range(10):
            await session.one(MY_PID)
        return len(await session.all(PREPARED))

    settings = settings_for(database.service_url, db_max_connections=1, db_prepare_statements=prepare)
    async with opened(settings) as client:
        assert bool(await client.read(work)) is prepare


@pytest.mark.both_versions
async def test_the_victim_of_a_deadlock_is_retried(client: DatabaseClient, counted: Database) -> None:
    both_hold = asyncio.Barrier(2)
    attempts = 0

    async def crosswise(session: Session, first: int, second: int) -> None:
        nonlocal attempts
        attempts += 1
        await count_up(session, first)
        if attempts <= 2:
            await both_hold.wait()
        await count_up(session, second)

    await asyncio.gather(
        client.transaction(lambda session: crosswise(session, 1, 2)),
        client.transaction(lambda session: crosswise(session, 2, 1)),
    )
    assert attempts >= 3
    assert counts(counted) == [2, 2]


async def test_a_serialization_failure_is_retried_and_reported_after_the_last_attempt(
    client: DatabaseClient, counted: Database
) -> None:
    attempts = 0

    async def outdated(session: Session, *, times: int) -> int:
        nonlocal attempts
        attempts += 1
        await session.connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await session.one(COUNT, {"id": 1})
        if attempts <= times:
            with psycopg.connect(counted.admin) as other:
                other.execute("UPDATE public.counters SET n = n + 10 WHERE id = 1")
        return await count_up(session)

    assert await client.transaction(lambda session: outdated(session, times=2)) == 21
    assert attempts == 3
    attempts = 0
    failure = await failed(client.transaction(lambda session: outdated(session, times=99)))
    assert (failure.code, failure.reason, attempts) == (StatusCode.ABORTED, "CONTENTION", 4)


@pytest.mark.both_versions
async def test_a_transaction_is_retried_if_its_connection_is_lost_before_the_commit(
    client: DatabaseClient, counted: Database
) -> None:
    attempts = 0

    async def killed(session: Session) -> int:
        nonlocal attempts
        attempts += 1
        counter = await count_up(session)
        if attempts == 1:
            await _terminate(session, counted)
            await session.one(COUNT, {"id": 1})
        return counter

    assert await client.transaction(killed) == 1
    assert attempts == 2
    assert await client.read(count_up) == 2
    attempts = 0
    assert await client.read(killed) == 4, "in autocommit mode the statement before the loss is committed"


async def _terminate(session: Session, database: Database) -> None:
    row = await session.one(MY_PID)
    assert row is not None
    rows(database, "SELECT pg_terminate_backend(%s, 10000)", row[0])


async def test_an_error_of_the_work_is_rolled_back_and_not_retried(client: DatabaseClient, counted: Database) -> None:
    attempts = 0

    async def refuse(session: Session) -> None:
        nonlocal attempts
        attempts += 1
        await count_up(session)
        raise NotFound("CID_NOT_FOUND", "There is no such record.")

    assert (await failed(client.transaction(refuse))).reason == "CID_NOT_FOUND"
    assert (attempts, counts(counted)) == (1, [0, 0])


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (b"SELECT * FROM public.nothing", "SCHEMA_OUT_OF_DATE"),
        (b"SELECT 1/0", "INTERNAL"),
        (b"UPDATE vsync.cid_events SET cid = cid", "INTERNAL"),
    ],
)
async def test_a_refused_statement_has_its_reason(client: DatabaseClient, sql: bytes, reason: str) -> None:
    assert (await failed(client.read(lambda session: session.all(Query("x", sql))))).reason == reason
    assert (await failed(client.transaction(lambda session: session.all(Query("x", sql))))).reason == reason


async def test_a_statement_ends_at_its_timeout(counted: Database) -> None:
    async with opened(settings_for(counted.service_url, db_statement_timeout=0.1)) as client:
        failure = await failed(client.read(lambda session: session.all(Query("sleep", b"SELECT pg_sleep(30)"))))
    assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "QUERY_TIMEOUT")


async def test_the_wait_for_a_connection_is_bounded_by_the_acquire_timeout(counted: Database) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold(_session: Session) -> None:
        entered.set()
        await leave.wait()

    settings = settings_for(counted.service_url, db_max_connections=1, db_acquire_timeout=1)
    async with opened(settings) as client:
        await client.pool.wait()
        held = asyncio.create_task(client.read(hold))
        await entered.wait()
        failure = await failed(client.read(hold))
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "POOL_EXHAUSTED")
        assert failure.retry_after is not None
        leave.set()
        await held
        assert await client.read(count_up) == 1


async def test_without_a_database_every_use_is_unavailable() -> None:
    settings = settings_for("postgresql://nobody@127.0.0.1:1/nothing", db_acquire_timeout=0.2)
    async with opened(settings) as client:
        failure = await failed(client.read(count_up))
        assert failure.code is StatusCode.UNAVAILABLE
        with pytest.raises(Unavailable):
            async with client.connect("test", statement_timeout=1):
                pass


async def test_a_call_past_its_deadline_does_not_query_the_database(client: DatabaseClient) -> None:
    token = set_current_context(RequestContext(method="m", deadline=0.0))
    try:
        assert (await failed(client.read(count_up))).reason == "QUERY_TIMEOUT"
    finally:
        reset_current_context(token)


@pytest.mark.both_versions
async def test_a_cancelled_transaction_cancels_its_statement_and_rolls_back(
    client: DatabaseClient, counted: Database
) -> None:
    with psycopg.connect(counted.admin) as other:
        other.execute("UPDATE public.counters SET n = n WHERE id = 2")

        async def work(session: Session) -> None:
            await count_up(session, 1)
            await count_up(session, 2)

        task = asyncio.create_task(client.transaction(work))
        await until(lambda: waiting_for_locks(counted) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: waiting_for_locks(counted) == 0)  # after the caller was cancelled
    assert counts(counted) == [0, 0]
    assert await client.transaction(count_up) == 1


@pytest.fixture
def proxy(counted: Database) -> Iterator[CuttingProxy]:
    """A proxy in front of the database, which can cut connections."""
    with cutting_proxy(counted) as proxy:
        yield proxy


@pytest.mark.both_versions
async def test_a_commit_with_a_lost_answer_is_unknown_or_retried_if_repeatable(
    counted: Database, proxy: CuttingProxy
) -> None:
    async with opened(settings_for(proxy.url)) as client:
        proxy.cut_after(b"COMMIT")
        failure = await failed(client.transaction(count_up))
        assert (failure.code, failure.reason, failure.retry_after) == (StatusCode.UNKNOWN, "COMMIT_UNKNOWN", None)
        await until(lambda: counts(counted) == [1, 0])
        proxy.cut_after(b"COMMIT")
        assert await client.transaction(count_up, repeatable=True) == 3, (
            "the work was executed again after a successful commit"
        )
        assert proxy.cuts == 2


async def test_statements_that_all_time_out_open_the_breaker_although_the_monitor_gets_answers(
    counted: Database,
) -> None:
    settings = settings_for(counted.service_url, db_statement_timeout=0.3, db_breaker_reset=60)
    sleep = Query("sleep", b"SELECT pg_sleep(60)")
    async with opened(settings) as client, asyncio.timeout(60):
        while client.primary.breaker.closed:
            failure = await failed(client.read(lambda session: session.all(sleep)))
            assert failure.reason in {"QUERY_TIMEOUT", "CIRCUIT_OPEN"}
        assert client.primary.breaker.trips == 1
        assert (await failed(client.read(lambda session: session.all(sleep)))).reason == "CIRCUIT_OPEN"
