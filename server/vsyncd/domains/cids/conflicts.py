"""Many records as one parameter, and which of them is there already."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow

from vsyncd.core.errors import AlreadyExists
from vsyncd.domains.cids.records import NewCid
from vsyncd.postgres.queries import Query
from vsyncd.postgres.session import Session


def rows_of(identifiers: Iterable[UUID], news: Iterable[NewCid], further: Iterable[Mapping[str, Any]] = ()) -> str:
    """Records as the JSON that the queries take as `rows`, with further fields for each where there are any."""
    rows = [
        {
            "id": str(identifier),
            "cid": "\\x" + cid.hex(),
            "key_type": key_type,
            "key_value": key_value,
            "ispb": ispb,
            "branch": branch,
            "account_number": account_number,
            "account_type": account_type,
            "tax_id": tax_id,
            "dict_request_id": dict_request_id,
        }
        for identifier, (
            cid,
            key_type,
            key_value,
            ispb,
            branch,
            account_number,
            account_type,
            tax_id,
            dict_request_id,
        ) in zip(identifiers, news, strict=True)
    ]
    for row, more in zip(rows, further, strict=False):
        row.update(more)
    return json.dumps(rows)


async def first_clash(
    session: Session, query: Query, rows: str, news: Sequence[NewCid], *, inserted: set[UUID]
) -> tuple[int, AlreadyExists] | None:
    """The index of the first record that is there already, and the error that says so. `query` is find_clashes,
    `rows` the records as `rows_of` gives them, `inserted` the ids that are there by this very transaction."""
    by_cid: dict[bytes, TupleRow] = {}
    by_key: dict[tuple[str, str], TupleRow] = {}
    for row in await session.all(query, {"rows": rows}):
        if row[0] not in inserted:
            by_cid[row[1]] = by_key[row[2], row[3]] = row
    for index, new in enumerate(news):
        for field, found in (("cid", by_cid.get(new.cid)), ("key", by_key.get((new.key_value, new.ispb)))):
            if found is not None:
                return index, already_exists(field, found[0], found[4])
    return None


def already_exists(field: str, existing: UUID, revision: int) -> AlreadyExists:
    """A record with this cid (`field` cid), or with this key at this ispb (`field` key), is there."""
    metadata = {"existing_id": str(existing), "field": field, "revision": str(revision)}
    if field == "cid":
        return AlreadyExists("CID_EXISTS", "A record with this cid is there already.", metadata=metadata)
    return AlreadyExists("KEY_EXISTS", "A record with this key at this ispb is there already.", metadata=metadata)
