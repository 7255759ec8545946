"""The queries of `payments` and the indexes that their plans must use."""

from datetime import UTC, datetime, timedelta

from vsyncd.domains.payments.records import PAYMENT_COLUMNS
from vsyncd.postgres.queries import queries

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import HISTORY, LEAST_ID, PlanCase, this_month


def fill(count: int) -> tuple[str, ...]:
    """Returns statements that fill the tables with this number of payments of this month, and with old hours."""
    return (
        f"""INSERT INTO vsync.payments (id, created_at, requested_at, processed_at, amount, correlation_id, processor)
            SELECT id, vsync.uuid_v7_time(id), at, at, 0.01 * (1 + n % 10000), id::text,
                   CASE WHEN n % 3 = 0 THEN 'fallback' ELSE 'default' END
            FROM (SELECT n, now() - n * interval '29 days' / {count} AS at,
                         (left(begin::text, 13) || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id
                  FROM generate_series(1, {count}) AS n,
                       LATERAL vsync.uuid_v7_floor(date_trunc('month', now(), 'UTC')
                                                   + n * interval '28 days' / {count}) AS begin) AS p""",  # noqa: S608  numbers
        "SELECT vsync.fold_payment_totals()",
        """INSERT INTO vsync.payment_hours (hour, processor, payments, amount)
           SELECT date_trunc('hour', timestamptz '2000-01-01', 'UTC') + n * interval '1 hour', 'default', 1, 1
           FROM generate_series(1, 20000) AS n""",
        """INSERT INTO vsync.payment_deltas (hour, processor, payments, amount)
           SELECT hour, processor, payments, amount FROM vsync.payment_hours LIMIT 20000""",
    )


FILL = fill(HISTORY)
# The first three tables have a handful of rows. The trigger and drop_payment_keys use the last one.
UNUSED_INDEXES = {
    "payment_totals_pkey",
    "payment_fold_pkey",
    "processor_health_pkey",
    "payment_keys_payment_id_key",
}


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of PaymentService and ProcessorHealthService."""
    (some,) = rows(database, "SELECT id, correlation_id FROM vsync.payments ORDER BY id DESC LIMIT 1")
    named, partition = queries("vsyncd.domains.payments", "vsync", columns=PAYMENT_COLUMNS), f"payments_{this_month()}"
    by_time = {f"{partition}_processed_at_id_processor_amount_idx"}
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    period = {
        "first_hour": hour - timedelta(days=7),
        "below_hour": hour,
        "hours": [hour],
        "begins": [hour],
        "ends": [hour + timedelta(minutes=1)],
    }
    page = {
        "after": hour,
        "after_id": LEAST_ID,
        "below": hour + timedelta(days=3),
        "processor": "default",
        "scan": 10_000,
        "size": 100,
    }
    return [
        PlanCase(named["get_by_id"], {"id": some["id"]}, {f"{partition}_pkey"}),
        PlanCase(
            named["get_by_correlation_ids"],
            {"correlation_ids": [some["correlation_id"]]},
            {"payment_keys_pkey", f"{partition}_pkey"},
        ),
        PlanCase(named["list"], page, by_time),
        PlanCase(named["summary"], {}, {"payment_deltas_pkey"}),
        PlanCase(named["summary_of_range"], period, {"payment_hours_pkey", "payment_deltas_pkey"} | by_time),
        PlanCase(named["health"], {"processors": ["default"]}, set()),
    ]
