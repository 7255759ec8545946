"""The ways through the table of CIDs: for each filter the index that leads to its records in the order of ids."""

from typing import Any, Final, NamedTuple
from uuid import UUID

from vsyncd.core.ids import ceiling_at
from vsyncd.domains.cids.records import CidFilter
from vsyncd.postgres.queries import Query

_GREATEST_ID: Final = UUID(int=(1 << 128) - 1)


class AccessPath(NamedTuple):
    """A way along one index in the order of ids: a condition and an order, as SQL."""

    condition: str
    order: str


def _along(columns: str, values: str, further: str = "true") -> AccessPath:
    """Where `columns` have these `values`: said as a range of whole index entries, and ordered by all of their columns.

    With equality the planner would also consider the primary key, and where it expects many matches it would read that
    from its begin: the whole table, when the matches all stand at its end.
    """
    return AccessPath(
        f"{further} AND ({columns}, id) > ({values}, %(after)s) AND ({columns}, id) < ({values}, %(before)s)",
        f"{columns}, id",
    )


_BETWEEN: Final = "id > %(after)s AND id < %(before)s"
# The conditions beside the statuses' ranges are what tells the planner that the partial index serves them.
_PATHS: Final = {
    "all": AccessPath(_BETWEEN, "id"),
    "ispb": AccessPath(f"ispb = %(ispb)s AND {_BETWEEN}", "id"),
    "ispb_and_key_type": _along("ispb, key_type", "%(ispb)s, %(key_type)s::smallint"),
    "tax_id": _along("tax_id", "%(tax_id)s"),
    "pending": _along("sync_status", "1::smallint", "sync_status <= 1"),
    "failed": _along("sync_status", "3::smallint", "sync_status >= 3"),
}


def choose_access_path(selection: CidFilter) -> tuple[str, bool]:
    """The best way to what a filter asks for, and whether it decides the filter wholly."""
    given = {name for name in ("ispb", "key_type", "sync_status", "tax_id") if getattr(selection, name) is not None}
    if selection.tax_id is not None:
        return "tax_id", given == {"tax_id"}
    if selection.sync_status in {1, 3}:
        return ("pending" if selection.sync_status == 1 else "failed"), given == {"sync_status"}
    if given >= {"ispb", "key_type"}:
        return "ispb_and_key_type", len(given) == 2
    return ("ispb", len(given) == 1) if "ispb" in given else ("all", not given)


def at_path(query: Query, path: str) -> Query:
    """A query with the condition of a path in the place it keeps for it."""
    condition, order = _PATHS[path]
    sql = query.sql.replace(b"/*PATH*/", condition.encode()).replace(b"/*ORDER*/", order.encode())
    return Query(f"{query.name}_by_{path}", sql)


def selection_parameters(selection: CidFilter, after: UUID) -> dict[str, Any]:
    """The parameters of a filter. Ids carry created_at, so that a time range is a range of ids."""
    from_time, to_time = selection.created_after, selection.created_before
    return {
        "ispb": selection.ispb,
        "key_type": selection.key_type,
        "sync_status": selection.sync_status,
        "tax_id": selection.tax_id,
        "after": max(after, UUID(int=max(ceiling_at(from_time).int - 1, 0))) if from_time else after,
        "before": ceiling_at(to_time) if to_time else _GREATEST_ID,
    }
