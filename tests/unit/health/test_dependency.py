"""A dependency is checked once at a time, for a bounded time, and what was found is used again."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from vsyncd.health.dependency import Dependency
from vsyncd.health.records import Details, Finding, Kind, Status
from vsyncd.health.registry import DependencyRegistry

GOOD = Finding(status=Status.HEALTHY, message="it answers")
BAD = Finding(status=Status.UNHEALTHY, message="it does not", error="refused")


class Scripted:
    """A dependency that does what the test says."""

    kind = Kind.OTHER
    is_critical = False

    def __init__(self, name: str = "scripted") -> None:
        self.name = name
        self.finding = GOOD
        self.defect: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.lets_go = asyncio.Event()
        self.lets_go.set()
        self.calls = self.at_once = self.most_at_once = 0
        self.closed = False

    async def check(self) -> Finding:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.answers.wait()
            if self.defect is not None:
                raise self.defect
            return self.finding
        finally:
            await self.lets_go.wait()
            self.at_once -= 1

    def details(self) -> Details:
        return Details(hostname="h")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
async def checker() -> Scripted:
    return Scripted()


@pytest.fixture
async def dependency(checker: Scripted) -> AsyncIterator[Dependency]:
    # No check that answers is too late, however busy the machine is; tests of a hanging one shorten it by `impatient`.
    dependency = Dependency(checker, timeout=60)
    yield dependency
    checker.lets_go.set()
    await dependency.close()
    assert checker.closed


def impatient(dependency: Dependency) -> None:
    """Let its checks time out soon."""
    dependency._timeout = 0.05


async def test_a_young_result_is_used_again_and_an_old_one_is_not(dependency: Dependency, checker: Scripted) -> None:
    first = await dependency.observe(max_age=60)
    assert await dependency.observe(max_age=60) is first
    assert checker.calls == 1
    assert await dependency.observe(max_age=0) is not first
    assert checker.calls == 2


async def test_whoever_asks_meanwhile_gets_the_same_check(dependency: Dependency, checker: Scripted) -> None:
    observations = await asyncio.gather(*(dependency.observe(max_age=0) for _ in range(50)))
    assert len({id(observation) for observation in observations}) == 1
    assert checker.calls == 1


async def test_a_caller_that_leaves_does_not_take_the_check_with_it(dependency: Dependency, checker: Scripted) -> None:
    checker.answers.clear()
    leaving, staying = (asyncio.create_task(dependency.observe(max_age=0)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    checker.answers.set()
    assert (await staying).status is Status.HEALTHY
    assert checker.calls == 1


async def test_a_hanging_check_is_reported_from_its_timeout_and_its_last_success(
    dependency: Dependency, checker: Scripted
) -> None:
    good = await dependency.observe(max_age=0)
    checker.answers.clear()
    impatient(dependency)
    hanging = await dependency.observe(max_age=0)
    assert (hanging.status, hanging.error) == (Status.UNHEALTHY, "timeout")
    assert hanging.last_success == good.last_success == good.last_check
    assert hanging.last_error_at == hanging.last_check > good.last_check
    assert hanging.response_time_ms >= 40
    checker.answers.set()
    dependency._timeout = 60
    back = await dependency.observe(max_age=0)
    assert (back.status, back.error) == (Status.HEALTHY, "")
    assert back.last_error_at == hanging.last_error_at


async def test_no_check_begins_while_one_that_was_given_up_goes_on(dependency: Dependency, checker: Scripted) -> None:
    checker.answers.clear()
    checker.lets_go.clear()
    impatient(dependency)
    for _ in range(3):
        assert (await dependency.observe(max_age=0)).error == "timeout"
    assert checker.calls == 1
    checker.answers.set()
    checker.lets_go.set()
    dependency._timeout = 60
    assert (await dependency.observe(max_age=0)).status is Status.HEALTHY
    assert (checker.calls, checker.most_at_once) == (2, 1)


async def test_a_failure_keeps_the_time_of_the_last_success(dependency: Dependency, checker: Scripted) -> None:
    checker.finding = BAD
    first = await dependency.observe(max_age=0)
    assert (first.last_success, first.error) == (None, "refused")
    checker.finding = GOOD
    good = await dependency.observe(max_age=0)
    checker.finding = BAD
    assert (await dependency.observe(max_age=0)).last_success == good.last_check


async def test_a_defect_of_a_check_is_that_dependencys_failure(dependency: Dependency, checker: Scripted) -> None:
    checker.defect = ZeroDivisionError("secret text")
    observation = await dependency.observe(max_age=0)
    assert (observation.status, observation.error) == (Status.UNHEALTHY, "internal error")
    assert "secret" not in observation.message


async def test_a_board_checks_in_parallel_and_in_order() -> None:
    checkers = [Scripted(f"number-{number}") for number in range(5)]
    checkers[1].answers.clear()
    checkers[3].answers.clear()
    board = DependencyRegistry(checkers, timeout=2, max_age=0)
    observing = asyncio.create_task(board.observe())
    while not all(checker.calls for checker in checkers):  # noqa: ASYNC110  all are checked in the next turns
        await asyncio.sleep(0)
    assert (checkers[1].at_once, checkers[3].at_once) == (1, 1)
    observations = await observing
    assert [observation.name for observation in observations] == board.names
    assert [observation.error for observation in observations] == ["", "timeout", "", "timeout", ""]
    assert [seen.name for seen in await board.observe(["number-4", "number-0"])] == ["number-0", "number-4"]
    with pytest.raises(KeyError):
        await board.observe(["number-9"])
    assert board.details("number-1").hostname == "h"
    await board.close()
    assert all(checker.closed for checker in checkers)


async def test_a_board_announces_changes_and_nothing_else() -> None:
    checker = Scripted()
    board = DependencyRegistry([checker], timeout=60, max_age=0)
    await board.observe()
    change = board.changes.next()
    await board.observe()
    assert not change.is_set()
    checker.finding = BAD
    await board.observe()
    assert change.is_set()
    assert not board.changes.next().is_set()
    await board.close()
    assert board.changes.ended
    assert board.changes.next().is_set()
    board.changes.announce()
    assert board.changes.next().is_set()
