"""New records as the JSON parameter of a query, and the search for the existing records that they conflict with."""

import json
from collections.abc import Iterable, Sequence
from uuid import UUID

from psycopg.rows import TupleRow

from vsyncd.core.errors import AlreadyExists
from vsyncd.core.scope import Scope
from vsyncd.domains.cids.records import NewCid
from vsyncd.postgres.queries import Query, Session


def rows_json(identifiers: Iterable[UUID], new_cids: Iterable[NewCid]) -> str:
    """Returns records as the JSON array that the queries accept as `rows`."""
    return json.dumps(
        [
            {"id": str(identifier), **new._asdict(), "cid": "\\x" + new.cid.hex()}
            for identifier, new in zip(identifiers, new_cids, strict=True)
        ]
    )


async def find_conflict(
    session: Session, query: Query, rows: str, new_cids: Sequence[NewCid], *, inserted: set[UUID], scope: Scope
) -> tuple[int, AlreadyExists] | None:
    """Returns the index of the first record that exists already and the error to raise, or None.

    `query` is find_conflicts, `rows` the records as JSON, `inserted` the ids that this transaction has inserted.
    """
    by_cid: dict[bytes, TupleRow] = {}
    by_key: dict[tuple[str, str], TupleRow] = {}
    for row in await session.all(query, {"rows": rows}):
        if row[0] not in inserted:
            by_cid[row[1]] = by_key[row[2], row[3]] = row
    for index, new in enumerate(new_cids):
        for field, found in (("cid", by_cid.get(new.cid)), ("key", by_key.get((new.key_value, new.ispb)))):
            if found is not None:
                return index, already_exists(field, found[0], found[4], is_visible=found[3] in scope)
    return None


def already_exists(field: str, existing: UUID, revision: int, *, is_visible: bool) -> AlreadyExists:
    """Returns the error for an existing record with the same cid (`field` "cid"), or key and ispb (`field` "key").

    `is_visible`: the record is in the caller's scope. Otherwise the error has nothing of it.
    """
    metadata = {"field": field}
    if is_visible:
        metadata |= {"existing_id": str(existing), "revision": str(revision)}
    if field == "cid":
        return AlreadyExists("CID_EXISTS", "A record with this cid exists already.", metadata=metadata)
    return AlreadyExists("KEY_EXISTS", "A record with this key and ispb exists already.", metadata=metadata)
