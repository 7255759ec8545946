"""ListSyncBatches: filters, order, pages, tokens."""

import pytest
from vsync.v1 import sync_batch_pb2 as pb

from tests.integration.domains.sync_batches.batches import ISPB, OTHER_ISPB, Batches, Store, refusal

DAYS = [f"2026-10-{day:02}" for day in range(1, 11)]


@pytest.fixture
def days(store: Store) -> None:
    """Twenty batches of ten days and two participants; those of the first five days are COMPLETED."""
    store.run(
        'INSERT INTO "vsync".sync_batches (batch_date, ispb, status, started_at, completed_at)'
        " SELECT day::date, ispb, CASE WHEN day <= '2026-10-05' THEN 4 ELSE 1 END, now(),"
        "        CASE WHEN day <= '2026-10-05' THEN now() END"
        " FROM unnest(%s::text[]) AS day, unnest(%s::text[]) AS ispb",
        [DAYS, [ISPB, OTHER_ISPB]],
    )


async def listed(batches: Batches, request: pb.ListSyncBatchesRequest) -> list[tuple[str, str]]:
    """Returns the day and ispb of the batches on all pages."""
    found: list[tuple[str, str]] = []
    while True:
        response = await batches.stub.ListSyncBatches(request)
        assert len(response.batches) <= (request.page_size or 100)
        found += [(batch.batch_date, batch.ispb) for batch in response.batches]
        if not response.next_page_token:
            return found
        request.page_token = response.next_page_token


@pytest.mark.both_versions
@pytest.mark.usefixtures("days")
@pytest.mark.parametrize("size", [0, 1, 3, 20])
async def test_pages_contain_all_batches_newest_day_first(batches: Batches, size: int) -> None:
    found = await listed(batches, pb.ListSyncBatchesRequest(page_size=size))
    assert sorted(found) == [(day, ispb) for day in DAYS for ispb in (ISPB, OTHER_ISPB)]
    assert [day for day, _ in found] == sorted((day for day, _ in found), reverse=True)


@pytest.mark.usefixtures("days")
async def test_filters_select_batches(batches: Batches) -> None:
    async def days_of(**selection: object) -> list[str]:
        request = pb.ListSyncBatchesRequest(page_size=2, ispb=ISPB, **selection)  # type: ignore[arg-type]  # by name
        found = await listed(batches, request)
        assert {ispb for _, ispb in found} <= {ISPB}
        return [day for day, _ in found]

    assert await days_of() == DAYS[::-1]
    assert await days_of(status=pb.SYNC_BATCH_STATUS_COMPLETED) == DAYS[4::-1]
    assert await days_of(status=pb.SYNC_BATCH_STATUS_RUNNING) == []
    assert await days_of(date_after=DAYS[2], date_before=DAYS[7]) == DAYS[6:1:-1]
    assert await days_of(status=pb.SYNC_BATCH_STATUS_PENDING, date_before=DAYS[7]) == DAYS[6:4:-1]
    assert await days_of(date_after=DAYS[7], date_before=DAYS[2]) == []


async def test_the_last_day_of_the_calendar_is_listed(batches: Batches) -> None:
    await batches.create("9999-12-31", OTHER_ISPB)
    assert await listed(batches, pb.ListSyncBatchesRequest()) == [("9999-12-31", OTHER_ISPB)]


@pytest.mark.usefixtures("days")
async def test_a_page_token_is_only_valid_for_its_filter(batches: Batches) -> None:
    first = await batches.stub.ListSyncBatches(pb.ListSyncBatchesRequest(page_size=3))
    token = first.next_page_token
    same = pb.ListSyncBatchesRequest(page_size=5, page_token=token)
    assert len((await batches.stub.ListSyncBatches(same)).batches) == 5
    for other in (
        pb.ListSyncBatchesRequest(page_token=token, ispb=ISPB),
        pb.ListSyncBatchesRequest(page_token=token, status=pb.SYNC_BATCH_STATUS_PENDING),
        pb.ListSyncBatchesRequest(page_token=token, date_before=DAYS[9]),
        pb.ListSyncBatchesRequest(page_token=token[:-2]),
    ):
        assert (await refusal(batches.stub.ListSyncBatches(other))).fields == ["page_token"]


async def test_a_bad_list_request_names_every_bad_field(batches: Batches) -> None:
    request = pb.ListSyncBatchesRequest(date_after="yesterday", ispb="x", page_size=-1)
    assert (await refusal(batches.stub.ListSyncBatches(request))).fields == ["date_after", "ispb", "page_size"]


async def test_listed_batches_show_their_leases(batches: Batches, store: Store) -> None:
    store.add_cids(3)
    batch = await batches.running()
    claim = await batches.claim(batch, 2)
    for request in (pb.ListSyncBatchesRequest(), pb.ListSyncBatchesRequest(status=pb.SYNC_BATCH_STATUS_RUNNING)):
        (listed_batch,) = (await batches.stub.ListSyncBatches(request)).batches
        assert listed_batch.leased_records == 2
        assert listed_batch.oldest_lease_expires_at == claim.lease_expires_at
