"""IOCs are stored, found, replaced, deleted, and expire."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg import errors
from vsync.iocs.v1 import ioc_pb2 as pb
from vsync.v1 import audit_pb2
from vsyncd.app import Application
from vsyncd.domains.iocs import repository
from vsyncd.domains.iocs.cleanup import Cleanup
from vsyncd.postgres.mutations import Mutations

from tests.harness.cids import a_request_id, failure_of, info_of, rows
from tests.harness.clusters import OWNER, Database
from tests.harness.iocs import (
    DOMAIN,
    EMAIL,
    IPV4,
    IPV6,
    MD5,
    SHA256,
    URL,
    batch,
    check,
    expire,
    list_all,
    new_ioc,
    put,
)
from tests.harness.serving import fields_of, reason_of


def key(value: str, kind: Any = DOMAIN, **fields: Any) -> Any:
    return pb.DeleteIocRequest(type=kind, value=value, **fields)


async def get(iocs: Any, value: str, kind: Any = DOMAIN) -> Any:
    return (await iocs.GetIoc(pb.GetIocRequest(type=kind, value=value))).ioc


async def not_found(iocs: Any, value: str, kind: Any = DOMAIN) -> bool:
    error = await failure_of(iocs.GetIoc(pb.GetIocRequest(type=kind, value=value)))
    return (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "IOC_NOT_FOUND")


async def test_an_ioc_is_stored_in_canonical_form_and_replaced(iocs: Any, database: Database, audit: Any) -> None:
    day = Duration(seconds=86_400)
    first = await iocs.PutIoc(put("Bücher.Example.", confidence=90, tags=["c2", "bot", "c2"], ttl=day))
    assert first.created
    ioc = first.ioc
    assert (ioc.type, ioc.value, ioc.confidence, ioc.source) == (DOMAIN, "xn--bcher-kva.example", 90, "feed")
    assert (list(ioc.tags), ioc.revision, ioc.created_at) == (["bot", "c2"], 1, ioc.updated_at)
    assert ioc.expires_at.seconds - ioc.created_at.seconds in {86_399, 86_400, 86_401}
    assert await get(iocs, "BÜCHER.example") == ioc

    second = (await iocs.PutIoc(put("xn--bcher-kva.example", confidence=0, source="analyst"))).ioc
    assert (second.revision, second.created_at, second.id) == (2, ioc.created_at, ioc.id)
    assert await get(iocs, ioc.value) == second
    assert second.expires_at.ToDatetime(UTC) - datetime.now(UTC) > timedelta(days=399)
    await iocs.DeleteIoc(key("bücher.example"))
    assert await not_found(iocs, "bücher.example")
    assert reason_of(await failure_of(iocs.DeleteIoc(key("bücher.example")))) == "IOC_NOT_FOUND"

    logs = (await audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(resource=f"iocs/{ioc.id}"))).logs
    assert [(log.action.rpartition("/")[2], log.payload["revision"]) for log in logs] == [
        ("DeleteIoc", 2),
        ("PutIoc", 2),
        ("PutIoc", 1),
    ]
    assert [log.id for log in logs[1:]] == [second.audit_id, ioc.audit_id]
    assert dict(logs[2].payload.items()) == {
        "tenant": logs[2].payload["tenant"],
        "type": "DOMAIN",
        "revision": 1,
        "confidence": 90,
        "expires_at": ioc.expires_at.ToDatetime(UTC).isoformat(),
    }
    assert rows(database, "SELECT FROM vsync.iocs") == []


async def test_a_batch_is_stored_as_a_whole(iocs: Any, database: Database) -> None:
    await iocs.PutIoc(put("old.example"))
    request = batch(
        new_ioc("192.0.2.1", IPV4, tags=["a"]),
        new_ioc("OLD.example", confidence=7),
        new_ioc("d41d8cd98f00b204e9800998ecf8427e", MD5),
        request_id=a_request_id(),
    )
    checked = await iocs.BatchPutIocs(pb.BatchPutIocsRequest(iocs=request.iocs, validate_only=True))
    response = await iocs.BatchPutIocs(request)
    for each in (checked, response):
        assert [(result.value, result.revision, result.created) for result in each.results] == [
            ("192.0.2.1", 1, True),
            ("old.example", 2, False),
            ("d41d8cd98f00b204e9800998ecf8427e", 1, True),
        ]
    assert await iocs.BatchPutIocs(request) == response
    other = pb.BatchPutIocsRequest(iocs=request.iocs[:2], request_id=request.request_id)
    assert reason_of(await failure_of(iocs.BatchPutIocs(other))) == "REQUEST_ID_REUSED"
    stored = [await get(iocs, *each) for each in (("192.0.2.1", IPV4), ("old.example", DOMAIN))]
    assert [(ioc.revision, ioc.confidence, list(ioc.tags)) for ioc in stored] == [(1, 80, ["a"]), (2, 7, [])]
    assert [ioc.expires_at for ioc in stored] == [result.expires_at for result in response.results[:2]]
    (entry,) = rows(database, "SELECT id, payload FROM vsync.audit_logs WHERE action LIKE '%%/BatchPutIocs'")
    assert {ioc.audit_id for ioc in stored} == {str(entry["id"])}
    assert entry["payload"]["types"] == {"IPV4": 1, "DOMAIN": 1, "MD5": 1}
    assert entry["payload"]["created"] == 2
    assert entry["payload"]["revisions"].items() >= {stored[0].id: 1, stored[1].id: 2}.items()

    again = put("old.example", request_id=a_request_id())
    first = await iocs.PutIoc(again)
    await iocs.PutIoc(put("old.example"))
    assert await iocs.PutIoc(again) == first, "the answer of the first execution"
    assert (await get(iocs, "old.example")).revision == 4


async def test_a_revision_that_differs_changes_nothing(iocs: Any, database: Database) -> None:
    await iocs.PutIoc(put("a.example", revision=0))
    calls = {
        "1": [iocs.PutIoc(put("a.example", revision=0)), iocs.DeleteIoc(key("a.example", revision=2))],
        "0": [iocs.PutIoc(put("b.example", revision=1))],
    }
    for revision, failing in calls.items():
        for call in failing:
            error = await failure_of(call)
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
            assert info_of(error).metadata == {"revision": revision}
    both = batch(new_ioc("b.example", revision=0), new_ioc("a.example", revision=3))
    assert info_of(await failure_of(iocs.BatchPutIocs(both))).metadata == {"revision": "1", "index": "1"}
    assert await check(iocs, "a.example", "b.example") == [80, None]
    assert len(rows(database, "SELECT FROM vsync.audit_logs")) == 1
    assert (await iocs.PutIoc(put("a.example", revision=1))).ioc.revision == 2
    request = key("a.example", revision=2, request_id=a_request_id())
    await iocs.DeleteIoc(pb.DeleteIocRequest(type=DOMAIN, value="a.example", validate_only=True))
    await iocs.DeleteIoc(request)
    await iocs.DeleteIoc(request)


async def test_every_bad_field_is_named(iocs: Any) -> None:
    good = new_ioc("a.example")
    wrong = batch(
        good,
        new_ioc("", confidence=101, source="", tags=["ok", "", "\u200b"]),
        new_ioc("x", 0, tags=["x"] * 11, ttl=Duration(nanos=1)),
        new_ioc("A.example", ttl=Duration(seconds=400 * 86_400 + 1), revision=-1),
        request_id="no",
    )
    assert fields_of(await failure_of(iocs.BatchPutIocs(wrong))) == [
        "iocs[1].value",
        "iocs[1].confidence",
        "iocs[1].source",
        "iocs[1].tags[1]",
        "iocs[1].tags[2]",
        "iocs[2].type",
        "iocs[2].tags",
        "iocs[2].ttl",
        "iocs[3].ttl",
        "iocs[3].revision",
        "iocs[3].value",
        "request_id",
    ]
    for kind in pb.IocType.values():
        field = "ioc.value" if kind else "ioc.type"
        assert fields_of(await failure_of(iocs.PutIoc(put("no value", kind)))) == [field]
    calls = {
        ("values[1]",): iocs.CheckIocs(pb.CheckIocsRequest(type=IPV4, values=["192.0.2.1", "192.0.2.256"])),
        ("type", "values"): iocs.CheckIocs(pb.CheckIocsRequest()),
        ("values",): iocs.CheckIocs(pb.CheckIocsRequest(type=IPV4, values=["192.0.2.1"] * 1_001)),
        ("type", "min_confidence", "page_size"): iocs.ListIocs(
            pb.ListIocsRequest(type=9, min_confidence=101, page_size=-1)  # type: ignore[arg-type]  # no such type
        ),
        ("iocs",): iocs.BatchPutIocs(batch()),
        ("type",): iocs.GetIoc(pb.GetIocRequest(value="a.example")),
        ("value",): iocs.DeleteIoc(key("a")),
    }
    for fields, call in calls.items():
        assert tuple(fields_of(await failure_of(call))) == fields


async def test_values_are_checked_in_the_order_of_the_request(iocs: Any) -> None:
    url = "HTTP://Evil.example/%7Ea#x"
    await iocs.BatchPutIocs(
        batch(
            new_ioc("2001:db8::1", IPV6, confidence=0),
            new_ioc("2001:db8::2", IPV6, confidence=100),
            new_ioc("x@evil.example", EMAIL),
            new_ioc(url, URL, confidence=3),
        )
    )
    values = ["2001:DB8::2", "2001:db8::3", "2001:db8:0::1", "2001:db8::2"]
    assert await check(iocs, *values, kind=IPV6) == [100, None, 0, 100]
    assert await check(iocs, "http://evil.example/~a", kind=URL) == [3]
    assert await check(iocs, "evil.example") == [None], "another type"


async def test_an_expired_ioc_is_absent_until_it_is_put_again(
    iocs: Any, application: Application, database: Database
) -> None:
    names = ["a.example", "b.example", "c.example"]
    await iocs.BatchPutIocs(batch(*(new_ioc(name) for name in [*names, "kept.example"])))
    await iocs.PutIoc(put(names[0]))
    expire(database, *names)
    assert await not_found(iocs, names[0])
    assert await check(iocs, *names, "kept.example") == [None, None, None, 80]
    assert await list_all(iocs) == [["kept.example"]]
    assert reason_of(await failure_of(iocs.DeleteIoc(key(names[0])))) == "IOC_NOT_FOUND"
    assert info_of(await failure_of(iocs.PutIoc(put(names[0], revision=2)))).metadata == {"revision": "0"}
    again = await iocs.PutIoc(put(names[0], revision=0))
    assert (again.created, again.ioc.revision, again.ioc.created_at) == (True, 1, again.ioc.updated_at)

    cleanup = Cleanup(application.database, Mutations(application.database))
    with psycopg.connect(database.owner) as writer:
        writer.execute("SELECT FROM vsync.iocs WHERE value = 'b.example' FOR UPDATE")
        assert await cleanup.run() == 1, "a row that a writer has locked is skipped"
    assert await cleanup.run() == 1
    assert await cleanup.run() == 0
    left = rows(database, "SELECT value FROM vsync.iocs ORDER BY 1")
    assert [row["value"] for row in left] == [names[0], "kept.example"]
    entries = rows(database, "SELECT recorded_by, payload FROM vsync.audit_logs WHERE resource = 'iocs'")
    assert [(entry["recorded_by"], entry["payload"]["iocs"]) for entry in entries] == [("vsyncd", 1)] * 2
    assert all(list(entry["payload"]["tenants"].values()) == [1] for entry in entries)


def test_the_function_for_psql_deletes_expired_iocs_and_writes_an_audit_entry(database: Database) -> None:
    insert = """
        INSERT INTO vsync.iocs (tenant, audit_id, created_at, expires_at, type, confidence, value, source)
        SELECT decode(repeat('0' || n % 3, 32), 'hex'), vsync.uuid_v7(now()), now(), now() + (n - 7) * interval '1 day',
               6, 1, repeat(n::text, 64), 's'
        FROM generate_series(1, 9) AS n"""
    clean = "SELECT vsync.clean_expired_iocs(%s)"
    with psycopg.connect(database.owner, autocommit=True) as owner:
        owner.execute(insert)
        deleted = [owner.execute(clean, [4]).fetchone() for _ in range(3)]
    assert deleted == [(4,), (3,), (0,)]
    assert [row["value"][0] for row in rows(database, "SELECT value FROM vsync.iocs ORDER BY 1")] == ["8", "9"]
    entries = rows(database, "SELECT recorded_by, payload FROM vsync.audit_logs ORDER BY id")
    assert [entry["payload"]["iocs"] for entry in entries] == [4, 3]
    assert sum(sum(entry["payload"]["tenants"].values()) for entry in entries) == 7
    assert {entry["recorded_by"] for entry in entries} == {OWNER}
    with psycopg.connect(database.service, autocommit=True) as service, pytest.raises(errors.InsufficientPrivilege):
        service.execute(clean, [4])


async def test_a_list_has_every_match_once(iocs: Any, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.setattr(repository, "MAX_SCANNED_ROWS", 4)
    domains = [new_ioc(f"d{n}.example", confidence=10 * n, source=f"s{n % 2}", tags=[f"t{n % 3}"]) for n in range(9)]
    hashes = [new_ioc(f"{n}" * 64, SHA256, source="s1", tags=["t0", "t1"]) for n in range(3)]
    await iocs.BatchPutIocs(batch(*reversed([*domains, *hashes])))
    expire(database, "d3.example")
    names = [ioc.value for ioc in [*domains[:3], *domains[4:], *hashes]]
    assert await list_all(iocs, page_size=3) == [names[:3], names[3:6], names[6:9], names[9:]]
    filters: list[tuple[dict[str, Any], list[str]]] = [
        ({"type": SHA256}, names[8:]),
        ({"type": DOMAIN, "source": "s1"}, ["d1.example", "d5.example", "d7.example"]),
        ({"source": "s1", "tag": "t1"}, ["d1.example", "d7.example", *names[8:]]),
        ({"min_confidence": 70, "type": DOMAIN}, ["d7.example", "d8.example"]),
        ({"tag": "t2", "min_confidence": 60}, ["d8.example"]),
        ({"tag": "none"}, []),
        ({"type": MD5}, []),
    ]
    for given, expected in filters:
        for size in (0, 1, 7):
            pages = await list_all(iocs, page_size=size, **given)
            assert [value for page in pages for value in page] == expected, given
    token = (await iocs.ListIocs(pb.ListIocsRequest(page_size=1))).next_page_token
    other = pb.ListIocsRequest(page_size=1, source="s1", page_token=token)
    assert fields_of(await failure_of(iocs.ListIocs(other))) == ["page_token"]


@pytest.mark.settings(grpc_max_response_bytes=8192)
async def test_a_page_ends_before_the_response_becomes_too_large(iocs: Any) -> None:
    urls = [f"http://evil.example/{n}{'a' * 1_500}" for n in range(5)]
    for url in urls:
        await iocs.PutIoc(put(url, URL))
    assert await list_all(iocs) == [urls[:2], urls[2:4], urls[4:]]


def test_the_digest_of_a_backup_depends_on_every_column(database: Database) -> None:
    insert = """
        INSERT INTO vsync.iocs (tenant, audit_id, created_at, expires_at, type, confidence, value, source)
        VALUES (decode(repeat('01', 32), 'hex'), gen_random_uuid(), now(), now(), 6, 1, 'v', 's')"""
    changes = [
        "tenant = decode(repeat('02', 32), 'hex')",
        "audit_id = gen_random_uuid()",
        "created_at = now() + interval '1 us'",
        "expires_at = now() + interval '1 us'",
        "revision = 2",
        "type = 7",
        "confidence = 2",
        "value = 'w'",
        "source = 't'",
        "tags = '{a}'",
    ]
    with psycopg.connect(database.admin) as admin:
        admin.execute(insert)
        digests = {admin.execute("TABLE vsync.content_digest_iocs").fetchone()}
        for change in changes:
            with admin.transaction(force_rollback=True):
                admin.execute(f"UPDATE vsync.iocs SET {change}".encode())  # noqa: S608  constants
                digests.add(admin.execute("TABLE vsync.content_digest_iocs").fetchone())
    assert len(digests) == 1 + len(changes)
