"""Retries: what, how often and for how long."""

import grpc
import psycopg
import pytest
from vsyncd.core.errors import ServiceError
from vsyncd.postgres.error_mapping import Contention, DatabaseUnavailable, NotReplicated, ServerSilent, service_error
from vsyncd.resilience.retry import RETRIES_PER_CALL, Retrier, RetryableError, RetryBudget


async def failing(times: int, calls: list[int]) -> str:
    calls.append(len(calls))
    if len(calls) <= times:
        raise RetryableError("40001", Contention()) from psycopg.errors.SerializationFailure("x")
    return "done"


async def test_a_rolled_back_transaction_is_retried() -> None:
    retrier, calls = Retrier(RetryBudget(burst=10)), list[int]()
    assert await retrier.execute(lambda: failing(2, calls)) == "done"
    assert (len(calls), dict(retrier.counts)) == (3, {"40001": 2})


async def test_there_are_at_most_four_attempts() -> None:
    retrier, calls = Retrier(RetryBudget(burst=10)), list[int]()
    with pytest.raises(Contention):
        await retrier.execute(lambda: failing(99, calls))
    assert (len(calls), dict(retrier.counts)) == (4, {"40001": 3})


async def test_without_budget_nothing_is_retried() -> None:
    budget = RetryBudget(burst=2)
    retrier, calls = Retrier(budget), list[int]()
    with pytest.raises(Contention):
        await retrier.execute(lambda: failing(99, calls))
    assert (len(calls), budget.tokens) == (3, 0)
    with pytest.raises(Contention):
        await retrier.execute(lambda: failing(99, calls))
    assert len(calls) == 4


async def test_ten_calls_earn_a_retry() -> None:
    budget = RetryBudget(burst=1)
    assert budget.spend()
    assert not budget.spend()
    for _ in range(round(1 / RETRIES_PER_CALL) + 1):
        budget.earn()
    assert budget.spend()
    assert not budget.spend()


async def test_nothing_is_retried_after_the_deadline() -> None:
    retrier, calls = Retrier(RetryBudget(burst=10)), list[int]()
    with pytest.raises(Contention):
        await retrier.execute(lambda: failing(99, calls), time_left=0.001)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "error",
    [
        ServerSilent(),
        service_error(psycopg.OperationalError("lost")),
        service_error(NotReplicated("not yet")),
    ],
)
async def test_a_commit_that_stays_unknown_asks_its_caller_to_send_it_again(error: ServiceError) -> None:
    async def attempt() -> str:
        raise RetryableError("commit_unknown", error)

    with pytest.raises(DatabaseUnavailable) as raised:
        await Retrier(RetryBudget(burst=0)).execute(attempt)
    assert raised.value.code is grpc.StatusCode.UNAVAILABLE
    assert raised.value.retry_after
