"""Access paths to the table of CIDs: for each filter the index that returns its records in the order of ids."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

from vsyncd.core.ids import id_range
from vsyncd.domains.cids.records import CidFilter
from vsyncd.postgres.queries import Query

# The condition and the order, as SQL, that read a range of one index in the order of ids.
AccessPath: TypeAlias = tuple[str, str]


def _index_range(columns: str, values: str, partial_index: str = "true") -> AccessPath:
    """Returns the path to the rows whose `columns` have these `values`.

    The condition compares whole index entries, and the order names all of their columns. With equality the planner
    would also consider the primary key. If it expects many matches, it would read that from the start: the whole
    table, if all matches are at its end. `partial_index` repeats the condition of a partial index, so that the planner
    can use it.
    """
    return (
        f"{partial_index} AND ({columns}, id) > ({values}, %(after)s) AND ({columns}, id) < ({values}, %(before)s)",
        f"{columns}, id",
    )


_ID_RANGE: Final = "id > %(after)s AND id < %(before)s"
_PATHS: Final[Mapping[str, AccessPath]] = {
    "all": (_ID_RANGE, "id"),
    "ispb": (f"ispb = %(ispb)s AND {_ID_RANGE}", "id"),
    "ispbs": (f"ispb = ANY (%(ispbs)s::text[]) AND {_ID_RANGE}", "id"),
    "ispb_and_key_type": _index_range("ispb, key_type", "%(ispb)s, %(key_type)s::smallint"),
    "tax_id": _index_range("tax_id", "%(tax_id)s"),
    "pending": _index_range("sync_status", "1::smallint", "sync_status <= 1"),
    "failed": _index_range("sync_status", "3::smallint", "sync_status >= 3"),
}


def choose_access_path(cid_filter: CidFilter) -> tuple[str, bool]:
    """Returns the name of the best path for a filter, and whether all rows of the path match the filter."""
    given = {name for name in ("ispb", "key_type", "sync_status", "tax_id") if getattr(cid_filter, name) is not None}
    if cid_filter.ispbs is not None:
        given.add("ispbs")
    if cid_filter.tax_id is not None:
        return "tax_id", given == {"tax_id"}
    if cid_filter.sync_status in {1, 3}:
        return ("pending" if cid_filter.sync_status == 1 else "failed"), given == {"sync_status"}
    if given >= {"ispb", "key_type"}:
        return "ispb_and_key_type", len(given) == 2
    if "ispbs" in given:
        return "ispbs", given <= {"ispbs", "key_type"}
    return ("ispb", len(given) == 1) if "ispb" in given else ("all", not given)


def ispb_condition(cid_filter: CidFilter) -> str:
    """Returns the condition, as SQL, on the participants of a filter."""
    if cid_filter.ispbs is not None:
        return "ispb = ANY (%(ispbs)s::text[])"
    return "(%(ispb)s::text IS NULL OR ispb = %(ispb)s)"


def with_access_path(query: Query, path: str, *, condition_on_ispb: str = "") -> Query:
    """Returns the query with its placeholders PATH, ORDER and ISPB replaced."""
    condition, order = _PATHS[path]
    texts = {"PATH": condition, "ORDER": order, "ISPB": condition_on_ispb}
    sql = query.sql
    for name, text in texts.items():
        sql = sql.replace(f"/*{name}*/".encode(), text.encode())
    return Query(f"{query.name}_by_{path}", sql)


def filter_parameters(cid_filter: CidFilter, after: UUID) -> dict[str, Any]:
    """Returns the query parameters of a filter. An id contains created_at, so a time range is a range of ids."""
    first, end = id_range(cid_filter.created_after, cid_filter.created_before)
    return {
        "ispb": cid_filter.ispb,
        "ispbs": cid_filter.ispbs,
        "key_type": cid_filter.key_type,
        "sync_status": cid_filter.sync_status,
        "tax_id": cid_filter.tax_id,
        "after": max(after, UUID(int=max(first.int - 1, 0))),
        "before": end,
    }
