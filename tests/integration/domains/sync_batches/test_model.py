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
from vsyncd.core.scope import ALL
from vsyncd.domains.cids.records import FAILED, PENDING, SYNCED
from vsyncd.domains.sync_batches.batch_lock import CLAIM_METHOD, ClaimNotFound
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.records import RecordOutcome, ReportOutcome, SyncClaim, SyncResult
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
    """The expected state of a record of the batch."""

    token: UUID | None = None
    leased: bool = False
    outcome: RecordOutcome | None = None
    deleted: bool = False
    # Since it was claimed.
    changed: bool = False
    # The sync_status of the CID.
    status: int = PENDING

    @property
    def claimable(self) -> bool:
        """Whether a claim may return it."""
        return self.outcome is None and not self.leased


class Workers(RuleBasedStateMachine):
    """A batch of ten records, and random operations on it."""

    numbers = itertools.count(10_000_000)

    def __init__(self, runner: asyncio.Runner, pool: Pool, store: Store) -> None:
        super().__init__()
        self.wait: Callable[[Any], Any] = runner.run
        self.store = store
        mutations = Mutations(pool)
        self.repository = SyncBatchRepository(pool, mutations)
        self.transitions = SyncBatchTransitions(pool, mutations, step=3)
        self.claims = SyncClaimRepository(pool, mutations)
        ispb = str(next(self.numbers))
        self.records = {bytes.fromhex(cid): Record() for cid in store.add_cids(10, ispb)}
        self.tokens: list[UUID] = []
        self.batch_id = self.wait(self.repository.create(new(), batch_date=date(2026, 11, 3), ispb=ispb, scope=ALL)).id
        self.wait(self.transitions.start(new(), self.batch_id, scope=ALL))

    @rule(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4))
    def claim(self, sizes: list[int]) -> None:
        """Concurrent claims of some workers."""
        free = {cid for cid, record in self.records.items() if record.claimable and not record.deleted}
        claims = self.together(*(self.claiming(size) for size in sizes))
        claimed = [record.cid for claim in claims for record in claim.records]
        assert len(claimed) == len(set(claimed)) == min(len(free), sum(sizes))
        assert set(claimed) <= free
        self.note(claims)

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0), picks=picks)
    def report(self, at: int, picks: list[tuple[int, int]]) -> None:
        """A report with any token, for any records."""
        token, results = self.token(at), self.results(picks)
        expected = [self.expected(result, token) for result in results]
        assert self.wait(self.claims.report(new(), token, results, scope=ALL)) == expected

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0), picks=picks, size=st.integers(1, 7))
    def report_late_while_others_claim(self, at: int, picks: list[tuple[int, int]], size: int) -> None:
        """Each record is either reported or claimed."""
        token, results = self.token(at), self.results(picks)
        self.end_lease(at)
        outcomes, claim = self.together(self.claims.report(new(), token, results, scope=ALL), self.claiming(size))
        claimed = {record.cid for record in claim.records}
        for result, outcome in zip(results, outcomes, strict=True):
            if result.cid in claimed:
                assert outcome is STALE
            elif not (self.records[result.cid].deleted and self.records[result.cid].claimable):
                assert outcome is self.expected(result, token)
        self.note([claim])

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0))
    def end_lease(self, at: int) -> None:
        """A lease expires."""
        self.store.end_lease(str(self.token(at)))
        for record in self.under(self.token(at)):
            record.leased = False

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0))
    def extend(self, at: int) -> None:
        """Extends a lease, also an expired one."""
        held = self.under(self.token(at))
        try:
            extended = self.wait(self.claims.extend(new(), self.token(at), lease=LEASE, scope=ALL)).extended
        except ClaimNotFound:
            extended = 0
        assert extended == len(held)
        for record in held:
            record.leased = True

    @precondition(lambda self: self.tokens)
    @rule(at=st.integers(0))
    def release(self, at: int) -> None:
        """Releases the open records of a claim."""
        held = self.under(self.token(at))
        assert self.wait(self.claims.release(new(), self.token(at), scope=ALL)) == len(held)
        for record in held:
            record.token, record.leased = None, False

    @rule(which=st.integers(0, 9))
    def delete_cid(self, which: int) -> None:
        """Deletes a CID."""
        cid = list(self.records)[which]
        self.store.delete_cids([cid.hex()])
        self.records[cid].deleted = True

    @rule(which=st.integers(0, 9))
    def change_cid_and_change_it_back(self, which: int) -> None:
        """Changes the account and changes it back, so that the CID is the same again."""
        cid, record = list(self.records.items())[which]
        if not record.deleted:
            self.store.change_and_change_back([cid.hex()])
            record.changed, record.status = True, PENDING

    @rule(which=st.integers(0, 9))
    def create_cid_again(self, which: int) -> None:
        """Deletes a CID, if it exists, and creates it again."""
        cid, record = list(self.records.items())[which]
        self.store.create_again([cid.hex()])
        record.deleted, record.changed, record.status = False, True, PENDING

    @rule()
    def fail_and_retry(self) -> None:
        """Failed records become open and unclaimed."""
        self.wait(self.transitions.fail(new(), self.batch_id, error_message="failed", scope=ALL))
        self.wait(self.transitions.retry(new(), self.batch_id, scope=ALL))
        for record in self.records.values():
            if record.outcome is RecordOutcome.FAILED:
                record.outcome, record.token, record.leased = None, None, False
                if record.status == FAILED:
                    record.status = PENDING

    @rule()
    def validate_completion(self) -> None:
        """The batch can be completed if and only if no record is open."""
        check = self.transitions.complete(replace(new(), validate_only=True), self.batch_id, scope=ALL)
        if all(record.outcome is not None for record in self.records.values()):
            self.wait(check)
        else:
            with pytest.raises(FailedPrecondition, match="BATCH_INCOMPLETE"):
                self.wait(check)

    @invariant()
    def counts_match(self) -> None:
        """The counts of the batch and the statuses of the CIDs are as expected."""
        batch = self.wait(self.repository.get(self.batch_id, scope=ALL))
        outcomes = [record.outcome for record in self.records.values()]
        assert (batch.synced_records, batch.failed_records, batch.skipped_records) == tuple(
            map(outcomes.count, RecordOutcome)
        )
        assert batch.leased_records == sum(record.leased for record in self.records.values())
        existing = {cid: record for cid, record in self.records.items() if not record.deleted}
        statuses = self.store.statuses([cid.hex() for cid in existing])
        assert [status for status, _ in statuses] == [record.status for record in existing.values()]

    def teardown(self) -> None:
        """Fails the batch, because open batches must not overlap."""
        self.wait(self.transitions.fail(new(), self.batch_id, error_message="end of the test", scope=ALL))

    def together(self, *calls: Awaitable[Any]) -> list[Any]:
        async def gather() -> list[Any]:
            return await asyncio.gather(*calls)

        results: list[Any] = self.wait(gather())
        return results

    def claiming(self, size: int) -> Awaitable[SyncClaim]:
        return self.claims.claim(new(), self.batch_id, worker_id="w", max_records=size, lease=LEASE, scope=ALL)

    def note(self, claims: list[SyncClaim]) -> None:
        """Records leases, and the skipped records of deleted CIDs."""
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
            assert record.outcome is RecordOutcome.SKIPPED or (record.deleted and record.claimable)
            record.outcome, record.leased = RecordOutcome.SKIPPED, False

    def token(self, at: int) -> UUID:
        return self.tokens[at % len(self.tokens)]

    def under(self, token: UUID) -> list[Record]:
        return [record for record in self.records.values() if record.token == token and record.outcome is None]

    def results(self, picks: list[tuple[int, int]]) -> list[SyncResult]:
        """Returns one result per record."""
        cids = list(self.records)
        return [
            SyncResult(cids[which], status, "no" if status == FAILED else None) for which, status in dict(picks).items()
        ]

    def expected(self, result: SyncResult, token: UUID) -> ReportOutcome:
        """Returns the expected outcome, and updates the expected state."""
        record = self.records[result.cid]
        if record.token != token:
            return STALE
        if record.outcome is not None:
            return REPEATED if record.outcome is OUTCOME_OF[result.sync_status] else STALE
        record.leased = False
        if record.deleted or record.changed:
            record.outcome = RecordOutcome.SKIPPED
            return STALE
        record.outcome, record.status = OUTCOME_OF[result.sync_status], result.sync_status
        return APPLIED


def new() -> Mutation:
    """Returns a mutation without a request_id."""
    return Mutation(
        request_id=None, fingerprint=bytes(16), call=RequestContext(method=CLAIM_METHOD, correlation_id="-")
    )


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop that executes the steps of the state machine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.mark.both_versions
def test_no_record_is_claimed_twice_and_all_counts_are_right_after_random_operations(
    database: Database, runner: asyncio.Runner
) -> None:
    context = opened(settings_for(database.service_url, db_min_connections=4))
    pool = runner.run(context.__aenter__())
    try:
        with psycopg.connect(database.owner, autocommit=True) as connection:
            run_state_machine_as_test(
                # A callable that returns a state machine is sufficient.
                cast("type[Workers]", partial(Workers, runner, pool, Store(connection))),
                settings=hypothesis_settings(
                    max_examples=15,
                    stateful_step_count=25,
                    deadline=None,
                    # Setting up a batch takes as long as a few steps; the examples are not large.
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                ),
            )
    finally:
        runner.run(context.__aexit__(None, None, None))
