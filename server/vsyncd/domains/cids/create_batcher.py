"""Executes concurrent CreateCid calls as one statement.

If a record exists already, or a request_id is known, the statement changes nothing. The coalescer then divides the
batch into halves until the creation at fault is alone, so that only that one fails. After any other error each
creation is executed alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from vsyncd.domains.cids.records import CID_COLUMNS, CidRecord, NewCid
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.domains.cids.rows import rows_json
from vsyncd.observability.metrics import BatchInstruments
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import CommitUnknown, ServerSilent, lost_while_committing
from vsyncd.postgres.mutations import Mutation
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session
from vsyncd.resilience.coalescer import Coalescer


class Creation(NamedTuple):
    """One CreateCid call."""

    mutation: Mutation
    new: NewCid


class BatchFailed(Exception):  # noqa: N818  callers never see it
    """The statement failed. `outcome_unknown`: the connection was lost, so it may have been committed."""

    def __init__(self, *, outcome_unknown: bool) -> None:
        self.outcome_unknown = outcome_unknown


class BatchConflict(BatchFailed):
    """A record exists already, or a request_id is known. The statement changed nothing."""

    def __init__(self) -> None:
        super().__init__(outcome_unknown=False)


class CreateBatcher:
    """Creates records; the creations of concurrent calls are executed together."""

    def __init__(self, database: Database, repository: CidRepository) -> None:
        self._database = database
        self._repository = repository
        self._query = queries("vsyncd.domains.cids", database.schema, columns=CID_COLUMNS)["create_together"]
        self._coalescer: Coalescer[Creation, CidRecord] = Coalescer(
            self._flush, instruments=BatchInstruments("create_cid"), split_on=(BatchConflict,)
        )

    async def create(self, mutation: Mutation, new: NewCid) -> CidRecord:
        """Like CidRepository.create."""
        if not mutation.validate_only:
            try:
                return await self._coalescer.submit(Creation(mutation, new))
            except BatchFailed as failure:
                # With a request_id a creation that was committed is found, and not executed again.
                if failure.outcome_unknown and mutation.request_id is None:
                    raise CommitUnknown from failure
        return await self._repository.create(mutation, new)

    async def _flush(self, creations: Sequence[Creation]) -> list[CidRecord]:
        if not _all_distinct(creations):
            raise BatchConflict
        parameters = _parameters(creations)

        async def work(session: Session) -> WalPosition | None:
            try:
                with session.connection.committing():
                    row = await session.single(self._query, parameters)
            except psycopg.errors.ReadOnlySqlTransaction:
                raise
            except psycopg.errors.UniqueViolation as error:
                raise BatchConflict from error
            except psycopg.Error as error:
                raise BatchFailed(outcome_unknown=lost_while_committing(error)) from error
            if row[0] != len(creations):
                raise BatchConflict
            return await self._database.position(session)

        try:
            position = await self._database.execute_once(work)
        except ServerSilent as error:
            raise BatchFailed(outcome_unknown=True) from error
        if position is not None:
            token = position.encode()
            for mutation, _ in creations:
                mutation.call.token = token
        return [CidRecord.created(mutation.audit_id, new) for mutation, new in creations]


def _all_distinct(creations: Sequence[Creation]) -> bool:
    """Returns whether no two creations conflict with each other. The statement does not check this."""
    cids = {new.cid for _, new in creations}
    keys = {(new.key_value, new.ispb) for _, new in creations}
    return len(cids) == len(keys) == len(creations)


def _parameters(creations: Sequence[Creation]) -> dict[str, Any]:
    mutations = [creation.mutation for creation in creations]
    rows = rows_json(
        (mutation.audit_id for mutation in mutations),
        (creation.new for creation in creations),
        map(_request_fields, mutations),
    )
    return {"rows": rows, "method": mutations[0].call.method}


def _request_fields(mutation: Mutation) -> dict[str, str | None]:
    return {
        "correlation_id": mutation.call.correlation_id,
        "actor": mutation.call.actor,
        "request_id": str(mutation.request_id) if mutation.request_id else None,
        "fingerprint": "\\x" + mutation.fingerprint.hex(),
    }
