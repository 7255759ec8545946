"""No request, token or deliberately wrong query shows a row of another tenant."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from psycopg import errors
from vsync.credits.v1 import credit_pb2 as pb
from vsync.credits.v1.credit_pb2_grpc import CreditServiceStub
from vsyncd.app import Application
from vsyncd.config.errors import ConfigError, StartError
from vsyncd.core.tenants import Tenant
from vsyncd.domains.registry import load_settings
from vsyncd.postgres.queries import Query
from vsyncd.postgres.tenancy import as_tenant

from tests.harness.access import ROLES, bearer, key_settings, write_policy
from tests.harness.cids import a_request_id, failure_of, rows
from tests.harness.clusters import Database
from tests.harness.credits import credit, debit, reserve
from tests.harness.serving import fields_of, reason_of

TABLES = ("credit_accounts", "credit_transactions", "credit_reservations")
OTHER_KEY = "r" * 42 + "g="


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    """Callers of two tenants, a second caller of the first, and one without a tenant."""
    tenants = {"one": "bank-one", "colleague": "bank-one", "two": "bank-two"}
    access = key_settings(tmp_path, dict.fromkeys((*tenants, "none"), ROLES), tenants=tenants)
    return access | {"domains": "credits"}


class Caller:
    """The stub of CreditService with the key of a caller."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub: Any = CreditServiceStub(channel)
        self._metadata = bearer(name)

    def __getattr__(self, method: str) -> Any:
        return lambda request: getattr(self._stub, method)(request, metadata=self._metadata)


async def test_tenants_are_separated(channel: grpc.aio.Channel, application: Application, database: Database) -> None:
    one, colleague, two, none = (Caller(channel, name) for name in ("one", "colleague", "two", "none"))
    for number, caller in enumerate((one, two), 1):
        for account in ("a", "b"):
            await caller.OpenAccount(pb.OpenAccountRequest(account=account))
            await caller.Credit(credit(account, 100 * number, "opening"))
    await two.OpenAccount(pb.OpenAccountRequest(account="only-two"))
    held = (await two.Reserve(reserve("a", 1, "hold"))).transaction

    assert (await colleague.GetAccount(pb.GetAccountRequest(account="a"))).account.available == "100.00"
    assert len((await one.ListAccounts(pb.ListAccountsRequest())).accounts) == 2
    request = debit("a", 60, "order", request_id=a_request_id())
    assert (await one.Debit(request)).transaction.available == "40.00"
    assert (await two.Debit(request)).transaction.available == "139.00", "an own account, reference and request id"

    assert reason_of(await failure_of(one.GetAccount(pb.GetAccountRequest(account="only-two")))) == "ACCOUNT_NOT_FOUND"
    release = pb.ReleaseRequest(account="a", reservation_id=held.id, reference="r")
    assert reason_of(await failure_of(one.Release(release))) == "RESERVATION_NOT_FOUND"
    for listing, field in (
        (pb.ListAccountsRequest(page_size=1), "ListAccounts"),
        (pb.ListTransactionsRequest(account="a", page_size=1), "ListTransactions"),
    ):
        listing.page_token = (await getattr(two, field)(listing)).next_page_token
        assert fields_of(await failure_of(getattr(one, field)(listing))) == ["page_token"]
    assert reason_of(await failure_of(none.ListAccounts(pb.ListAccountsRequest()))) == "TENANT_REQUIRED"
    assert reason_of(await failure_of(none.OpenAccount(pb.OpenAccountRequest(account="x")))) == "TENANT_REQUIRED"

    _check_row_security(database)
    await _check_row_security_of_the_service(application, database)
    stored = "".join(str(row) for table in TABLES for row in rows(database, f"TABLE vsync.{table}"))
    assert "bank-" not in stored, "the name of a tenant is not stored"
    audited = str(rows(database, "SELECT resource, payload FROM vsync.audit_logs"))
    assert not any(name in audited for name in ("only-two", "order", "opening")), "auditors of all tenants read it"


def _check_row_security(database: Database) -> None:
    """Queries of the service's role that lack the tenant predicate, or that name another tenant."""
    query = "SELECT tenant, min(opened_at) FROM vsync.credit_accounts GROUP BY 1 ORDER BY 2"
    first, second = (bytes(row["tenant"]) for row in rows(database, query))
    insert = "INSERT INTO vsync.credit_accounts (tenant, account, opened_at) VALUES (%s, 'x', now())"
    with psycopg.connect(database.service, autocommit=True) as connection:
        for _ in range(2):
            for table in TABLES:
                found = connection.execute(f"TABLE vsync.{table}".encode()).fetchall()
                assert found == [], "without a tenant no row is visible, also after a transaction with one"
            with connection.transaction():
                connection.execute("SELECT set_config('vsync.tenant', %s, true)", [first.hex()])
                for table in TABLES:
                    seen = {row[0] for row in connection.execute(f"TABLE vsync.{table}".encode())}
                    assert seen == ({first} if table != "credit_reservations" else set())
                other = "SELECT FROM vsync.credit_accounts WHERE tenant = %s"
                assert connection.execute(other, [second]).fetchall() == []
                change = "UPDATE vsync.credit_accounts SET available = available WHERE account = 'only-two'"
                assert connection.execute(change).rowcount == 0
                with pytest.raises(errors.InsufficientPrivilege, match="row-level security"), connection.transaction():
                    connection.execute(insert, [second])


async def _check_row_security_of_the_service(application: Application, database: Database) -> None:
    """A query that lacks the tenant predicate, executed as the service executes its reads."""
    wrong = Query("wrong", b"SELECT DISTINCT tenant FROM vsync.credit_accounts")
    tenants = {Tenant(row["tenant"]) for row in rows(database, wrong.sql.decode())}
    assert len(tenants) == 2
    for tenant in tenants:
        assert await application.database.read(as_tenant(tenant, lambda session: session.all(wrong))) == [(tenant,)]
    assert await application.database.read(lambda session: session.all(wrong)) == []


async def test_a_caller_that_moves_to_another_tenant_gets_no_answer_of_the_former(
    channel: grpc.aio.Channel, application: Application, tmp_path: Path
) -> None:
    one = Caller(channel, "one")
    opening = pb.OpenAccountRequest(account="a", request_id=a_request_id())
    await one.OpenAccount(opening)
    posting = credit("a", 1, "r", request_id=a_request_id())
    await one.Credit(posting)
    write_policy(tmp_path / "authz.yaml", {"key:one": ROLES}, tenants={"key:one": "bank-three"})
    application.reload()
    async with asyncio.timeout(60):
        while (await one.ListAccounts(pb.ListAccountsRequest())).accounts:  # noqa: ASYNC110  the server sends no event
            await asyncio.sleep(0.02)
    assert reason_of(await failure_of(one.OpenAccount(opening))) == "REQUEST_ID_REUSED"
    assert reason_of(await failure_of(one.Credit(posting))) == "REQUEST_ID_REUSED"


async def test_another_tenant_key_stops_the_start(application: Application, settings: Any, tmp_path: Path) -> None:
    await application.stop()
    (tmp_path / "tenant.key").write_text(OTHER_KEY)
    with pytest.raises(StartError, match="TENANT_HMAC_KEY_FILE: "):
        await Application(settings).start()
    without = settings.model_dump() | {"tenant_hmac_key_file": None}
    with pytest.raises(ConfigError, match="TENANT_HMAC_KEY_FILE: required"):
        Application(load_settings(**without))
    (tmp_path / "tenant.key").write_text("short")
    with pytest.raises(ConfigError, match="TENANT_HMAC_KEY_FILE: takes the path"):
        load_settings(**settings.model_dump())


def test_every_tenanted_table_is_restricted_and_every_index_starts_with_the_tenant(database: Database) -> None:
    tables = rows(
        database,
        """SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,
                  (SELECT array_agg(pg_get_expr(polqual, polrelid)) FROM pg_policy WHERE polrelid = c.oid) AS policies,
                  (SELECT bool_and(i.indkey[0] = a.attnum) FROM pg_index AS i WHERE i.indrelid = c.oid) AS indexes
           FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant'
           WHERE c.relnamespace = 'vsync'::regnamespace AND c.relkind IN ('r', 'p')""",
    )
    assert {row["relname"] for row in tables} >= set(TABLES)
    for row in tables:
        assert (row["relrowsecurity"], row["relforcerowsecurity"], row["indexes"]) == (True, False, True)
        assert row["policies"] == ["(tenant = decode(current_setting('vsync.tenant'::text, true), 'hex'::text))"]
