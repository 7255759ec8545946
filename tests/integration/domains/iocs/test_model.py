"""IOCs equal those of a model, whatever two instances do concurrently and whenever IOCs expire."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, NamedTuple, cast

import pytest
import uvloop
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import ServiceError
from vsyncd.core.ids import new_id
from vsyncd.core.tenants import Tenant
from vsyncd.domains.iocs.cleanup import Cleanup
from vsyncd.domains.iocs.records import Ioc, IocFilter, IocKey, IocNotFound, IocType, NewIoc, PutAnswer
from vsyncd.domains.iocs.repository import IocRepository
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.harness.cids import execute
from tests.harness.clusters import Database
from tests.harness.iocs import EXPIRE
from tests.harness.serving import opened, settings_for

TENANTS = Tenant(b"\1" * 32), Tenant(b"\2" * 32)
DAY_US = 86_400 * 1_000_000
KEYS = [IocKey(kind, f"{number}") for kind in (IocType.DOMAIN, IocType.MD5) for number in range(3)]
keys, tenants = st.sampled_from(KEYS), st.sampled_from(TENANTS)
revisions = st.none() | st.integers(0, 3)
contents = st.tuples(st.integers(0, 100), st.sampled_from(["a", "b"]), st.sampled_from([(), ("x",), ("x", "y")]))


class Stored(NamedTuple):
    """An IOC of the model."""

    confidence: int
    source: str
    tags: tuple[str, ...]
    revision: int


class Iocs(RuleBasedStateMachine):
    """The IOCs of two tenants with the same keys. Each example begins without any."""

    def __init__(self, runner: asyncio.Runner, pool: Pool, database: Database) -> None:
        super().__init__()
        self.runner, self.database = runner, database
        mutations = Mutations(pool)
        self.instances = [IocRepository(pool, mutations), IocRepository(pool, mutations)]
        self.cleanup = Cleanup(pool, mutations)
        execute(database, "DELETE FROM vsync.iocs")
        self.stored: dict[tuple[Tenant, IocKey], Stored] = {}

    @rule(tenant=tenants, chosen=st.dictionaries(keys, st.tuples(contents, revisions), min_size=1), again=st.booleans())
    def put(self, tenant: Tenant, chosen: dict[IocKey, Any], *, again: bool) -> None:
        """Puts a batch, and repeats the request."""
        new = [new_ioc(key, content, revision) for key, (content, revision) in chosen.items()]
        request = mutation(tenant)
        (answer,) = self.together(self.instances[0].put(request, new, tenant=tenant, is_batch=True))
        found = {key: self.stored[tenant, key].revision if (tenant, key) in self.stored else 0 for key in chosen}
        if any(revision not in {None, found[key]} for key, (_, revision) in chosen.items()):
            assert isinstance(answer, ServiceError)
            assert answer.reason == "REVISION_MISMATCH"
            return
        assert isinstance(answer, PutAnswer)
        assert [outcome.revision for outcome in answer.outcomes] == [found[key] + 1 for key in chosen]
        if again:
            assert self.together(self.instances[1].put(request, new, tenant=tenant, is_batch=True)) == [answer]
        for key, (content, _) in chosen.items():
            self.stored[tenant, key] = Stored(content[0], content[1], content[2], found[key] + 1)

    @rule(tenant=tenants, chosen=st.lists(keys, min_size=2, unique=True), first=contents, second=contents)
    def put_at_the_same_time(self, tenant: Tenant, chosen: list[IocKey], first: Any, second: Any) -> None:
        """Two instances put the same IOCs in opposite orders. One replaces all of the other's."""
        batches = [
            [new_ioc(key, content) for key in order] for content, order in ((first, chosen), (second, chosen[::-1]))
        ]
        answers = self.together(
            *(
                each.put(mutation(tenant), new, tenant=tenant, is_batch=True)
                for each, new in zip(self.instances, batches, strict=True)
            )
        )
        assert all(isinstance(answer, PutAnswer) for answer in answers), answers
        for key in chosen:
            (ioc,) = self.together(self.instances[0].get(key, tenant=tenant))
            revision = self.stored[tenant, key].revision if (tenant, key) in self.stored else 0
            assert ioc.revision == revision + 2
            stored = stored_of(ioc)
            assert stored[:3] in {first, second}
            self.stored[tenant, key] = stored

    @rule(tenant=tenants, key=keys, revision=revisions)
    def delete(self, tenant: Tenant, key: IocKey, revision: int | None) -> None:
        """Two instances delete the same IOC at the same time."""
        calls = (each.delete(mutation(tenant), key, revision=revision, tenant=tenant) for each in self.instances)
        answers = [answer.reason if isinstance(answer, ServiceError) else answer for answer in self.together(*calls)]
        found = self.stored.get((tenant, key))
        if found is None:
            assert answers == ["IOC_NOT_FOUND"] * 2
        elif revision not in {None, found.revision}:
            assert answers == ["REVISION_MISMATCH"] * 2
        else:
            assert set(answers) == {None, "IOC_NOT_FOUND"}
            del self.stored[tenant, key]

    @rule(clean=st.booleans())
    def expire(self, *, clean: bool) -> None:
        """All IOCs expire, and two instances may delete them."""
        execute(self.database, EXPIRE)
        self.stored.clear()
        if clean:
            self.together(self.cleanup.run(), self.cleanup.run())

    @invariant()
    def iocs_equal_those_of_the_model(self) -> None:
        """Every way to read them."""
        for tenant in TENANTS:
            mine = {key: stored for (owner, key), stored in self.stored.items() if owner == tenant}
            page, *checked = self.together(
                self.instances[0].page(IocFilter(0, "", "", 0), tenant=tenant, after=None, size=100),
                *(
                    self.instances[1].check(kind, [key.value for key in KEYS], tenant=tenant)
                    for kind in (IocType.DOMAIN, IocType.MD5)
                ),
            )
            assert [IocKey(ioc.type, ioc.value) for ioc in page.iocs] == sorted(mine)
            assert {IocKey(*ioc[:2]): stored_of(ioc) for ioc in page.iocs} == mine
            for kind, known in zip((IocType.DOMAIN, IocType.MD5), checked, strict=True):
                assert known == {key.value: stored.confidence for key, stored in mine.items() if key.type == kind}
        absent = IocKey(IocType.URL, "absent")
        assert isinstance(self.together(self.instances[0].get(absent, tenant=TENANTS[0]))[0], IocNotFound)

    def together(self, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
        """Returns the results or errors of calls that run at the same time."""

        async def gathered() -> list[Any]:
            return list(await asyncio.gather(*calls, return_exceptions=True))

        return self.runner.run(gathered())


def new_ioc(key: IocKey, content: tuple[int, str, tuple[str, ...]], revision: int | None = None) -> NewIoc:
    """Returns an IOC that expires after a day."""
    confidence, source, tags = content
    return NewIoc(key.type, key.value, confidence, source, tags, DAY_US, revision)


def stored_of(ioc: Ioc) -> Stored:
    """Returns an IOC as the model has it."""
    return Stored(ioc.confidence, ioc.source, tuple(ioc.tags), ioc.revision)


def mutation(tenant: Tenant) -> Mutation:
    """Returns a mutation with a request id."""
    call = RequestContext(method="test", correlation_id="-")
    return Mutation(request_id=new_id(), fingerprint=bytes(16), call=call, tenant=tenant)


@pytest.mark.parametrize("examples", [3, pytest.param(80, marks=pytest.mark.soak)])
def test_iocs_equal_those_of_a_model(database: Database, examples: int) -> None:
    context = opened(settings_for(database.service_url))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pool = runner.run(context.__aenter__())
        try:
            run_state_machine_as_test(
                # A callable that returns a state machine is sufficient.
                cast("type[Iocs]", partial(Iocs, runner, pool, database)),
                settings=hypothesis_settings(
                    max_examples=examples, stateful_step_count=15, deadline=None, suppress_health_check=[*HealthCheck]
                ),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))
