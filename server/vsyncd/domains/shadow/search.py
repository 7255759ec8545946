"""Searches shadow evaluations, newest first.

A search reads at most MAX_SCANNED_ROWS rows in the order of ids. If they do not fill the page and the filter has
content, a second query reads at most MAX_MATCHES rows by the index of contents: if those are all, the page is filled
from them. Otherwise the page is short, and the next one begins where the first query ended.
"""

from typing import Any, Final

from vsyncd.domains.shadow.records import EvaluationFilter, IdPage
from vsyncd.domains.shadow.repository import evaluation_queries
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import Query, Session

MAX_SCANNED_ROWS: Final = 5_000
MAX_MATCHES: Final = 2_000


class EvaluationSearch:
    """Finds the ids of evaluations."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._schema = database.schema

    async def page(self, wanted: EvaluationFilter, *, size: int) -> IdPage:
        """Returns up to `size` ids that match."""
        parameters = search_parameters(wanted, size=size)
        query = search_query(self._schema, wanted)

        async def work(session: Session) -> IdPage:
            page = _page(await session.all(query, parameters), size)
            if page.next_below is None or len(page.ids) == size or not has_content(wanted):
                return page
            return await self._by_content(session, wanted, parameters, size) or page

        return await self._database.read(work, ReadMode.REPLICA_PREFERRED)

    async def _by_content(
        self, session: Session, wanted: EvaluationFilter, parameters: dict[str, Any], size: int
    ) -> IdPage | None:
        """Returns the page if at most MAX_MATCHES evaluations have this content, otherwise None."""
        rows = await session.all(evaluation_queries(self._schema)["containing"], parameters)
        if len(rows) > MAX_MATCHES:
            return None
        matches = [
            evaluation_id
            for evaluation_id, *candidate, diverged in rows
            if wanted.from_id <= evaluation_id < wanted.below_id
            and wanted.candidate in {None, tuple(candidate)}
            and wanted.diverged in {None, diverged}
        ]
        matches.sort(reverse=True)
        return IdPage(matches[:size], matches[size - 1] if len(matches) > size else None)


def has_content(wanted: EvaluationFilter) -> bool:
    """Whether the filter has content that a result must contain."""
    return wanted.primary_part is not None or wanted.shadow_part is not None


def search_query(schema: str, wanted: EvaluationFilter) -> Query:
    """Returns the query that reads in the order of ids."""
    named = evaluation_queries(schema)
    if wanted.candidate is not None:
        return named["search_candidate"]
    conditions = []
    if wanted.diverged is not None:
        conditions.append("diverged" if wanted.diverged else "NOT diverged")
    if wanted.primary_part is not None:
        conditions.append("primary_result @> %(primary)s::jsonb")
    if wanted.shadow_part is not None:
        conditions.append("shadow_result @> %(shadow)s::jsonb")
    matches = " AND ".join(conditions) or "true"
    query = named["search"]
    return Query(query.name, query.sql.replace(b"/*MATCHES*/", b"(%s)" % matches.encode()))


def search_parameters(wanted: EvaluationFilter, *, size: int) -> dict[str, Any]:
    """Returns the parameters of the queries of a search."""
    name, version = wanted.candidate or (None, None)
    return {
        "name": name,
        "version": version,
        "diverged": wanted.diverged,
        "from": wanted.from_id,
        "below": wanted.below_id,
        "primary": wanted.primary_part,
        "shadow": wanted.shadow_part,
        "scan": MAX_SCANNED_ROWS,
        "size": size + 1,
        "limit": MAX_MATCHES + 1,
    }


def _page(rows: list[tuple[Any, ...]], size: int) -> IdPage:
    """Reads the rows of the query `search`: matches, and the id at which a bounded scan ended, if it did."""
    ids = [evaluation_id for evaluation_id, matches in rows if matches]
    if len(ids) > size:
        return IdPage(ids[:size], ids[size - 1])
    return IdPage(ids, next((evaluation_id for evaluation_id, matches in rows if not matches), None))
