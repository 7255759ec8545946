"""Summaries of any range equal the sums over the payments, while totals are folded at any time."""

import asyncio
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
from vsyncd.domains.payments.records import NewPayment, Payment, PaymentFilter, ProcessorTotal
from vsyncd.domains.payments.repository import PaymentRepository
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.harness.clusters import Database
from tests.harness.payments import PROCESSORS, check_invariants
from tests.harness.serving import opened, settings_for

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Times of a day. Those at and beside full hours are as likely as all others together.
times = st.builds(
    lambda hours, beside: timedelta(hours=hours) + beside,
    st.integers(1, 6),
    st.sampled_from([timedelta(), MICROSECOND, -MICROSECOND]) | st.timedeltas(timedelta(), timedelta(hours=1)),
)
amounts = st.decimals(Decimal("0.01"), Decimal("99999999.99"), places=2)
contents = st.tuples(amounts, st.sampled_from(PROCESSORS), times, times)


class Summaries(RuleBasedStateMachine):
    """Payments of one day. The database also has those of earlier examples, of earlier days."""

    numbers, days = count(), count()

    def __init__(self, runner: asyncio.Runner, pool: Pool) -> None:
        super().__init__()
        self.wait = runner.run
        self.repository = PaymentRepository(pool, Mutations(pool))
        self.day = BEGIN + next(self.days) * timedelta(days=1)
        self.stored: list[Payment] = []
        self.before = {total.processor: total for total in self.wait(self.repository.summary(None, None))}

    @rule(contents=st.lists(contents, min_size=1, max_size=6), single=st.booleans())
    def store(self, contents: list[tuple[Any, ...]], *, single: bool) -> None:
        """Stores payments concurrently or in a batch, and some of them again."""
        new = [
            NewPayment(f"order-{next(self.numbers)}", amount, processor, self.day + requested, self.day + processed)
            for amount, processor, requested, processed in contents
        ]

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

    @rule(first=st.none() | times, last=st.none() | times)
    def summarise(self, first: timedelta | None, last: timedelta | None) -> None:
        """The summary of a range, and the list of a range of the day."""
        if first is not None and last is not None and last < first:
            first, last = last, first
        begins = None if first is None else self.day + first
        ends = None if last is None else self.day + last
        inside = [
            payment
            for payment in self.stored
            if (begins is None or begins <= payment.processed_at) and (ends is None or payment.processed_at < ends)
        ]
        expected = dict(self.before) if begins is None else {}
        for payment in inside:
            total = expected.get(payment.processor, ProcessorTotal(payment.processor, 0, Decimal(0)))
            expected[payment.processor] = ProcessorTotal(
                payment.processor, total.payments + 1, total.amount + payment.amount
            )
        found = self.wait(self.repository.summary(begins, ends))
        assert {total.processor: total for total in found} == expected
        selected = PaymentFilter(None, begins or self.day, ends)
        page = self.wait(self.repository.page(selected, after=None, size=1_000))
        assert list(page.payments) == sorted(inside, key=lambda payment: (payment.processed_at, payment.id))

    @invariant()
    def the_summary_of_all_time_is_exact(self) -> None:
        """At any time."""
        self.summarise(None, None)


def mutation() -> Mutation:
    """Returns a mutation without a request id."""
    return Mutation(request_id=None, fingerprint=b"", call=RequestContext(method="test", correlation_id="-"))


@pytest.mark.parametrize("examples", [3, pytest.param(60, marks=pytest.mark.soak)])
def test_summaries_equal_the_sums_over_the_payments(database: Database, examples: int) -> None:
    context = opened(settings_for(database.service_url))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pool = runner.run(context.__aenter__())
        try:
            run_state_machine_as_test(
                # A callable that returns a state machine is sufficient.
                cast("type[Summaries]", partial(Summaries, runner, pool)),
                settings=hypothesis_settings(
                    max_examples=examples, stateful_step_count=15, deadline=None, suppress_health_check=[*HealthCheck]
                ),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))
    check_invariants(database)
