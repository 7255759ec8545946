"""No request, token or deliberately wrong query shows an IOC of another tenant."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from psycopg import errors
from vsync.iocs.v1 import ioc_pb2 as pb
from vsync.iocs.v1.ioc_pb2_grpc import IocServiceStub

from tests.harness.access import ROLES, bearer, key_settings, write_policy
from tests.harness.cids import a_request_id, failure_of, info_of, rows
from tests.harness.clusters import Database
from tests.harness.iocs import DOMAIN, batch, check, list_all, new_ioc, put
from tests.harness.serving import fields_of, reason_of

TENANTS = {"one": "bank-one", "colleague": "bank-one", "two": "bank-two"}


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    """Callers of two tenants, a second caller of the first, and one without a tenant."""
    access = key_settings(tmp_path, dict.fromkeys((*TENANTS, "none"), ROLES), tenants=TENANTS)
    return access | {"domains": "iocs"}


class Caller:
    """The stub of IocService with the key of a caller."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub: Any = IocServiceStub(channel)
        self._metadata = bearer(name)

    def __getattr__(self, method: str) -> Any:
        return lambda request: getattr(self._stub, method)(request, metadata=self._metadata)


async def test_tenants_are_separated(channel: grpc.aio.Channel, database: Database) -> None:
    one, colleague, two, none = (Caller(channel, name) for name in (*TENANTS, "none"))
    request_id = a_request_id()
    for confidence, caller in ((10, one), (20, two)):
        first = await caller.PutIoc(put("both.example", confidence=confidence, request_id=request_id))
        assert first.created, "an own IOC and request id"
        assert await caller.PutIoc(put("both.example", confidence=confidence, request_id=request_id)) == first
    await two.BatchPutIocs(batch(*(new_ioc(f"two-{number}.example") for number in range(3))))

    assert await check(one, "both.example", "two-1.example") == [10, None]
    assert await check(colleague, "both.example", "two-1.example") == [10, None]
    assert await list_all(colleague) == [["both.example"]]
    assert await list_all(colleague, source="feed") == [["both.example"]]
    assert len(await list_all(two, page_size=1)) == 4
    wanted = pb.GetIocRequest(type=DOMAIN, value="two-1.example")
    assert reason_of(await failure_of(one.GetIoc(wanted))) == "IOC_NOT_FOUND"
    deletion = pb.DeleteIocRequest(type=DOMAIN, value="two-1.example")
    assert reason_of(await failure_of(one.DeleteIoc(deletion))) == "IOC_NOT_FOUND"
    error = await failure_of(one.PutIoc(put("two-1.example", revision=1)))
    assert info_of(error).metadata == {"revision": "0"}
    both = pb.GetIocRequest(type=DOMAIN, value="both.example")
    assert (await one.GetIoc(both)).ioc.id != (await two.GetIoc(both)).ioc.id, (
        "an id does not tell that tenants have the same IOC"
    )
    await one.DeleteIoc(pb.DeleteIocRequest(type=DOMAIN, value="both.example"))
    assert await check(two, "both.example") == [20]

    for source in ("", "feed"):
        listing = pb.ListIocsRequest(page_size=1, source=source)
        listing.page_token = (await two.ListIocs(listing)).next_page_token
        assert fields_of(await failure_of(one.ListIocs(listing))) == ["page_token"]
    calls = [
        none.PutIoc(put("a.example")),
        none.BatchPutIocs(batch(new_ioc("a.example"))),
        none.GetIoc(wanted),
        none.CheckIocs(pb.CheckIocsRequest(type=DOMAIN, values=["two-1.example"])),
        none.ListIocs(pb.ListIocsRequest()),
        none.DeleteIoc(deletion),
    ]
    for call in calls:
        assert reason_of(await failure_of(call)) == "TENANT_REQUIRED"

    _check_row_security(database)
    stored = str(rows(database, "TABLE vsync.iocs"))
    assert "bank-" not in stored, "the name of a tenant is not stored"
    audited = str(rows(database, "SELECT resource, payload FROM vsync.audit_logs"))
    assert not any(text in audited for text in ("example", "feed", "bank-")), "auditors of all tenants read it"


def _check_row_security(database: Database) -> None:
    """Queries of the service's role that lack the tenant predicate, or that name another tenant."""
    execute = "SELECT DISTINCT tenant FROM vsync.iocs"
    (two,) = (bytes(row["tenant"]) for row in rows(database, execute))
    one = bytes(32)
    insert = """INSERT INTO vsync.iocs (tenant, audit_id, created_at, expires_at, type, confidence, value, source)
                VALUES (%s, vsync.uuid_v7(now()), now(), now(), 3, 1, 'both.example', 'x')"""
    with psycopg.connect(database.service, autocommit=True) as connection:
        for _ in range(2):
            assert connection.execute("TABLE vsync.iocs").fetchall() == [], "without a tenant no row is visible"
            with connection.transaction(force_rollback=True):
                connection.execute("SELECT set_config('vsync.tenant', %s, true)", [one.hex()])
                connection.execute(insert, [one])
                seen = connection.execute("SELECT value, tenant FROM vsync.iocs").fetchall()
                assert seen == [("both.example", one)]
                named = "SELECT FROM vsync.iocs WHERE tenant = %s OR value LIKE 'two-%%'"
                assert connection.execute(named, [two]).fetchall() == []
                assert connection.execute("UPDATE vsync.iocs SET confidence = 99").rowcount == 1
                assert connection.execute("DELETE FROM vsync.iocs").rowcount == 1
                for statement in (insert, insert + " ON CONFLICT (tenant, type, value) DO UPDATE SET confidence = 5"):
                    with (
                        pytest.raises(errors.InsufficientPrivilege, match="row-level security"),
                        connection.transaction(),
                    ):
                        connection.execute(statement.encode(), [two])
    assert len(rows(database, "SELECT FROM vsync.iocs WHERE confidence IN (20, 80)")) == 4


async def test_a_caller_that_moves_to_another_tenant_gets_no_answer_of_the_former(
    channel: grpc.aio.Channel, application: Any, tmp_path: Path
) -> None:
    caller = Caller(channel, "one")
    request = put("a.example", request_id=a_request_id())
    await caller.PutIoc(request)
    write_policy(tmp_path / "authz.yaml", {"key:one": ROLES}, tenants={"key:one": "bank-three"})
    application.reload()
    async with asyncio.timeout(60):
        while await check(caller, "a.example") != [None]:  # noqa: ASYNC110  the server sends no event
            await asyncio.sleep(0.02)
    assert reason_of(await failure_of(caller.PutIoc(request))) == "REQUEST_ID_REUSED"
