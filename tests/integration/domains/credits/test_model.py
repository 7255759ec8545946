"""Balances equal those of a model, whatever clients do concurrently and whenever reservations expire."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from typing import cast

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
from vsyncd.domains.credits.accounts import AccountRepository
from vsyncd.domains.credits.expiry import Expiry
from vsyncd.domains.credits.ledger import Ledger
from vsyncd.domains.credits.records import Kind, NewTransaction, Transaction
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.harness.cids import execute
from tests.harness.clusters import Database
from tests.harness.credits import check_invariants
from tests.harness.serving import opened, settings_for

TENANTS = Tenant(b"\1" * 32), Tenant(b"\2" * 32)
amounts = st.decimals(Decimal("0.01"), Decimal(60), places=2)
operations = st.tuples(
    st.sampled_from([Kind.CREDIT, Kind.DEBIT, Kind.RESERVE]), st.sampled_from(TENANTS), st.integers(0, 1), amounts
)
EXPIRE_ALL = "UPDATE vsync.credit_reservations SET expires_at = now() - interval '1 s' WHERE state = 1"


class Accounts(RuleBasedStateMachine):
    """Two accounts of each of two tenants, with the same names. Each example has its own names."""

    numbers, examples = count(), count()

    def __init__(self, runner: asyncio.Runner, pool: Pool, database: Database) -> None:
        super().__init__()
        self.wait, self.database = runner.run, database
        mutations = Mutations(pool)
        self.accounts = AccountRepository(pool, mutations)
        self.expiry = Expiry(pool, mutations)
        # Two instances: they group their calls independently.
        self.ledgers = [Ledger(pool, mutations), Ledger(pool, mutations)]
        example = next(self.examples)
        self.names = [f"{example}-{number}" for number in range(2)]
        self.balances: dict[tuple[Tenant, str], list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0)])
        self.held: dict[tuple[Tenant, str], list[Transaction]] = defaultdict(list)
        for tenant in TENANTS:
            for name in self.names:
                self.wait(self.accounts.open(mutation(tenant), name))
                self.balances[tenant, name]

    @rule(chosen=st.lists(operations, min_size=1, max_size=12), again=st.booleans())
    def post_together(self, chosen: list[tuple[Kind, Tenant, int, Decimal]], *, again: bool) -> None:
        """Posts transactions at the same time through two instances, and some of them twice."""
        expires_at = datetime.now(UTC) + timedelta(days=1)
        new = [
            (tenant, NewTransaction(self.names[name], kind, amount, f"r{next(self.numbers)}"))
            for kind, tenant, name, amount in chosen
        ]
        new = [
            (tenant, each._replace(expires_at=expires_at) if each.kind is Kind.RESERVE else each)
            for tenant, each in new
        ]
        self._post([*new, *(new[:2] if again else [])])

    @rule(whole=st.booleans(), capture=st.booleans(), twice=st.booleans())
    def close_reservations(self, *, whole: bool, capture: bool, twice: bool) -> None:
        """Captures or releases one reservation of each account, at the same time with debits."""
        kind = Kind.CAPTURE if capture else Kind.RELEASE
        new = []
        for (tenant, name), held in self.held.items():
            if held:
                reservation = held.pop()
                amount = None if whole or not capture else Decimal("0.01")
                close = NewTransaction(name, kind, amount, f"r{next(self.numbers)}", reservation.id)
                new.append((tenant, close))
                new += [(tenant, close._replace(reference=close.reference + "-other"))] if twice else []
                new.append((tenant, NewTransaction(name, Kind.DEBIT, Decimal(1), f"r{next(self.numbers)}")))
        self._post(new)

    @rule()
    def expire(self) -> None:
        """All reservations expire, and two instances release them."""
        execute(self.database, EXPIRE_ALL)

        async def together() -> list[int]:
            return list(await asyncio.gather(self.expiry.run(), self.expiry.run()))

        # Reservations of earlier examples have expired too.
        assert sum(self.wait(together())) >= sum(map(len, self.held.values()))
        for key, held in self.held.items():
            for reservation in held:
                self.balances[key][0] += reservation.amount
                self.balances[key][1] -= reservation.amount
            held.clear()

    @invariant()
    def balances_equal_those_of_the_model(self) -> None:
        """At any time."""
        for (tenant, name), balances in self.balances.items():
            account = self.wait(self.accounts.get(name, tenant=tenant))
            assert [account.available, account.reserved] == balances
            assert min(balances) >= 0

    def _post(self, new: Sequence[tuple[Tenant, NewTransaction]]) -> None:
        async def together() -> list[Transaction | BaseException]:
            calls = [self.ledgers[index % 2].post(mutation(tenant), each) for index, (tenant, each) in enumerate(new)]
            return await asyncio.gather(*calls, return_exceptions=True)

        results = self.wait(together())
        posted: dict[tuple[Tenant, str, int], Transaction] = {}
        for (tenant, each), result in zip(new, results, strict=True):
            if isinstance(result, Transaction):
                known = posted.setdefault((tenant, each.account, result.number), result)
                assert known == result, "a repeat is the same transaction"
            else:
                assert isinstance(result, ServiceError), result
                assert result.reason in {"INSUFFICIENT_CREDITS", "RESERVATION_CLOSED"}
        # The ledger's order decides which ones succeeded, and the balances after each.
        for (tenant, name, _), transaction in sorted(posted.items(), key=lambda item: item[0]):
            self._apply((tenant, name), transaction)

    def _apply(self, key: tuple[Tenant, str], transaction: Transaction) -> None:
        balances, amount = self.balances[key], transaction.amount
        match transaction.kind:
            case Kind.CREDIT:
                balances[0] += amount
            case Kind.DEBIT:
                balances[0] -= amount
            case Kind.RESERVE:
                balances[0] -= amount
                balances[1] += amount
                self.held[key].append(transaction)
            case _:
                whole = balances[1] - transaction.reserved
                balances[0] += whole - (amount if transaction.kind == Kind.CAPTURE else 0)
                balances[1] -= whole
        assert [transaction.available, transaction.reserved] == balances


def mutation(tenant: Tenant) -> Mutation:
    """Returns a mutation with a request id."""
    call = RequestContext(method="test", correlation_id="-")
    return Mutation(request_id=new_id(), fingerprint=bytes(16), call=call, tenant=tenant)


@pytest.mark.parametrize("examples", [2, pytest.param(80, marks=pytest.mark.soak)])
def test_balances_equal_those_of_a_model(database: Database, examples: int) -> None:
    context = opened(settings_for(database.service_url))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pool = runner.run(context.__aenter__())
        try:
            run_state_machine_as_test(
                # A callable that returns a state machine is sufficient.
                cast("type[Accounts]", partial(Accounts, runner, pool, database)),
                settings=hypothesis_settings(
                    max_examples=examples, stateful_step_count=12, deadline=None, suppress_health_check=[*HealthCheck]
                ),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))
    check_invariants(database)
