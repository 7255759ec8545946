"""DiffCidSet: the exact difference of any two sets in one snapshot; an incomplete upload is an error."""

import asyncio
import io
import random
import resource
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise

import grpc
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vsync.directory import vsync_of, xor
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.domains.reconciliation import comparison, external_sort

from tests.harness.cids import ISPB, Stub, cid_of, create, failure_of, info_of, rows, until
from tests.harness.clusters import Database
from tests.harness.reconciliation import LONG_AGO, Reconciliation, diff, diff_requests, timestamp
from tests.harness.serving import fields_of

MISSING_HERE, MISSING_THERE, REMOVED_SINCE, ADDED_SINCE = 1, 2, 3, 4


def cid(number: int) -> bytes:
    """Returns the cid of `a_record(number)`."""
    return bytes.fromhex(cid_of(number))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a few CIDs make many runs and blocks."""
    monkeypatch.setattr(external_sort, "RUN_CIDS", 7)
    monkeypatch.setattr(external_sort, "MERGE_CIDS", 12)
    monkeypatch.setattr(external_sort, "MIN_MERGE_CIDS_PER_RUN", 2)
    monkeypatch.setattr(comparison, "BLOCK_CIDS", 5)


def stored_as(database: Database, numbers: set[int]) -> None:
    """Makes these the stored CIDs."""
    wanted = [cid(number) for number in numbers]
    with psycopg.connect(database.owner) as connection:
        connection.execute("DELETE FROM vsync.cids WHERE NOT cid = ANY (%s)", [wanted])
        connection.cursor().executemany(
            "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
            " VALUES (%s, 1, %s, %s, '1', 1, '12345678901') ON CONFLICT DO NOTHING",
            [(cid(number), f"{number:011d}", ISPB) for number in numbers],
        )


@pytest.mark.usefixtures("small")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ours=st.sets(st.integers(0, 60), max_size=50),
    theirs=st.lists(st.integers(0, 60), max_size=70),
    data=st.data(),
)
async def test_the_difference_is_exact(
    reconciliation: Reconciliation, database: Database, ours: set[int], theirs: list[int], data: st.DataObject
) -> None:
    await asyncio.to_thread(stored_as, database, ours)
    file = b"".join(cid(number) for number in theirs)
    cuts = sorted({0, len(theirs), *data.draw(st.lists(st.integers(0, len(theirs)), max_size=5))})
    messages = [file[32 * a : 32 * b] for a, b in pairwise(cuts)]
    soon = timestamp(datetime.now(UTC) + timedelta(hours=1))  # there are no later changes
    found, summary = await diff(reconciliation, diff_requests(messages, since=soon))

    here, there = {cid(number) for number in ours}, {cid(number) for number in theirs}
    assert found == {
        MISSING_HERE: sorted(there - here),
        MISSING_THERE: sorted(here - there),
        REMOVED_SINCE: [],
        ADDED_SINCE: [],
    }
    assert (summary.our_vsync.vsync, summary.our_vsync.count) == (vsync_of(here), len(here))
    assert (summary.their_vsync.vsync, summary.their_vsync.count) == (vsync_of(there), len(there))
    assert summary.duplicates == len(theirs) - len(there)
    assert (summary.missing_here, summary.missing_there) == (len(there - here), len(here - there))
    assert summary.differences_vsync == vsync_of(here ^ there) == xor(vsync_of(here), vsync_of(there))
    assert summary.kept_agrees


async def test_changes_since_the_creation_of_the_file_are_reported_separately(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, range(10))
    file = [cid(number) for number in range(10) if number != 7]  # the file lacks this one
    made = timestamp(rows(database, "SELECT clock_timestamp() AS now")[0]["now"])
    await create(cids, [20, 21])
    await cids.BatchDeleteCids(cid_pb2.BatchDeleteCidsRequest(cids=[cid_of(0), cid_of(1)]))
    requests = diff_requests([*file, cid(30)], since=made)
    found, summary = await diff(reconciliation, requests)
    assert found == {
        MISSING_HERE: [cid(30)],
        MISSING_THERE: [cid(7)],
        REMOVED_SINCE: sorted([cid(0), cid(1)]),
        ADDED_SINCE: sorted([cid(20), cid(21)]),
    }
    assert (summary.removed_since, summary.added_since) == (2, 2)
    assert summary.differences_vsync == xor(summary.our_vsync.vsync, summary.their_vsync.vsync)
    # Compared with an old file all our CIDs were added since. Two of the file were not stored then.
    found, _ = await diff(reconciliation, diff_requests(file, since=LONG_AGO))
    assert (found[MISSING_THERE], found[MISSING_HERE]) == ([], sorted([cid(0), cid(1)]))


async def test_cids_that_changed_repeatedly_are_classified_by_their_first_event(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    """The first event since the creation of the file tells whether the CID was stored then."""
    await create(cids, [1, 2])
    made = timestamp(rows(database, "SELECT clock_timestamp() AS now")[0]["now"])
    await cids.BatchDeleteCids(cid_pb2.BatchDeleteCidsRequest(cids=[cid_of(1)]))
    await create(cids, [1, 3, 4])
    await cids.BatchDeleteCids(cid_pb2.BatchDeleteCidsRequest(cids=[cid_of(3)]))
    # 1 was stored then and is now, 3 neither, and 4 was added since.
    found, summary = await diff(reconciliation, diff_requests([cid(2), cid(3)], since=made))
    assert (found[MISSING_THERE], found[MISSING_HERE]) == ([cid(1)], [cid(3)])
    assert (summary.added_since, summary.removed_since) == (1, 0)


async def test_the_sequence_number_orders_the_events_of_a_cid(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    """A transaction with a lower id may have changed the CID after one with a higher id."""
    with psycopg.connect(database.owner) as early:
        made = timestamp(rows(database, "SELECT clock_timestamp() AS now")[0]["now"])
        early.execute("SELECT now(), pg_current_xact_id()")
        await create(cids, [1])
        early.execute("DELETE FROM vsync.cids")
    # It was not stored when the file was created, but the file contains it.
    found, _ = await diff(reconciliation, diff_requests([cid(1)], since=made))
    assert found[MISSING_HERE] == [cid(1)]


async def test_each_key_type_and_participant_has_a_separate_set(cids: Stub, reconciliation: Reconciliation) -> None:
    await create(cids, range(3))
    _, summary = await diff(reconciliation, diff_requests([cid(0)], key_type=cid_pb2.KEY_TYPE_EVP))
    assert (summary.our_vsync.count, summary.missing_here) == (0, 1)
    _, summary = await diff(reconciliation, diff_requests([cid(0)], ispb="00000000"))
    assert (summary.our_vsync.count, summary.missing_here) == (0, 1)


@pytest.mark.usefixtures("small")
async def test_the_difference_is_exact_during_writes(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, range(300))
    stop = asyncio.Event()

    async def write() -> None:
        rng = random.Random(1)  # noqa: S311  deterministic test data
        number = 1000
        while not stop.is_set():
            await create(cids, range(number, number + 5))
            gone = [cid_of(rng.randrange(300)), cid_of(rng.randrange(1000, number + 5))]
            await cids.BatchDeleteCids(cid_pb2.BatchDeleteCidsRequest(cids=sorted(set(gone))))
            number += 5

    writer = asyncio.create_task(write())
    for _ in range(3):
        there = {cid(number) for number in range(100, 400)}
        found, summary = await diff(reconciliation, diff_requests([b"".join(there)]))
        differing = [each for cids_ in found.values() for each in cids_]
        here = there ^ set(differing)
        assert len(differing) == len(set(differing))
        assert (summary.our_vsync.vsync, summary.our_vsync.count) == (vsync_of(here), len(here))
        assert summary.kept_agrees, "both are read from one snapshot"
        assert summary.differences_vsync == xor(summary.our_vsync.vsync, summary.their_vsync.vsync)
    stop.set()
    await writer
    assert rows(database, "SELECT FROM pg_stat_activity WHERE application_name = 'vsyncd diff'") == []


START = pb.DiffCidSetRequest(start=pb.DiffStart(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, file_created_at=LONG_AGO))
CIDS = pb.DiffCidSetRequest(cids=bytes(64))
END = pb.DiffCidSetRequest(end=pb.DiffEnd(count=2))


async def sent(*requests: pb.DiffCidSetRequest) -> AsyncIterator[pb.DiffCidSetRequest]:
    """Yields the requests."""
    for request in requests:
        yield request


BAD_UPLOADS: list[tuple[list[pb.DiffCidSetRequest], str]] = [
    ([], "DIFF_TRUNCATED"),
    ([START], "DIFF_TRUNCATED"),
    ([START, CIDS], "DIFF_TRUNCATED"),
    ([START, CIDS, CIDS, END], "DIFF_TRUNCATED"),
    ([START, END], "DIFF_TRUNCATED"),
    ([CIDS], "DIFF_NOT_STARTED"),
    ([END], "DIFF_NOT_STARTED"),
    ([START, START], "DIFF_STARTED_TWICE"),
    ([START, CIDS, END, CIDS], "DIFF_ENDED"),
    ([START, pb.DiffCidSetRequest(cids=bytes(33))], "INVALID_FIELD"),
    ([START, pb.DiffCidSetRequest(cids=b"")], "INVALID_FIELD"),
    ([pb.DiffCidSetRequest(start=pb.DiffStart())], "INVALID_FIELD"),
]


async def test_an_incomplete_upload_is_refused(reconciliation: Reconciliation, subtests: pytest.Subtests) -> None:
    for requests, reason in BAD_UPLOADS:
        with subtests.test(reason, messages=[request.WhichOneof("message") for request in requests]):
            error = await failure_of(diff(reconciliation, sent(*requests)))
            assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_a_bad_start_names_every_field(reconciliation: Reconciliation) -> None:
    error = await failure_of(diff(reconciliation, sent(pb.DiffCidSetRequest(start=pb.DiffStart()))))
    assert fields_of(error) == ["start.ispb", "start.key_type", "start.file_created_at"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limits files of this process, in which vsyncd runs, to 1 MiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
async def test_a_full_disk_is_reported_at_the_end_of_an_upload(reconciliation: Reconciliation) -> None:
    """The upload is smaller than a run, so it is written at its end."""
    packed = bytes(32 * (external_sort.RUN_CIDS - 1))
    error = await failure_of(diff(reconciliation, diff_requests([packed])))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SPILL_FULL")


@pytest.mark.settings(reconciliation_max_cids=3)
async def test_an_upload_above_the_limit_is_refused(reconciliation: Reconciliation) -> None:
    _, summary = await diff(reconciliation, diff_requests([bytes(64), bytes(32)]))
    assert summary.duplicates == 2
    error = await failure_of(diff(reconciliation, diff_requests([bytes(64), bytes(64)])))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DIFF_TOO_LARGE")
    assert info_of(error).metadata == {"limit": "3"}


@pytest.mark.settings(reconciliation_max_streams=1)
async def test_a_cancelled_comparison_frees_its_slot(reconciliation: Reconciliation) -> None:
    gate = asyncio.Event()

    async def stalled(messages: int) -> AsyncIterator[pb.DiffCidSetRequest]:
        yield START
        for _ in range(messages):
            yield pb.DiffCidSetRequest(cids=sha256(b"x").digest() * 30_000)
        await gate.wait()

    call = reconciliation.DiffCidSet(stalled(20))
    assert isinstance(await call.read(), pb.DiffCidSetResponse)
    second = reconciliation.DiffCidSet(stalled(0))
    assert info_of(await failure_of(second.read())).reason == "OVERLOADED"
    assert await no_slot_is_free(reconciliation)
    call.cancel()
    async with asyncio.timeout(60):
        while await no_slot_is_free(reconciliation):  # noqa: ASYNC110  nothing else shows that the call has ended
            await asyncio.sleep(0.02)


async def no_slot_is_free(reconciliation: Reconciliation) -> bool:
    """Returns whether all slots are occupied.

    Uses a unary call, which shares the slots: grpc.aio loses errors of streams.
    """
    try:
        await reconciliation.RecomputeVsync(pb.RecomputeVsyncRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF))
    except grpc.aio.AioRpcError as error:
        return str(info_of(error).reason) == "OVERLOADED"
    return False


STALLED = pytest.mark.settings(stream_idle_timeout=0.5)
TOO_LONG = pytest.mark.settings(reconciliation_max_duration=0.5)


@pytest.mark.parametrize(
    "reason", [pytest.param("STREAM_STALLED", marks=STALLED), pytest.param("DIFF_TIMEOUT", marks=TOO_LONG)]
)
async def test_a_stalled_upload_is_ended(reconciliation: Reconciliation, reason: str) -> None:
    gate = asyncio.Event()

    async def stalled() -> AsyncIterator[pb.DiffCidSetRequest]:
        yield START
        await gate.wait()

    error = await failure_of(diff(reconciliation, stalled()))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, reason)


async def test_cancelling_a_comparison_cancels_its_query(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, [1])

    def open_now() -> int:
        ours = "datname = current_database() AND application_name = 'vsyncd diff'"
        return len(rows(database, f"SELECT FROM pg_stat_activity WHERE {ours}"))

    with psycopg.connect(database.owner) as someone:
        someone.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(diff(reconciliation, sent(START, CIDS, END)))
        await until(lambda: open_now() == 1)
        task.cancel()
        await until(lambda: open_now() == 0)


async def test_a_comparison_that_is_cancelled_while_its_file_is_created_closes_it(
    reconciliation: Reconciliation, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, release = threading.Event(), threading.Event()
    opened: list[io.FileIO] = []
    open_file = external_sort._unnamed_file

    def open_slowly(folder: str | None) -> io.FileIO:
        opening.set()
        assert release.wait(60)
        opened.append(open_file(folder))
        return opened[0]

    monkeypatch.setattr(external_sort, "_unnamed_file", open_slowly)
    task = asyncio.create_task(diff(reconciliation, sent(START, CIDS, END)))
    await asyncio.to_thread(opening.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        while not any(served.cancelling() for served in asyncio.all_tasks()):  # noqa: ASYNC110  gRPC announces nothing
            await asyncio.sleep(0.001)
    release.set()
    await until(lambda: bool(opened) and opened[0].closed)
