"""CreateCid, many at once: concurrent creations are written by one statement.

A creation that clashes, or whose request is known already, makes the statement fail; then it goes again in halves,
until the one at fault is alone, and only that one fails. After any other error its members go again one by one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from vsyncd.domains.cids.conflicts import rows_of
from vsyncd.domains.cids.records import CidRecord, NewCid
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.observability.batches import BatchInstruments
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import CommitUnknown, ServerSilent, lost_while_committing
from vsyncd.postgres.mutations import Mutation
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session
from vsyncd.resilience.coalescer import Coalescer


class Creation(NamedTuple):
    """One call's creation."""

    mutation: Mutation
    new: NewCid


class _Alone(Exception):  # noqa: N818  it sends the members on their way, nothing more
    """The statement was rolled back, or never executed: its members go again alone."""


class _Clash(_Alone):
    """One of the members is there already: looking for it costs no wait, so the others can go on together."""


class _OutcomeUnknown(Exception):  # noqa: N818  as above
    """The connection was lost: only a member with a request_id may go again."""


class CreateBatcher:
    """Creates records, together when calls are concurrent."""

    def __init__(self, database: Database, repository: CidRepository) -> None:
        self._database = database
        self._repository = repository
        self._query = queries("vsyncd.domains.cids", database.schema)["create_together"]
        self._coalescer: Coalescer[Creation, CidRecord] = Coalescer(
            self._flush, instruments=BatchInstruments("create_cid"), divide=(_Clash,)
        )

    async def create(self, mutation: Mutation, new: NewCid) -> CidRecord:
        """As CidRepository.create."""
        if not mutation.validate_only:
            try:
                return await self._coalescer.submit(Creation(mutation, new))
            except _Alone:
                pass
            except _OutcomeUnknown as lost:
                if mutation.request_id is None:
                    raise CommitUnknown from lost
        return await self._repository.create(mutation, new)

    async def _flush(self, creations: Sequence[Creation]) -> list[CidRecord]:
        if not _distinct(creations):
            raise _Clash
        parameters = _parameters(creations)

        async def work(session: Session) -> WalPosition | None:
            try:
                with session.connection.committing():
                    row = await session.one(self._query, parameters)
            except psycopg.errors.ReadOnlySqlTransaction:
                raise
            except psycopg.errors.UniqueViolation as error:
                raise _Clash from error
            except psycopg.Error as error:
                raise (_OutcomeUnknown if lost_while_committing(error) else _Alone) from error
            if row is None or row[0] != len(creations):
                raise _Clash
            return await self._database.position(session)

        try:
            position = await self._database.execute_once(work)
        except ServerSilent as error:
            raise _OutcomeUnknown from error
        if position is not None:
            token = position.encode()
            for mutation, _ in creations:
                mutation.call.token = token
        return [CidRecord.created(mutation.audit_id, new) for mutation, new in creations]


def _distinct(creations: Sequence[Creation]) -> bool:
    """Whether no two of them clash with each other, which the statement does not look for."""
    cids = {new.cid for _, new in creations}
    keys = {(new.key_value, new.ispb) for _, new in creations}
    return len(cids) == len(keys) == len(creations)


def _parameters(creations: Sequence[Creation]) -> dict[str, Any]:
    mutations = [creation.mutation for creation in creations]
    rows = rows_of(
        (mutation.audit_id for mutation in mutations), (creation.new for creation in creations), map(_frame, mutations)
    )
    return {"rows": rows, "method": mutations[0].call.method}


def _frame(mutation: Mutation) -> dict[str, str | None]:
    return {
        "correlation_id": mutation.call.correlation_id,
        "actor": mutation.call.actor,
        "request_id": str(mutation.request_id) if mutation.request_id else None,
        "fingerprint": "\\x" + mutation.fingerprint.hex(),
    }
