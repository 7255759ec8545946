"""Stores and finds IOCs."""

from collections.abc import Sequence
from typing import Any, Final

from vsyncd.core.ids import time_of
from vsyncd.core.tenants import Tenant, audit_tenant
from vsyncd.domains.iocs.audit import audit_resource, batch_details, put_details
from vsyncd.domains.iocs.records import (
    COLUMNS,
    Ioc,
    IocFilter,
    IocKey,
    IocNotFound,
    IocPage,
    IocType,
    NewIoc,
    PutAnswer,
    PutOutcome,
    check_replaced,
)
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, replay_by
from vsyncd.postgres.queries import Session, queries
from vsyncd.postgres.tenancy import as_tenant

# The rows that one page reads at most, with a filter by tag or confidence.
MAX_SCANNED_ROWS: Final = 10_000
# psycopg needs 3 us for each element of an array, so arrays are sent as one text. No value, source or tag has these
# characters.
_SEPARATOR: Final = "\x1f"
_TAG_SEPARATOR: Final = "\x1e"


class IocRepository:
    """The IOCs of all tenants. Mutations have the tenant of the caller."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.iocs", database.schema, columns=COLUMNS)

    async def put(
        self, mutation: Mutation, new: Sequence[NewIoc], *, tenant: Tenant, is_batch: bool = False
    ) -> PutAnswer:
        """Stores all IOCs or none. Raises Aborted (REVISION_MISMATCH)."""

        async def work(session: Session) -> Outcome[PutAnswer]:
            rows = await session.all(self._queries["put"], _columns(mutation, new, tenant))
            stored = {(row[0], row[1]): PutOutcome(*row[2:]) for row in rows}
            answer = PutAnswer(mutation.audit_id, [stored[each[:2]] for each in new])
            for index, (each, outcome) in enumerate(zip(new, answer.outcomes, strict=True)):
                check_replaced(each.revision, outcome.revision - 1, index if is_batch else None)
            if is_batch:
                return Outcome(answer, answer.encode(), batch_details(tenant, new, answer))
            resource = audit_resource(tenant, IocKey(*new[0][:2]))
            return Outcome(answer, answer.encode(), put_details(tenant, new[0], answer), resource)

        return await self._mutations.execute(mutation, work, replay_by(PutAnswer.decode))

    async def delete(self, mutation: Mutation, key: IocKey, *, revision: int | None, tenant: Tenant) -> None:
        """Deletes an IOC. Raises IocNotFound and Aborted (REVISION_MISMATCH)."""

        async def work(session: Session) -> Outcome[None]:
            row = await session.one(self._queries["delete"], {"tenant": tenant, **key._asdict()})
            if row is None:
                raise IocNotFound
            check_replaced(revision, row[0])
            payload = {**audit_tenant(tenant), "type": IocType(key.type).name, "revision": row[0], "confidence": row[1]}
            return Outcome(None, b"", payload, audit_resource(tenant, key))

        await self._mutations.execute(mutation, work, replay_by(lambda _answer: None))

    async def get(self, key: IocKey, *, tenant: Tenant) -> Ioc:
        """Returns an IOC. Raises IocNotFound."""
        query, parameters = self._queries["get"], {"tenant": tenant, **key._asdict()}
        work = as_tenant(tenant, lambda session: session.one(query, parameters))
        row = await self._database.read(work, ReadMode.PRIMARY_PREFERRED)
        if row is None:
            raise IocNotFound
        return Ioc._make(row)

    async def check(self, kind: int, values: Sequence[str], *, tenant: Tenant) -> dict[str, int]:
        """Returns the confidence of each value that is an IOC of this type."""
        query, parameters = self._queries["check"], {"tenant": tenant, "type": kind, "values": _SEPARATOR.join(values)}
        work = as_tenant(tenant, lambda session: session.all(query, parameters))
        return dict(await self._database.read(work, ReadMode.PRIMARY_PREFERRED))

    async def page(self, wanted: IocFilter, *, tenant: Tenant, after: IocKey | None, size: int) -> IocPage:
        """Returns up to `size` IOCs after a key, in the order of keys. A page may be short before the last one."""
        start = after or IocKey(wanted.type, "")
        parameters = {
            "tenant": tenant,
            **wanted._asdict(),
            "after_type": start.type,
            "after_value": start.value,
            "last_type": wanted.type or max(IocType),
            # Without such a filter only expired rows are skipped.
            "scan": MAX_SCANNED_ROWS if wanted.tag or wanted.min_confidence else 2 * size,
            "size": size + 1,
        }
        query = self._queries["list_of_source" if wanted.source else "list"]
        work = as_tenant(tenant, lambda session: session.all(query, parameters))
        rows = await self._database.read(work, ReadMode.REPLICA_PREFERRED)
        iocs = [Ioc._make(row[:-1]) for row in rows if row[-1]]
        last = iocs[size - 1] if len(iocs) > size else None
        if last is None and rows and not rows[-1][-1]:
            last = Ioc._make(rows[-1][:-1])
        return IocPage(iocs[:size], None if last is None else IocKey(last.type, last.value))


def _columns(mutation: Mutation, new: Sequence[NewIoc], tenant: Tenant) -> dict[str, Any]:
    types, values, confidences, sources, tags, ttls_us, _ = zip(*new, strict=True)
    return {
        "tenant": tenant,
        "audit_id": mutation.audit_id,
        "created_at": time_of(mutation.audit_id),
        "types": _SEPARATOR.join(map(str, types)),
        "values": _SEPARATOR.join(values),
        "confidences": _SEPARATOR.join(map(str, confidences)),
        "sources": _SEPARATOR.join(sources),
        "tags": _SEPARATOR.join(map(_TAG_SEPARATOR.join, tags)),
        "ttls_us": _SEPARATOR.join(map(str, ttls_us)),
    }
