"""The queries of `iocs` and the indexes that their plans must use."""

from datetime import UTC, datetime
from typing import Any

from vsyncd.domains.iocs.records import COLUMNS
from vsyncd.domains.iocs.repository import MAX_SCANNED_ROWS
from vsyncd.postgres.queries import Query, queries

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import HISTORY, LEAST_ID, PlanCase

TENANT = b"\1" * 32


def fill(count: int) -> tuple[str, ...]:
    """Returns the statements that insert IOCs of three tenants, of all types and ten sources. Some have expired."""
    return (
        f"""INSERT INTO vsync.iocs (tenant, audit_id, created_at, expires_at, type, confidence, value, source, tags)
            SELECT decode(repeat('0' || (1 + n % 3), 32), 'hex'), vsync.uuid_v7(now()), now(),
                   now() + (random() - 0.1) * interval '10 days', 1 + n / 3 % 8, n % 101, 'value-' || n,
                   'source-' || n % 10, ARRAY['tag-' || n % 7]
            FROM generate_series(1, {count}) AS n""",  # noqa: S608  a number
    )


FILL = fill(HISTORY)


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of IocService. Among few IOCs a scan of MAX_SCANNED_ROWS may read the whole table."""
    (counted,) = rows(database, "SELECT count(*) AS iocs FROM vsync.iocs")
    named = queries("vsyncd.domains.iocs", "vsync", columns=COLUMNS)
    given: dict[str, Any] = {
        "tenant": TENANT,
        "audit_id": LEAST_ID,
        "created_at": datetime.now(UTC),
        "type": 2,
        "value": "value-3",
        "values": "\x1f".join(f"value-{number}" for number in range(1_000)),
        "source": "source-3",
        "tag": "tag-1",
        "min_confidence": 50,
        "after_type": 2,
        "after_value": "value-1",
        "last_type": 8,
        "scan": MAX_SCANNED_ROWS if counted["iocs"] > 10 * HISTORY else 200,
        "size": 101,
    }
    return [
        PlanCase(named["get"], _used(named["get"], given), {"iocs_pkey"}),
        PlanCase(named["check"], _used(named["check"], given), {"iocs_pkey"}),
        PlanCase(named["delete"], _used(named["delete"], given), {"iocs_pkey"}),
        PlanCase(named["list"], _used(named["list"], given), {"iocs_pkey"}),
        PlanCase(named["list"], _used(named["list"], given | {"after_type": 0, "after_value": ""}), {"iocs_pkey"}),
        PlanCase(named["list_of_source"], _used(named["list_of_source"], given), {"iocs_source_idx"}),
    ]


# The function of the job uses it, which a plan does not show.
UNUSED_INDEXES = {"iocs_expires_at_idx"}


def _used(query: Query, parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if f"%({name})s".encode() in query.sql}
