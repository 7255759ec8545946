"""ListCids: all combinations of filters, and pages."""

from itertools import chain

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vsync.v1 import cid_pb2 as pb
from vsyncd.domains.cids import repository

from tests.harness.catalog import Row, fill, filters, matching
from tests.harness.cids import Stub, a_record, cid_of, create, failure_of, info_of
from tests.harness.clusters import Database


@pytest.fixture
def catalog(database: Database) -> list[Row]:
    """Records of every kind."""
    return fill(database)


async def pages_of(cids: Stub, wanted: pb.CidFilter, size: int) -> list[list[str]]:
    """Returns the cids of each page."""
    pages: list[list[str]] = []
    token = ""
    while token or not pages:
        response = await cids.ListCids(pb.ListCidsRequest(filter=wanted, page_size=size, page_token=token))
        pages.append([record.cid for record in response.records])
        token = response.next_page_token
    return pages


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=filters(), size=st.sampled_from([1, 7, 50, 399, 400, 401, 1000]))
async def test_every_filter_returns_exactly_the_matching_records_in_order(
    cids: Stub, catalog: list[Row], wanted: pb.CidFilter, size: int
) -> None:
    size = max(size, len(matching(catalog, wanted)) // 20)
    pages = await pages_of(cids, wanted, size)
    assert list(chain.from_iterable(pages)) == matching(catalog, wanted)
    assert all(len(page) == size for page in pages[:-1]), "only a page that reaches the scan limit may be short"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=filters(), size=st.sampled_from([3, 40, 100]))
async def test_a_page_that_reaches_the_scan_limit_is_short_and_has_a_token(
    cids: Stub, catalog: list[Row], wanted: pb.CidFilter, size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repository, "MAX_SCANNED_ROWS", 40)
        pages = await pages_of(cids, wanted, size)
    assert list(chain.from_iterable(pages)) == matching(catalog, wanted)
    assert max(map(len, pages)) <= size


async def test_time_filters_are_exact_to_the_nanosecond(cids: Stub, catalog: list[Row]) -> None:
    moment = Timestamp()
    moment.FromDatetime(catalog[7].created_at)
    moment.nanos += 1
    from_moment, before_moment = pb.CidFilter(created_after=moment), pb.CidFilter(created_before=moment)
    everything = [row.cid for row in catalog]
    assert list(chain.from_iterable(await pages_of(cids, from_moment, 1000))) == everything[8:]
    assert list(chain.from_iterable(await pages_of(cids, before_moment, 1000))) == everything[:8]


@pytest.mark.both_versions
async def test_pages_are_stable_while_records_are_created_and_deleted(cids: Stub, catalog: list[Row]) -> None:
    seen: list[str] = []
    token = ""
    for page in range(1000):
        response = await cids.ListCids(pb.ListCidsRequest(page_size=50, page_token=token))
        seen += [record.cid for record in response.records]
        token = response.next_page_token
        if not token:
            break
        if page < 3:
            await create(cids, range(1000 + 60 * page, 1060 + 60 * page))
            await cids.DeleteCid(pb.DeleteCidRequest(cid=seen[-1]))
    assert seen[:400] == [row.cid for row in catalog]
    assert seen[400:] == [a_record(n).cid for n in range(1000, 1180)], "a record created after the page is listed once"


async def test_a_page_token_is_only_valid_for_its_filter_and_method(cids: Stub, catalog: list[Row]) -> None:
    wanted = pb.CidFilter(ispb=catalog[0].ispb)
    token = (await cids.ListCids(pb.ListCidsRequest(filter=wanted, page_size=5))).next_page_token
    resized = await cids.ListCids(pb.ListCidsRequest(filter=wanted, page_size=9, page_token=token))
    assert len(resized.records) == 9, "the size may change from page to page"
    other = pb.CidFilter(ispb=catalog[0].ispb, key_type=pb.KEY_TYPE_CPF)
    for request in (
        pb.ListCidsRequest(filter=other, page_token=token),
        pb.ListCidsRequest(page_token=token),
        pb.ListCidsRequest(filter=wanted, page_token=token[:-1]),
        pb.ListCidsRequest(filter=wanted, page_token=token + "é"),
    ):
        assert info_of(await failure_of(cids.ListCids(request))).reason == "INVALID_FIELD"

    async def export() -> None:
        async for _answer in cids.ExportCids(pb.ExportCidsRequest(filter=wanted, resume_token=token)):
            pass

    assert info_of(await failure_of(export())).reason == "INVALID_FIELD"


async def test_the_default_page_has_100_records_and_the_largest_1000(cids: Stub) -> None:
    await create(cids, range(1000))
    await create(cids, range(1000, 1200))
    assert len((await cids.ListCids(pb.ListCidsRequest())).records) == 100
    assert len((await cids.ListCids(pb.ListCidsRequest(page_size=2_000_000_000))).records) == 1000


async def test_a_message_can_hold_1000_records_with_the_longest_errors(cids: Stub) -> None:
    await create(cids, range(1000))
    names = [cid_of(number) for number in range(1000)]
    error = "é" * 1000
    await cids.UpdateSyncStatus(pb.UpdateSyncStatusRequest(cids=names, sync_status=pb.SYNC_STATUS_FAILED, error=error))
    listed = await cids.ListCids(pb.ListCidsRequest(page_size=1000))
    got = await cids.BatchGetCids(pb.BatchGetCidsRequest(cids=names))
    exported = [record async for answer in cids.ExportCids(pb.ExportCidsRequest()) for record in answer.records]
    for records in (listed.records, got.records, exported):
        assert {record.last_error for record in records} == {error}
        assert len(records) == 1000
