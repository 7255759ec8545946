"""What `vsyncd credits verify` compares: the balances, the ledgers and the reservations of all tenants."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Each query returns a row for each account for which the statement is true. The kit of domains executes them.
PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "a balance differs from the sums of the ledger": """
            SELECT encode(tenant, 'hex') AS tenant, account FROM "vsync".credit_accounts AS a
            FULL JOIN (
                SELECT tenant, account, sum(available_change) AS available, sum(reserved_change) AS reserved,
                       count(*) AS transactions, max(number) AS last
                FROM "vsync".credit_transactions GROUP BY 1, 2) AS ledger USING (tenant, account)
            WHERE a.available IS DISTINCT FROM coalesce(ledger.available, 0)
               OR a.reserved IS DISTINCT FROM coalesce(ledger.reserved, 0)
               OR a.transactions IS DISTINCT FROM coalesce(ledger.transactions, 0)
               OR a.transactions IS DISTINCT FROM coalesce(ledger.last, 0)""",
        "a transaction does not follow from the one before": """
            SELECT DISTINCT encode(tenant, 'hex') AS tenant, account FROM (
                SELECT tenant, account, number, available, reserved, available_change, reserved_change,
                       lag(number, 1, 0::bigint) OVER ledger AS number_before,
                       lag(available, 1, 0::numeric) OVER ledger AS available_before,
                       lag(reserved, 1, 0::numeric) OVER ledger AS reserved_before
                FROM "vsync".credit_transactions WINDOW ledger AS (PARTITION BY tenant, account ORDER BY number)) AS t
            WHERE number <> number_before + 1 OR available <> available_before + available_change
               OR reserved <> reserved_before + reserved_change""",
        "the reserved balance differs from the sum of the open reservations": """
            SELECT encode(tenant, 'hex') AS tenant, account FROM "vsync".credit_accounts AS a
            FULL JOIN (
                SELECT tenant, account, sum(amount) AS open FROM "vsync".credit_reservations WHERE state = 1
                GROUP BY 1, 2) AS reservations USING (tenant, account)
            WHERE a.reserved IS DISTINCT FROM coalesce(reservations.open, 0)""",
        "a reservation differs from its transactions": """
            SELECT DISTINCT encode(tenant, 'hex') AS tenant, account FROM "vsync".credit_reservations AS r
            FULL JOIN (
                SELECT tenant, account, reservation_id AS id, sum(reserved_change) FILTER (WHERE kind = 3) AS opened,
                       sum(reserved_change) FILTER (WHERE kind > 3) AS closed,
                       max(kind) FILTER (WHERE kind > 3) AS how, count(*) FILTER (WHERE kind > 3) AS times
                FROM "vsync".credit_transactions WHERE reservation_id IS NOT NULL GROUP BY 1, 2, 3) AS t
            USING (tenant, account, id)
            WHERE r.amount IS DISTINCT FROM t.opened OR r.state IS DISTINCT FROM coalesce(t.how - 2, 1) OR t.times > 1
               OR (t.times = 1 AND t.closed IS DISTINCT FROM -r.amount)""",
    }
)
