"""Summaries of any range equal the sums over the payments, while totals are folded at any time."""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any, cast

import pytest
import uvloop
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from vsyncd.core.context import RequestContext
from vsyncd.domains.payments.records import NewPayment, Payment, PaymentFilter
from vsyncd.domains.payments.repository import PaymentRepository
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.harness.clusters import Database
from tests.harness.payments import PROCESSORS, check_invariants
from tests.harness.serving import opened, settings_for

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Times at and beside full hours are as likely as all others together.
times = st.builds(
    lambda hours, beside: BEGIN + timedelta(hours=hours) + beside,
    st.integers(0, 5),
    st.sampled_from([timedelta(), MICROSECOND, -MICROSECOND]) | st.timedeltas(timedelta(), timedelta(hours=1)),
)
amounts = st.decimals(Decimal("0.01"), Decimal("99999999.99"), places=2)
contents = st.tuples(amounts, st.sampled_from(PROCESSORS), times, times)


class Summaries(RuleBasedStateMachine):
    """Payments of the last examples too: the database has those of all."""

    numbers = count()
    stored: list[Payment] = []  # noqa: RUF012  shared by all examples on purpose

    def __init__(self, runner: asyncio.Runner, pool: Pool) -> None:
        super().__init__()
        self.wait = runner.run
        self.repository = PaymentRepository(pool, Mutations(pool))

    @rule(contents=st.lists(contents, min_size=1, max_size=6), single=st.booleans())
    def store(self, contents: list[tuple[Any, ...]], *, single: bool) -> None:
        """Stores payments concurrently or in a batch, and some of them again."""
        new = [NewPayment(f"order-{next(self.numbers)}", *content) for content in contents]

        async def together() -> list[Any]:
            if single:
                return await asyncio.gather(*(self.repository.store(mutation(), each) for each in [*new, new[0]]))
            await self.repository.store(mutation(), new[-1])
            return await self.repository.store_batch(mutation(), new)

        results = self.wait(together())
        assert sum(result.stored for result in results) == (len(new) if single else len(new) - 1)
        self.stored.extend({result.payment.id: result.payment for result in results}.values())

    @rule()
    def fold(self) -> None:
        """The job folds the totals."""
        self.wait(self.repository.fold_totals())

    @rule(begins=st.none() | times, ends=st.none() | times)
    def summarise(self, begins: datetime | None, ends: datetime | None) -> None:
        """The summary of a range, and the list of it."""
        if begins is not None and ends is not None and ends < begins:
            begins, ends = ends, begins
        inside = [
            payment
            for payment in self.stored
            if (begins is None or begins <= payment.processed_at) and (ends is None or payment.processed_at < ends)
        ]
        expected: dict[str, tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
        for payment in inside:
            number, amount = expected[payment.processor]
            expected[payment.processor] = number + 1, amount + payment.amount
        found = self.wait(self.repository.summary(begins, ends))
        assert {total.processor: total[1:] for total in found} == expected
        page = self.wait(self.repository.page(PaymentFilter(None, begins, ends), after=None, size=1_000))
        assert list(page.payments) == sorted(inside, key=lambda payment: (payment.processed_at, payment.id))[:1_000]

    @invariant()
    def the_summary_of_all_time_is_exact(self) -> None:
        """At any time."""
        self.summarise(None, None)


def mutation() -> Mutation:
    """Returns a mutation without a request id."""
    return Mutation(request_id=None, fingerprint=b"", call=RequestContext(method="test", correlation_id="-"))


@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_summaries_equal_the_sums_over_the_payments(database: Database, examples: int) -> None:
    Summaries.stored.clear()
    context = opened(settings_for(database.service_url))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pool = runner.run(context.__aenter__())
        try:
            run_state_machine_as_test(
                # A callable that returns a state machine is sufficient.
                cast("type[Summaries]", partial(Summaries, runner, pool)),
                settings=hypothesis_settings(
                    max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=[*HealthCheck]
                ),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))
    check_invariants(database)
