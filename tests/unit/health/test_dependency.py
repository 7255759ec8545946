"""A dependency has one check at a time, with a time limit, and recent results are reused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from vsync.health.v1 import health_pb2 as pb
from vsyncd.health.registry import Dependency, DependencyRegistry
from vsyncd.health.status import Finding, Status

GOOD = Finding(status=Status.HEALTHY, message="it answers")
BAD = Finding(status=Status.UNHEALTHY, message="it does not", error="refused")


class Scripted:
    """A checker whose results the test controls."""

    kind = pb.OTHER
    is_critical = False

    def __init__(self, name: str = "scripted") -> None:
        self.name = name
        self.finding = GOOD
        self.defect: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.calls = self.running = self.max_running = 0
        self.closed = False

    async def check(self) -> Finding:
        self.calls += 1
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await self.answers.wait()
            if self.defect is not None:
                raise self.defect
            return self.finding
        finally:
            await self.may_end.wait()
            self.running -= 1

    def details(self) -> pb.DependencyConfig:
        return pb.DependencyConfig(hostname="h")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
async def checker() -> Scripted:
    return Scripted()


@pytest.fixture
async def dependency(checker: Scripted) -> AsyncIterator[Dependency]:
    # The timeout exceeds every delay of a busy machine; tests of a hanging check shorten it.
    dependency = Dependency(checker, timeout=60)
    yield dependency
    checker.may_end.set()
    await dependency.close()
    assert checker.closed


def shorten_timeout(dependency: Dependency) -> None:
    dependency._timeout = 0.05


async def test_a_recent_result_is_reused_and_an_old_one_is_not(dependency: Dependency, checker: Scripted) -> None:
    first = await dependency.observe(max_age=60)
    assert await dependency.observe(max_age=60) is first
    assert checker.calls == 1
    assert await dependency.observe(max_age=0) is not first
    assert checker.calls == 2


async def test_concurrent_callers_share_one_check(dependency: Dependency, checker: Scripted) -> None:
    observations = await asyncio.gather(*(dependency.observe(max_age=0) for _ in range(50)))
    assert len({id(observation) for observation in observations}) == 1
    assert checker.calls == 1


async def test_a_cancelled_caller_does_not_cancel_the_shared_check(dependency: Dependency, checker: Scripted) -> None:
    checker.answers.clear()
    leaving, staying = (asyncio.create_task(dependency.observe(max_age=0)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    checker.answers.set()
    assert (await staying).status is Status.HEALTHY
    assert checker.calls == 1


async def test_a_hanging_check_is_reported_as_a_timeout_with_its_last_success(
    dependency: Dependency, checker: Scripted
) -> None:
    good = await dependency.observe(max_age=0)
    checker.answers.clear()
    shorten_timeout(dependency)
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


async def test_no_check_begins_before_a_timed_out_check_has_ended(dependency: Dependency, checker: Scripted) -> None:
    checker.answers.clear()
    checker.may_end.clear()
    shorten_timeout(dependency)
    for _ in range(3):
        assert (await dependency.observe(max_age=0)).error == "timeout"
    assert checker.calls == 1
    checker.answers.set()
    checker.may_end.set()
    dependency._timeout = 60
    assert (await dependency.observe(max_age=0)).status is Status.HEALTHY
    assert (checker.calls, checker.max_running) == (2, 1)


async def test_a_failure_keeps_the_time_of_the_last_success(dependency: Dependency, checker: Scripted) -> None:
    checker.finding = BAD
    first = await dependency.observe(max_age=0)
    assert (first.last_success, first.error) == (None, "refused")
    checker.finding = GOOD
    good = await dependency.observe(max_age=0)
    checker.finding = BAD
    assert (await dependency.observe(max_age=0)).last_success == good.last_check


async def test_an_unexpected_error_of_a_check_is_a_failure(dependency: Dependency, checker: Scripted) -> None:
    checker.defect = ZeroDivisionError("secret text")
    observation = await dependency.observe(max_age=0)
    assert (observation.status, observation.error) == (Status.UNHEALTHY, "internal error")
    assert "secret" not in observation.message


async def test_a_registry_checks_in_parallel_and_reports_in_order() -> None:
    checkers = [Scripted(f"number-{number}") for number in range(5)]
    checkers[1].answers.clear()
    checkers[3].answers.clear()
    registry = DependencyRegistry(checkers, timeout=2, max_age=0)
    observing = asyncio.create_task(registry.observe())
    while not all(checker.calls for checker in checkers):  # noqa: ASYNC110  all are checked in the next turns
        await asyncio.sleep(0)
    assert (checkers[1].running, checkers[3].running) == (1, 1)
    observations = await observing
    assert [observation.name for observation in observations] == registry.names
    assert [observation.error for observation in observations] == ["", "timeout", "", "timeout", ""]
    assert [seen.name for seen in await registry.observe(["number-4", "number-0"])] == ["number-0", "number-4"]
    with pytest.raises(KeyError):
        await registry.observe(["number-9"])
    assert registry.details("number-1").hostname == "h"
    await registry.close()
    assert all(checker.closed for checker in checkers)


async def test_a_registry_announces_only_changes() -> None:
    checker = Scripted()
    registry = DependencyRegistry([checker], timeout=60, max_age=0)
    await registry.observe()
    change = registry.changes.next()
    await registry.observe()
    assert not change.is_set()
    checker.finding = BAD
    await registry.observe()
    assert change.is_set()
    assert not registry.changes.next().is_set()
    await registry.close()
    assert registry.changes.ended
    assert registry.changes.next().is_set()
    registry.changes.announce()
    assert registry.changes.next().is_set()
