"""The response to the COMMIT of a step is lost: the call succeeds, and the step takes effect once."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from vsync.v1 import sync_batch_pb2 as pb
from vsyncd.config import Settings
from vsyncd.domains.sync_batches import claims, transitions

from tests.harness.clusters import Database
from tests.harness.cutting_proxy import CuttingProxy, cutting_proxy
from tests.harness.serving import settings_for
from tests.integration.domains.sync_batches.batches import Batches, Store, cids_of


@pytest.fixture
def proxy(database: Database) -> Iterator[CuttingProxy]:
    """A proxy to the database that cuts connections."""
    with cutting_proxy(database) as proxy:
        yield proxy


@pytest.fixture
def settings(proxy: CuttingProxy) -> Settings:
    """Settings of a vsyncd that connects through the proxy."""
    return settings_for(proxy.url, db_auto_migrate=False, http_listen="127.0.0.1:0", shutdown_grace=1)


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for start in (transitions.SyncBatchTransitions.__init__, claims.SyncClaimRepository.__init__):
        monkeypatch.setattr(start, "__kwdefaults__", {"step": 10})


@pytest.mark.parametrize("last_statement", [b"intake_cursor = CASE", b"WITH step AS"])
async def test_a_start_continues_after_a_step_whose_commit_was_lost(
    batches: Batches, store: Store, proxy: CuttingProxy, last_statement: bytes
) -> None:
    store.add_cids(25)
    batch = await batches.create()
    proxy.cut_after(b"COMMIT", after=last_statement)
    started = await batches.start(batch, request_id=str(uuid4()))
    assert proxy.cuts == 1
    assert (started.status, started.total_records) == (pb.SYNC_BATCH_STATUS_RUNNING, 25)
    taken_in = [entry.get("taken_in") for entry in store.audit("StartSyncBatch")]
    assert taken_in == [None, 10, 10, 5, None]


async def test_a_retry_continues_after_a_step_whose_commit_was_lost(
    batches: Batches, store: Store, proxy: CuttingProxy
) -> None:
    cids = store.add_cids(35)
    batch = await batches.running()
    await batches.report((await batches.claim(batch)).claim_token, failed=cids)
    await batches.fail(batch)
    proxy.cut_after(b"COMMIT", after=b"WITH failed AS")
    again = await batches.retry(batch, request_id=str(uuid4()))
    assert proxy.cuts == 1
    assert (again.status, again.failed_records) == (pb.SYNC_BATCH_STATUS_RUNNING, 0)
    assert store.statuses(cids) == [(1, None)] * 35
    assert sum(entry["reopened"] for entry in store.audit("RetrySyncBatch")) == 35


async def test_a_claim_continues_after_skipped_records_whose_commit_was_lost(
    batches: Batches, store: Store, proxy: CuttingProxy
) -> None:
    cids = store.add_cids(25)
    batch = await batches.running()
    store.delete_before(cids, 3)
    proxy.cut_after(b"COMMIT", after=b"WITH next AS")
    claim = await batches.claim(batch, 2, request_id=str(uuid4()))
    assert proxy.cuts == 1
    assert set(cids_of(claim)) < set(cids[22:])
    skipped = [entry["skipped"] for entry in store.audit("ClaimSyncRecords")]
    assert sum(skipped) == (await batches.get(batch)).skipped_records == 22
