"""The queries of `audit` and the indexes that their plans must use."""

from vsyncd.domains.audit.repository import filtered_query, list_query
from vsyncd.postgres.queries import queries

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import GREATEST_ID, HISTORY, LEAST_ID, PlanCase, this_month

FILL = (
    "ALTER TABLE vsync.audit_logs DISABLE TRIGGER audit_logs_time",
    f"""INSERT INTO vsync.audit_logs (id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb,
                                     key_value, cid)
        SELECT id, vsync.uuid_v7_time(id), 'trace-' || id, 'caller-' || n % 1000,
               CASE WHEN n % 2 = 0 THEN 'actor-' || n % 1000 END, 'action-' || n % 500, 'cids/' || id, ispb,
               key_value, cid
        FROM (SELECT *, row_number() OVER () AS n FROM vsync.cids LIMIT {HISTORY}) AS c""",  # noqa: S608  a constant
)


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of AuditService, and the look-up of the entries of CID events."""
    entries = rows(database, "SELECT * FROM vsync.audit_logs WHERE on_behalf_of IS NOT NULL ORDER BY id LIMIT 3")
    entry, ids = entries[0], [row["id"] for row in entries]
    named, partition = queries("vsyncd.domains.audit", "vsync"), f"audit_logs_{this_month()}"
    period = {"from": LEAST_ID, "below": GREATEST_ID, "limit": 101}
    found = [
        PlanCase(named["get"], {"id": entry["id"]}, {f"{partition}_pkey"}),
        PlanCase(named["get_all"], {"ids": ids, "first": ids[0], "last": ids[-1]}, {f"{partition}_pkey"}),
        PlanCase(named["list_by_ispb"], {"value": "00000007"} | period, {f"{partition}_ispb_id_idx"}),
        PlanCase(
            named["list_by_cid"],
            {"value": entry["cid"]} | period,
            {f"{partition}_cid_id_idx", f"cid_events_{this_month()}_cid_idx"},
        ),
    ]
    for by in ("correlation_id", "key_value", "action", "actor", "recorded_by", "resource"):
        columns = ("recorded_by", "on_behalf_of") if by == "actor" else (by,)
        listed = list_query(named["list_by_actor" if by == "actor" else "list_by"], by)
        parameters = {"value": entry[columns[-1]], "ispb": "12345678", "ispbs": ["12345678"], "size": 101} | period
        found += [
            PlanCase(query, parameters, {f"{partition}_{column}_id_idx" for column in columns})
            for query in (
                listed,
                filtered_query(named["list_filtered"], listed),
                filtered_query(named["list_filtered"], listed, several=True),
            )
        ]
    return found
