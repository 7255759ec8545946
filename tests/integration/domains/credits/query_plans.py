"""The queries of `credits` and the indexes that their plans must use."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from vsyncd.domains.credits.ledger import GROUPED_COLUMNS
from vsyncd.domains.credits.records import COLUMNS
from vsyncd.postgres.queries import Query, queries
from vsyncd.postgres.single_statement import statement_of

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import HISTORY, LEAST_ID, PlanCase

TENANT = b"\1" * 32
# Three tenants. Each account has one open reservation, and one transaction.
FILL = (
    f"""INSERT INTO vsync.credit_accounts (tenant, account, opened_at, transactions, available, reserved)
        SELECT decode(repeat('0' || (1 + n % 3), 32), 'hex'), 'account-' || n, now(), 2, 1, 1
        FROM generate_series(1, {HISTORY}) AS n""",  # noqa: S608  a constant
    """INSERT INTO vsync.credit_transactions (tenant, id, account, number, kind, amount, available_change,
           reserved_change, available, reserved, reference, created_at)
       SELECT tenant, vsync.uuid_v7(now()), account, 1, 1, 2, 2, 0, 2, 0, 'credit', now()
       FROM vsync.credit_accounts""",
    """INSERT INTO vsync.credit_reservations (tenant, id, account, amount, expires_at)
       SELECT tenant, vsync.uuid_v7(now()), account, 1, now() + random() * interval '1 day'
       FROM vsync.credit_accounts""",
)


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of CreditService and of its job."""
    named = queries("vsyncd.domains.credits", "vsync", **COLUMNS)
    accounts, ledger, reservations = (f"credit_{name}_pkey" for name in ("accounts", "transactions", "reservations"))
    due = "credit_reservations_open_idx"
    given: dict[str, Any] = {
        "tenant": TENANT,
        "account": "account-3",
        "accounts": ["account-3", "account-6"],
        "after": "account-1",
        "below": 100,
        "busy": ["account-9"],
        "id": LEAST_ID,
        "limit": 101,
        "reference": "credit",
        "rows": json.dumps([{"account": f"account-{number}"} for number in range(64)]),
        "state": 2,
        "step": 100,
        "closed_at": datetime.now(UTC) - timedelta(days=1),
    }
    indexes = {
        "lock_accounts": {accounts},
        "lock_account": {accounts},
        "get_account": {accounts},
        "list_accounts": {accounts},
        "close_account": {accounts},
        "get_by_reference": {"credit_transactions_reference_key"},
        "list_transactions": {ledger},
        "get_reservation": {reservations},
        "close_reservation": {reservations},
        "accounts_with_expired": {due},
        "lock_free_accounts": {accounts},
        "expire": {due, accounts},
    }
    grouped = statement_of(
        named["post_many"],
        "vsync",
        columns=GROUPED_COLUMNS,
        key="audit_id",
        before=named["running"],
        returning=named["decisions"],
    )
    (row,) = rows(database, "SELECT prosrc FROM pg_proc WHERE proname = 'tenants_with_expired_credits'")
    tenants = Query("tenants_with_expired_credits", row["prosrc"].encode())
    return [
        *(PlanCase(named[name], _used(named[name], given), wanted) for name, wanted in indexes.items()),
        PlanCase(grouped, _used(grouped, given), {accounts, "credit_transactions_reference_key"}),
        PlanCase(tenants, {}, {due}),
    ]


def _used(query: Query, parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if f"%({name})s".encode() in query.sql}
