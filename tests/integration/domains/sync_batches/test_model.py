"""Any sequence of claims, reports, ending leases, changes, deletions, failures and retries, against a model.

Some of them happen at once. Leases end by writing the past into them: what time does, without waiting for it.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
import uvloop
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import FailedPrecondition
from vsyncd.domains.cids.records import FAILED, PENDING, SYNCED
from vsyncd.domains.sync_batches.batch_lock import CLAIM_METHOD, ClaimNotFound
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.records import RecordOutcome, ReportOutcome, SyncClaim, SyncResult
from vsyncd.domains.sync_batches.reports import SyncReportRepository
from vsyncd.domains.sync_batches.repository import SyncBatchRepository
from vsyncd.domains.sync_batches.transitions import SyncBatchTransitions
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.harness.clusters import Database
from tests.harness.serving import opened, settings_for
from tests.integration.domains.sync_batches.batches import Store

LEASE = timedelta(hours=1)
APPLIED, REPEATED, STALE = ReportOutcome.APPLIED, ReportOutcome.REPEATED, ReportOutcome.STALE
OUTCOME_OF = {SYNCED: RecordOutcome.SYNCED, FAILED: RecordOutcome.FAILED}
picks = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([SYNCED, FAILED])), min_size=1, max_size=6)


@dataclass
class Record:
    """A record of the batch as it must be."""

    token: UUID | None = None
    leased: bool = False
    outcome: RecordOutcome | None = None
    gone: bool = False
    # Since it was claimed.
    changed: bool = False
    # The CID's own.
    status: int = PENDING

    @property
    def claimable(self) -> bool:
        """Whether a claim may take it."""
        return self.outcome is None and not self.leased


class Workers(RuleBasedStateMachine):
    """One batch of ten records, and what happens to it."""

    numbers = itertools.count(10_000_000)

    def __init__(self, runner: asyncio.Runner, pool: Pool, store: Store) -> None:
        super().__init__()
        self.wait: Callable[[Any], Any] = runner.run
        self.store = store
        mutations = Mutations(pool)
        self.repository, self.steps = (
            SyncBatchRepository(pool, mutations),
            SyncBatchTransitions(pool, mutations, step=3),
        )
        self.claims, self.reports = SyncClaimRepository(pool, mutations), SyncReportRepository(pool, mutations)
        ispb = str(next(self.numbers))
        self.records = {bytes.fromhex(cid): Record() for cid in store.add_cids(10, ispb)}
        self.tokens: list[UUID] = []
        self.batch_id = self.wait(self.repository.create(new(), batch_date=date(2026, 11, 3), ispb=ispb)).id
        self.wait(self.steps.start(new(), self.batch_id))

    # -- what happens ------------------------------------------------------------------------------------------------

    @rule(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4))
    def claim(self, sizes: list[int]) -> None:
        """Some workers at once."""
        there = {cid for cid, record in self.records.items() if record.claimable and not record.gone}
        claims = self.together(*(self.claiming(size) for size in sizes))
        taken = [record.cid for claim in claims for record in claim.records]
        assert len(taken) == len(set(taken)) == min(len(there), sum(sizes))
        assert set(taken) <= there
        self.note(claims)

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0), picks=picks)
    def report(self, at: int, picks: list[tuple[int, int]]) -> None:
        """Under any token there ever was, for any records."""
        token, results = self.token(at), self.results(picks)
        expected = [self.expected(result, token) for result in results]
        assert self.wait(self.reports.report(new(), token, results)) == expected

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0), picks=picks, size=st.integers(1, 7))
    def report_late_while_others_claim(self, at: int, picks: list[tuple[int, int]], size: int) -> None:
        """Each record goes to the one or to the other."""
        token, results = self.token(at), self.results(picks)
        self.end_lease(at)
        outcomes, claim = self.together(self.reports.report(new(), token, results), self.claiming(size))
        taken = {record.cid for record in claim.records}
        for result, outcome in zip(results, outcomes, strict=True):
            if result.cid in taken:
                assert outcome is STALE
            elif not (self.records[result.cid].gone and self.records[result.cid].claimable):
                assert outcome is self.expected(result, token)
        self.note([claim])

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0))
    def end_lease(self, at: int) -> None:
        """Time passes."""
        self.store.end_lease(str(self.token(at)))
        for record in self.under(self.token(at)):
            record.leased = False

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0))
    def extend(self, at: int) -> None:
        """Also a lease that ended."""
        held = self.under(self.token(at))
        try:
            extended = self.wait(self.claims.extend(new(), self.token(at), lease=LEASE)).extended
        except ClaimNotFound:
            extended = 0
        assert extended == len(held)
        for record in held:
            record.leased = True

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0))
    def release(self, at: int) -> None:
        """Give back what is open."""
        held = self.under(self.token(at))
        assert self.wait(self.claims.release(new(), self.token(at))) == len(held)
        for record in held:
            record.token, record.leased = None, False

    @rule(which=st.integers(0, 9))
    def delete_cid(self, which: int) -> None:
        """The participant's customer leaves."""
        cid = list(self.records)[which]
        self.store.delete_cids([cid.hex()])
        self.records[cid].gone = True

    @rule(which=st.integers(0, 9))
    def change_cid_and_change_it_back(self, which: int) -> None:
        """The account, and the account as it was: the CID is the same again."""
        cid, record = list(self.records.items())[which]
        if not record.gone:
            self.store.change_and_change_back([cid.hex()])
            record.changed, record.status = True, PENDING

    @rule(which=st.integers(0, 9))
    def create_cid_again(self, which: int) -> None:
        """The customer leaves, or has left, and comes back."""
        cid, record = list(self.records.items())[which]
        self.store.create_again([cid.hex()])
        record.gone, record.changed, record.status = False, True, PENDING

    @rule()
    def fail_and_retry(self) -> None:
        """What failed is open again, and nobody's."""
        self.wait(self.repository.fail(new(), self.batch_id, error_message="given up"))
        self.wait(self.steps.retry(new(), self.batch_id))
        for record in self.records.values():
            if record.outcome is RecordOutcome.FAILED:
                record.outcome, record.token, record.leased = None, None, False
                if record.status == FAILED:
                    record.status = PENDING

    @rule()
    def check_whether_it_is_complete(self) -> None:
        """Exactly when nothing is open."""
        check = self.repository.complete(replace(new(), validate_only=True), self.batch_id)
        if all(record.outcome is not None for record in self.records.values()):
            self.wait(check)
        else:
            with pytest.raises(FailedPrecondition, match="BATCH_INCOMPLETE"):
                self.wait(check)

    # -- what must be so ---------------------------------------------------------------------------------------------

    @invariant()
    def the_counts_are_right(self) -> None:
        """On the batch, and on the CIDs themselves."""
        batch = self.wait(self.repository.get(self.batch_id))
        outcomes = [record.outcome for record in self.records.values()]
        assert (batch.synced_records, batch.failed_records, batch.skipped_records) == tuple(
            map(outcomes.count, RecordOutcome)
        )
        assert batch.leased_records == sum(record.leased for record in self.records.values())
        there = {cid: record for cid, record in self.records.items() if not record.gone}
        statuses = self.store.statuses([cid.hex() for cid in there])
        assert [status for status, _ in statuses] == [record.status for record in there.values()]

    def teardown(self) -> None:
        """Leave no open batch behind."""
        self.wait(self.repository.fail(new(), self.batch_id, error_message="over"))

    # -- how ---------------------------------------------------------------------------------------------------------

    def together(self, *calls: Awaitable[Any]) -> list[Any]:
        async def gather() -> list[Any]:
            return await asyncio.gather(*calls)

        results: list[Any] = self.wait(gather())
        return results

    def claiming(self, size: int) -> Awaitable[SyncClaim]:
        return self.claims.claim(new(), self.batch_id, worker_id="w", most=size, lease=LEASE)

    def note(self, claims: list[SyncClaim]) -> None:
        """What was claimed is leased; gone records that a claim met are skipped."""
        for claim in claims:
            if claim.token is not None:
                self.tokens.append(claim.token)
            for claimed in claim.records:
                record = self.records[claimed.cid]
                assert record.claimable
                record.token, record.leased, record.changed = claim.token, True, False
        skipped = self.store.query(
            'SELECT cid FROM "vsync".sync_batch_records WHERE batch_id = %s AND outcome = 3', [self.batch_id]
        )
        for (cid,) in skipped:
            record = self.records[bytes(cid)]
            assert record.outcome is RecordOutcome.SKIPPED or (record.gone and record.claimable)
            record.outcome, record.leased = RecordOutcome.SKIPPED, False

    def token(self, at: int) -> UUID:
        return self.tokens[at % len(self.tokens)]

    def under(self, token: UUID) -> list[Record]:
        return [record for record in self.records.values() if record.token == token and record.outcome is None]

    def results(self, picks: list[tuple[int, int]]) -> list[SyncResult]:
        """One result a record."""
        cids = list(self.records)
        return [
            SyncResult(cids[which], status, "no" if status == FAILED else None) for which, status in dict(picks).items()
        ]

    def expected(self, result: SyncResult, token: UUID) -> ReportOutcome:
        """What a report must answer, and what it changes."""
        record = self.records[result.cid]
        if record.token != token:
            return STALE
        if record.outcome is not None:
            return REPEATED if record.outcome is OUTCOME_OF[result.sync_status] else STALE
        record.leased = False
        if record.gone or record.changed:
            record.outcome = RecordOutcome.SKIPPED
            return STALE
        record.outcome, record.status = OUTCOME_OF[result.sync_status], result.sync_status
        return APPLIED


def new() -> Mutation:
    """A mutation without a request's id."""
    return Mutation(
        request_id=None, fingerprint=bytes(16), call=RequestContext(method=CLAIM_METHOD, correlation_id="-")
    )


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """A loop that the machine's steps run on, one after the other."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.mark.both_versions
def test_whatever_workers_do_no_record_is_handed_out_twice_and_every_count_is_right(
    database: Database, runner: asyncio.Runner
) -> None:
    context = opened(settings_for(database.service_url, db_min_connections=4))
    pool = runner.run(context.__aenter__())
    try:
        with psycopg.connect(database.owner, autocommit=True) as connection:
            run_state_machine_as_test(
                # Anything that makes a machine will do.
                cast("type[Workers]", partial(Workers, runner, pool, Store(connection))),
                settings=hypothesis_settings(
                    max_examples=15,
                    stateful_step_count=25,
                    deadline=None,
                    # Setting up a batch takes what a few steps take; no example is large.
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                ),
            )
    finally:
        runner.run(context.__aexit__(None, None, None))
