"""ListAuditLogs: filters, order, pages, tokens and time ranges."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import psycopg
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from vsync.v1 import audit_pb2 as pb
from vsyncd.core.ids import ceiling_at, time_of
from vsyncd.domains.audit.repository import list_query
from vsyncd.postgres.queries import queries

from tests.harness.clusters import Database
from tests.harness.serving import fields_of

if TYPE_CHECKING:
    from vsync.v1.audit_pb2_grpc import AuditServiceAsyncStub as Audit

CID = "28c06eb41c4dc9c3ae114831efcac7446c8747777fca8b145ecd31ff8480ae88"
KEY = "+5511987654321"
OTHER_CID = "4d4abb9168114e349672b934d16ed201a919cb49e28b7f66a240e62c92ee007f"


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def this_month(**asked: Any) -> pb.ListAuditLogsRequest:
    """Returns a request with the longest permitted range, which contains the current time."""
    now = datetime.now(UTC)
    return pb.ListAuditLogsRequest(
        **asked, created_after=at(now - timedelta(days=30)), created_before=at(now + timedelta(days=1))
    )


async def append(audit: "Audit", *logs: pb.AuditLog) -> list[pb.AuditLog]:
    return list((await audit.BatchAppendAuditLogs(pb.BatchAppendAuditLogsRequest(logs=logs))).logs)


async def pages(audit: "Audit", request: pb.ListAuditLogsRequest) -> list[list[pb.AuditLog]]:
    found = []
    while True:
        response = await audit.ListAuditLogs(request)
        found.append(list(response.logs))
        if not response.next_page_token:
            return found
        request.page_token = response.next_page_token


WAYS: dict[str, Any] = {
    "correlation_id": "the-one",
    "key_value": KEY,
    "cid": CID,
    "action": "audited.v1/Do",
    "actor": "auditor",
    "resource": "payments/018f3c1e",
}
OTHERS: dict[str, Any] = {
    "correlation_id": "another",
    "key_value": "+5511987654322",
    "cid": OTHER_CID,
    "action": "other",
    "actor": "other",
    "resource": "payments/018f3c1f",
}


@pytest.mark.both_versions
@pytest.mark.parametrize("by", WAYS)
async def test_each_filter_returns_its_entries_newest_first(audit: "Audit", by: str) -> None:
    matching = pb.AuditLog(**{"action": "any", by: WAYS[by]})
    other = pb.AuditLog(**{"action": "any", by: OTHERS[by]})
    wanted = [log for log in await append(audit, *[matching, other] * 5) if getattr(log, by) == WAYS[by]]
    found = await pages(audit, this_month(**{by: WAYS[by]}, page_size=2))
    assert [len(page) for page in found] == [2, 2, 1]
    assert [log for page in found for log in page] == wanted[::-1]


async def test_the_filter_actor_finds_entries_by_a_caller_and_on_its_behalf(audit: "Audit") -> None:
    logs = [pb.AuditLog(action="a", on_behalf_of=actor) for actor in ("maria", "", "anonymous", "maria")]
    first, own, itself, last = await append(audit, *logs)
    for request, wanted in (
        (this_month(actor="maria"), [last, first]),
        (this_month(actor="anonymous"), [last, itself, own, first]),
        (this_month(recorded_by="anonymous"), [last, itself, own, first]),
        (this_month(recorded_by="maria"), []),
    ):
        assert [log for page in await pages(audit, request) for log in page] == wanted


async def test_pages_are_stable_while_entries_are_appended(audit: "Audit") -> None:
    log = pb.AuditLog(action="a", key_value=KEY)
    first = await append(audit, *[log] * 6)
    request = pb.ListAuditLogsRequest(key_value=KEY, page_size=4)
    page = await audit.ListAuditLogs(request)
    await append(audit, log, log)
    request.page_token = page.next_page_token
    rest = await audit.ListAuditLogs(request)
    assert [*page.logs, *rest.logs] == first[::-1]
    assert not rest.next_page_token


async def test_the_default_page_has_100_entries_and_the_largest_1000(audit: "Audit") -> None:
    for _ in range(2):
        await append(audit, *[pb.AuditLog(action="a", key_value=KEY)] * 600)
    assert len((await audit.ListAuditLogs(pb.ListAuditLogsRequest(key_value=KEY))).logs) == 100
    request = pb.ListAuditLogsRequest(key_value=KEY, page_size=5000)
    assert [len(page) for page in await pages(audit, request)] == [1000, 200]


async def test_a_page_ends_before_the_response_becomes_too_large(audit: "Audit") -> None:
    large = Struct()
    large["text"] = "x" * 16_000
    for _ in range(3):
        await append(audit, *[pb.AuditLog(action="a", key_value=KEY, payload=large)] * 10)
    found = await pages(audit, pb.ListAuditLogsRequest(key_value=KEY))
    assert [len(page) for page in found] == [12, 12, 6]
    assert len({log.id for page in found for log in page}) == 30


@pytest.fixture
def history(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the owner, for entries with other times than now."""
    with psycopg.connect(database.admin, autocommit=True) as connection:
        connection.execute('ALTER TABLE "vsync".audit_logs DISABLE TRIGGER audit_logs_time')
        yield connection


def insert(history: psycopg.Connection[Any], moment: datetime, **columns: str | bytes | None) -> UUID:
    values: dict[str, Any] = {
        "action": "old",
        "recorded_by": "old",
        "correlation_id": "old",
        "key_value": None,
        "cid": None,
    }
    row = history.execute(
        """INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, recorded_by, action, key_value, cid)
           SELECT id, "vsync".uuid_v7_time(id), %(correlation_id)s, %(recorded_by)s, %(action)s, %(key_value)s, %(cid)s
           FROM "vsync".uuid_v7(%(at)s) AS id RETURNING id""",
        values | columns | {"at": moment},
    ).fetchone()
    assert row is not None
    identifier: UUID = row[0]
    return identifier


def make_month(history: psycopg.Connection[Any], start: datetime) -> None:
    end = (start + timedelta(days=32)).replace(day=1)
    for parent, lower, upper in (
        ("audit_logs", str(ceiling_at(start)), str(ceiling_at(end))),
        ("cid_events", start.isoformat(), end.isoformat()),
    ):
        history.execute('SELECT "vsync".make_partition(%s, %s, %s, %s)', [parent, f"{start:%Y_%m}", lower, upper])


async def test_a_time_range_includes_its_start_and_excludes_its_end(
    audit: "Audit", history: psycopg.Connection[Any]
) -> None:
    start = datetime(2025, 3, 1, tzinfo=UTC)
    make_month(history, start)
    moments = [start + timedelta(milliseconds=number) for number in range(4)]
    for moment in moments:
        insert(history, moment, key_value=KEY)

    async def found(after: datetime | None, before: datetime | None) -> list[datetime]:
        request = pb.ListAuditLogsRequest(key_value=KEY)
        if after is not None:
            request.created_after.FromDatetime(after)
        if before is not None:
            request.created_before.FromDatetime(before)
        return [log.created_at.ToDatetime(UTC) for log in (await audit.ListAuditLogs(request)).logs][::-1]

    microsecond = timedelta(microseconds=1)
    assert await found(None, None) == moments
    assert await found(moments[1], moments[3]) == moments[1:3]
    assert await found(moments[1] + microsecond, moments[3] + microsecond) == moments[2:4]
    assert await found(moments[1] - microsecond, moments[3] - microsecond) == moments[1:3]
    assert await found(moments[2], moments[2]) == []
    assert await found(datetime(1970, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)) == moments


@pytest.mark.both_versions
async def test_a_list_by_cid_has_each_entry_that_names_adds_or_removes_it_once(
    audit: "Audit", history: psycopg.Connection[Any]
) -> None:
    cid, now = bytes.fromhex(CID), datetime.now(UTC)
    named, imported, both, elsewhere = (
        insert(history, now - timedelta(seconds=seconds), action=action, cid=held)
        for seconds, action, held in ((4, "named", cid), (3, "import", None), (2, "both", cid), (1, "batch", bytes(32)))
    )
    for audit_id, change in ((imported, 1), (imported, 2), (both, 1), (elsewhere, 2)):
        history.execute(
            """INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
               VALUES ('12345678', 1, %s, %s, %s)""",
            [change, cid, audit_id],
        )
    insert(history, now, action="import of others")
    found = await pages(audit, pb.ListAuditLogsRequest(cid=CID, page_size=1))
    assert [[log.id for log in page] for page in found] == [[str(id_)] for id_ in (elsewhere, both, imported, named)]
    until = pb.ListAuditLogsRequest(cid=CID, created_before=at(time_of(both)), created_after=at(time_of(imported)))
    assert [log.id for log in (await audit.ListAuditLogs(until)).logs] == [str(imported)]


@pytest.mark.parametrize(
    "by", [pytest.param(by, marks=() if by in {"cid", "actor", "ispb"} else pytest.mark.soak) for by in WAYS]
)
def test_a_list_reads_only_the_months_of_its_range_by_the_index_of_its_filter(
    history: psycopg.Connection[Any], by: str
) -> None:
    for start in (datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 4, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)):
        make_month(history, start)
    history.execute(
        """INSERT INTO "vsync".audit_logs
               (id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, key_value, cid)
           SELECT id, "vsync".uuid_v7_time(id), n, n, n, n, n, n, decode(lpad(n, 64, '0'), 'hex')
           FROM (SELECT "vsync".uuid_v7('2025-03-31 20:00+00'::timestamptz + i * interval '1 second') AS id,
                        i::text AS n FROM generate_series(0, 30000) AS i) AS made"""
    )
    history.execute(
        """INSERT INTO "vsync".cid_events (created_at, ispb, key_type, change, cid, audit_id)
           SELECT '2025-04-03 00:00+00', '12345678', 1, 1, sha256(i::text::bytea), gen_random_uuid()
           FROM generate_series(1, 20000) AS i"""
    )
    history.execute('ANALYZE "vsync".audit_logs')
    history.execute('ANALYZE "vsync".cid_events')
    trail = queries("vsyncd.domains.audit", "vsync")
    query = list_query(trail[f"list_by_{by}" if by in {"cid", "actor"} else "list_by"], by)
    parameters = {
        "value": bytes(32) if by == "cid" else "5000",
        "from": ceiling_at(datetime(2025, 4, 2, tzinfo=UTC)),
        "below": ceiling_at(datetime(2025, 4, 20, tzinfo=UTC)),
        "limit": 101,
    }
    row = history.execute(b"EXPLAIN (FORMAT JSON) " + query.sql, parameters).fetchone()
    assert row is not None
    plan = json.dumps(row[0])
    scanned = set(re.findall(r'"Relation Name": "(audit_logs\w+)"', plan))
    assert scanned == {"audit_logs_2025_04"}
    for column in ("recorded_by", "on_behalf_of") if by == "actor" else (by,):
        assert f"audit_logs_2025_04_{column}_id_idx" in plan
    # The months without events are read whole, since there is nothing in them.
    read_whole = set(re.findall(r'"Node Type": "Seq Scan"[^{}]*"Relation Name": "(\w+)"', plan))
    assert not read_whole & {"audit_logs_2025_04", "cid_events_2025_04"}


BAD_REQUESTS: list[tuple[list[str], pb.ListAuditLogsRequest]] = [
    (["by"], pb.ListAuditLogsRequest()),
    (["by", "page_size"], pb.ListAuditLogsRequest(page_size=-1)),
    (["correlation_id"], pb.ListAuditLogsRequest(correlation_id="")),
    (["correlation_id"], pb.ListAuditLogsRequest(correlation_id="a b")),
    (["key_value"], pb.ListAuditLogsRequest(key_value="a\0")),
    (["key_value"], pb.ListAuditLogsRequest(key_value="x" * 78)),
    (["key_value"], pb.ListAuditLogsRequest(key_value="MARIA@example.com")),
    (["cid"], pb.ListAuditLogsRequest(cid=CID[:-1])),
    (["created_after", "created_before"], pb.ListAuditLogsRequest(action="a")),
    (["created_before"], pb.ListAuditLogsRequest(actor="a", created_after=Timestamp(seconds=1))),
    (["action"], this_month(action="")),
    (["actor"], this_month(actor="x" * 201)),
    (["resource"], this_month(resource="a\u200bb")),
    (["created_after", "created_before"], pb.ListAuditLogsRequest(recorded_by="a")),
    (
        ["created_before"],
        pb.ListAuditLogsRequest(
            action="a", created_after=Timestamp(seconds=0), created_before=Timestamp(seconds=31 * 86400, nanos=1000)
        ),
    ),
    (
        ["created_before"],
        pb.ListAuditLogsRequest(key_value=KEY, created_after=Timestamp(seconds=2), created_before=Timestamp(seconds=1)),
    ),
    (["created_after"], pb.ListAuditLogsRequest(key_value=KEY, created_after=Timestamp(seconds=-1))),
    (["created_before"], pb.ListAuditLogsRequest(key_value=KEY, created_before=Timestamp(nanos=-1))),
    (["page_token"], pb.ListAuditLogsRequest(key_value=KEY, page_token="AAAA")),
    (["page_token"], pb.ListAuditLogsRequest(key_value=KEY, page_token="é")),
]


async def test_a_bad_argument_is_named(audit: "Audit") -> None:
    for fields, request in BAD_REQUESTS:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await audit.ListAuditLogs(request)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, request
        assert fields_of(raised.value) == fields, request


async def test_a_range_of_31_days_is_accepted(audit: "Audit") -> None:
    request = pb.ListAuditLogsRequest(
        actor="a", created_after=Timestamp(seconds=0), created_before=Timestamp(seconds=31 * 86400)
    )
    assert not (await audit.ListAuditLogs(request)).logs


async def test_a_page_token_is_only_valid_for_its_filter(audit: "Audit") -> None:
    await append(audit, *[pb.AuditLog(action="a", key_value=KEY, correlation_id="k")] * 3)
    token = (await audit.ListAuditLogs(pb.ListAuditLogsRequest(key_value=KEY, page_size=1))).next_page_token
    assert len((await audit.ListAuditLogs(pb.ListAuditLogsRequest(key_value=KEY, page_token=token))).logs) == 2
    for other in (
        pb.ListAuditLogsRequest(key_value="+5511987654322"),
        pb.ListAuditLogsRequest(correlation_id="k"),
        pb.ListAuditLogsRequest(key_value=KEY, created_before=Timestamp(seconds=1)),
        pb.ListAuditLogsRequest(key_value=KEY, created_after=Timestamp(seconds=1)),
    ):
        other.page_token = token
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await audit.ListAuditLogs(other)
        assert fields_of(raised.value) == ["page_token"]


ISPB, OTHER_ISPB = "12345678", "87654321"


@pytest.mark.both_versions
@pytest.mark.parametrize("by", [*WAYS, ""])
async def test_the_filter_ispb_excludes_entries_of_other_participants(audit: "Audit", by: str) -> None:
    about = {by: WAYS[by]} if by else {}
    logs = [pb.AuditLog(**{"action": "any", **about, "ispb": ispb}) for ispb in (ISPB, OTHER_ISPB, "")]
    wanted = [log for log in await append(audit, *logs * 3) if log.ispb == ISPB]
    found = await pages(audit, this_month(**about, ispb=ISPB, page_size=2))
    assert [log for page in found for log in page] == wanted[::-1]
    assert len(found) == 2


async def test_a_filtered_page_ends_after_a_bounded_scan(audit: "Audit", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsyncd.domains.audit.repository.MAX_SCAN", 4)
    logs = [pb.AuditLog(action="any", actor="auditor", ispb=ISPB if n in {0, 9} else OTHER_ISPB) for n in range(10)]
    first, *_, last = await append(audit, *logs)
    found = await pages(audit, this_month(actor="auditor", ispb=ISPB))
    assert found == [[last], [], [first]]


async def test_a_list_by_ispb_alone_needs_a_range(audit: "Audit") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await audit.ListAuditLogs(pb.ListAuditLogsRequest(ispb=ISPB))
    assert fields_of(refused.value) == ["created_after", "created_before"]
