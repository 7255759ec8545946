"""Helpers for tests of reconciliation: VSyncs by a model, as they are kept, and as they are served."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp
from vsync.directory import vsync_of
from vsync.v1 import reconciliation_pb2 as pb
from vsync.v1 import reconciliation_pb2_grpc

from tests.harness.cids import ISPB, rows
from tests.harness.clusters import Database

Reconciliation: TypeAlias = "reconciliation_pb2_grpc.ReconciliationServiceAsyncStub"
CPF = 1

# The example of the DICT API: CIDs and their VSync.
VECTOR = (
    "28c06eb41c4dc9c3ae114831efcac7446c8747777fca8b145ecd31ff8480ae88",
    "4d4abb9168114e349672b934d16ed201a919cb49e28b7f66a240e62c92ee007f",
    "fce514f84f37934bc8aa0f861e4f7392273d71b9d18e8209d21e4192a7842058",
)
VSYNC = "996fc1dd3b6b14bcf0c9fe8320eb66d7e2a3fd874ccf767b2e939641b1ea8eaf"


def timestamp(at: datetime) -> Timestamp:
    """Returns a time as a Timestamp."""
    message = Timestamp()
    message.FromDatetime(at)
    return message


LONG_AGO = timestamp(datetime(2020, 1, 1, tzinfo=UTC))


def model(database: Database) -> dict[tuple[str, int], tuple[str, int]]:
    """Returns the VSync and the count of each (ispb, key type), computed in Python from the table of CIDs."""
    groups: dict[tuple[str, int], list[bytes]] = {}
    for row in rows(database, "SELECT ispb, key_type, cid FROM vsync.cids"):
        groups.setdefault((row["ispb"], row["key_type"]), []).append(row["cid"])
    return {group: (vsync_of(cids), len(cids)) for group, cids in groups.items()}


def kept(database: Database) -> dict[tuple[str, int], tuple[str, int]]:
    """Returns the kept VSync and count of each (ispb, key type)."""
    query = """SELECT ispb, key_type, encode(substring(bit_send(bit_xor(cid_xor)) FROM 5), 'hex') AS vsync,
                      sum(records)::bigint AS records
               FROM vsync.cid_sums GROUP BY ispb, key_type
               HAVING sum(records) <> 0 OR position('1' IN bit_xor(cid_xor)::text) > 0"""
    return {(row["ispb"], row["key_type"]): (row["vsync"], row["records"]) for row in rows(database, query)}


async def served(reconciliation: Reconciliation, ispb: str) -> dict[tuple[str, int], tuple[str, int]]:
    """Returns the VSyncs of ListVsyncs without empty ones. Checks that GetVsync returns the same."""
    answer = await reconciliation.ListVsyncs(pb.ListVsyncsRequest(ispb=ispb))
    for vsync in answer.vsyncs:
        request = pb.GetVsyncRequest(ispb=ispb, key_type=vsync.key_type)
        assert (await reconciliation.GetVsync(request)).vsync == vsync
    return {(v.ispb, v.key_type): (v.vsync, v.count) for v in answer.vsyncs if v.count or v.vsync != "0" * 64}


def fold(database: Database) -> bool:
    """Folds the totals. Returns whether nothing is left to fold."""
    rows(database, "SELECT vsync.fold_cid_totals()")
    return not rows(database, "SELECT FROM vsync.cid_totals WHERE NOT folded LIMIT 1")


def diff_requests(
    packed: Iterable[bytes],
    *,
    ispb: str = ISPB,
    key_type: int = CPF,
    since: Timestamp = LONG_AGO,
    count: int | None = None,
) -> AsyncIterator[pb.DiffCidSetRequest]:
    """Returns the requests of an upload. `count` replaces the true count in its end."""

    async def requests() -> AsyncIterator[pb.DiffCidSetRequest]:
        start = pb.DiffStart(ispb=ispb, key_type=key_type, file_created_at=since)  # type: ignore[arg-type]  # an enum's number
        yield pb.DiffCidSetRequest(start=start)
        sent = 0
        for cids in packed:
            sent += len(cids) // 32
            yield pb.DiffCidSetRequest(cids=cids)
        yield pb.DiffCidSetRequest(end=pb.DiffEnd(count=sent if count is None else count))

    return requests()


async def diff(
    reconciliation: Reconciliation, requests: AsyncIterator[pb.DiffCidSetRequest]
) -> tuple[dict[int, list[bytes]], pb.DiffSummary]:
    """Returns the differences of each kind, in the order of the stream, and the summary."""
    found: dict[int, list[bytes]] = {kind: [] for kind in pb.DiffKind.values() if kind}
    summary: pb.DiffSummary | None = None
    call = reconciliation.DiffCidSet(requests)
    try:
        async for answer in call:
            assert summary is None, "the summary is the last message"
            if answer.HasField("part"):
                cids = answer.part.cids
                found[answer.part.kind] += [cids[at : at + 32] for at in range(0, len(cids), 32)]
            elif answer.HasField("summary"):
                summary = answer.summary
    finally:
        call.cancel()  # grpc.aio cancels it only if it was waiting for an answer
    assert summary is not None
    return found, summary
