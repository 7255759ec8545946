"""Executes simple mutations as single statements: one round trip, and one statement for concurrent calls.

The statement `mutate` checks the request id, makes the change, and inserts the audit entry and the request id row. It
has the guarantees of vsyncd.postgres.mutations, because it decides only the simple case: a mutation that it does not
make (the request id is known, the row exists or is missing, the revision differs, a constraint is violated) is executed
by Mutations, which raises the error or answers again.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from vsyncd.core.tenants import Tenant
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import CommitUnknown, ServerSilent, lost_while_committing
from vsyncd.postgres.mutations import Mutation
from vsyncd.postgres.queries import Query, Session, queries
from vsyncd.postgres.tenancy import begin_as
from vsyncd.resilience.coalescer import Coalescer

T = TypeVar("T")

# The maximum wait for the locks of `lock`, which is well below the time after which a server counts as silent.
_LOCK_TIMEOUT_MS: Final = 500


class Change(NamedTuple):
    """One mutation. `row` has the values of the columns, `answer` the bytes from which `replay` builds the result.

    Values are JSON values, UUIDs, dates and bytes. The value of the key column identifies the row.
    """

    mutation: Mutation
    row: Mapping[str, Any]
    answer: bytes
    payload: Mapping[str, Any] | None = None


class NotApplied(Exception):  # noqa: N818  callers never see it
    """The statement changed nothing. `outcome_unknown`: the connection was lost, so it may have been committed."""

    def __init__(self, *, outcome_unknown: bool = False) -> None:
        self.outcome_unknown = outcome_unknown


class BatchConflict(NotApplied):
    """Members of a batch conflict with each other, or one violates a constraint. The statement changed nothing."""


class Decision(NamedTuple):
    """Whether the statement made a change, and what `returning` has for it."""

    applied: bool
    value: Any


class SingleStatement:
    """Executes the changes of one query.

    `change` inserts or updates the rows of the CTE `fresh` and returns the key of each changed row as `key`. An INSERT
    ends with ON CONFLICT DO NOTHING. `columns` are the columns that the domain adds to `fresh`, with their types, and
    `key` is the column that identifies a row. `fresh` also has audit_id, its time created_at, and the other columns of
    `input` in queries.sql, whose names the domain's columns must not have. `before` is a CTE that `change` reads, for
    example an insert into another table. With `coalesce`, the name of the batch in the metrics, one statement executes
    the changes of concurrent calls of one tenant, also those of different methods.

    `lock` is a statement that locks the rows which the changes concern, before the statement reads anything. The
    statement then sees what the last holders of the locks have written. `returning` is a query of one JSON object. It
    may have a value for each audit id. Every part has the parameters `rows` and `tenant`.

        -- name: insert_notes
        INSERT INTO "vsync".notes (id, body, created_at) SELECT id, body, created_at FROM fresh
        ON CONFLICT DO NOTHING RETURNING id AS key;

        SingleStatement(database, queries["insert_notes"], columns="id uuid, body text", key="id")
    """

    def __init__(
        self,
        database: Database,
        change: Query,
        *,
        columns: str,
        key: str = "id",
        before: Query | None = None,
        lock: Query | None = None,
        returning: Query | None = None,
        coalesce: str | None = None,
    ) -> None:
        self._database = database
        self._key = key
        self._lock = lock
        self._query = statement_of(
            change, database.schema, columns=columns, key=key, before=before, returning=returning
        )
        self._coalesce = coalesce
        self._coalescers: dict[Tenant | None, Coalescer[Change, Decision]] = {}

    async def execute(self, change: Change, result: T, otherwise: Callable[[], Awaitable[T]]) -> T:
        """Returns `result` if the statement makes the change, otherwise the result of `otherwise`.

        `otherwise` executes the same mutation with Mutations. Raises CommitUnknown, and what `otherwise` raises.
        """
        decision = await self._attempt(change)
        return result if decision is not None and decision.applied else await otherwise()

    async def decide(self, change: Change, result: Callable[[Any], T], otherwise: Callable[[], Awaitable[T]]) -> T:
        """Returns `result` of the value that `returning` has for this change. Without a value: see `execute`."""
        decision = await self._attempt(change)
        return await otherwise() if decision is None or decision.value is None else result(decision.value)

    async def _attempt(self, change: Change) -> Decision | None:
        """Returns None if nothing was decided."""
        mutation = change.mutation
        if mutation.validate_only:
            return None
        try:
            if self._coalesce is not None:
                return await self._coalescer_of(mutation.tenant, self._coalesce).join(change)
            return (await self._flush([change]))[0]
        except NotApplied as failure:
            # With a request id, `otherwise` finds a change that was committed, and does not repeat it.
            if failure.outcome_unknown and mutation.request_id is None:
                raise CommitUnknown from failure
            return None

    def _coalescer_of(self, tenant: Tenant | None, name: str) -> Coalescer[Change, Decision]:
        coalescer = self._coalescers.get(tenant)
        if coalescer is None:
            coalescer = self._coalescers[tenant] = Coalescer(self._flush, name=name, split_on=(BatchConflict,))
        return coalescer

    async def _flush(self, changes: Sequence[Change]) -> list[Decision]:
        members = [_row(change) for change in changes]
        if len({member[self._key] for member in members}) < len(members):
            raise BatchConflict
        tenant = changes[0].mutation.tenant
        parameters = {"rows": json.dumps(members, default=_json_value), "tenant": tenant}

        async def work(session: Session) -> tuple[frozenset[UUID], Mapping[str, Any], str]:
            try:
                row = await self._run(session, tenant, parameters)
            except (psycopg.errors.ReadOnlySqlTransaction, psycopg.ProgrammingError):
                raise  # a defect of the statement must not be hidden by `otherwise`
            except psycopg.errors.IntegrityError as error:
                raise BatchConflict from error
            except psycopg.Error as error:
                raise NotApplied(outcome_unknown=lost_while_committing(error)) from error
            return frozenset(row[0] or ()), row[1] or {}, await self._database.token(session.connection)

        try:
            rejected, values, token = await self._database.execute_once(work)
        except ServerSilent as error:
            raise NotApplied(outcome_unknown=True) from error
        decisions = []
        for change in changes:
            audit_id = change.mutation.audit_id
            applied = audit_id not in rejected
            decisions.append(Decision(applied, values.get(str(audit_id))))
            if token and applied:
                change.mutation.call.token = token
        return decisions

    async def _run(self, session: Session, tenant: Tenant | None, parameters: Mapping[str, Any]) -> TupleRow:
        connection = session.connection
        if tenant is None and self._lock is None:
            with connection.committing():
                return await session.single(self._query, parameters)
        try:
            # The statements of the transaction are sent together: one round trip.
            with connection.committing():
                async with connection.pipeline():
                    await begin_as(session, tenant, lock_timeout_ms=_LOCK_TIMEOUT_MS)
                    if self._lock is not None:
                        await session.send(self._lock, parameters)
                    cursor = await session.send(self._query, parameters)
                    await connection.execute(b"COMMIT")
                row = await cursor.fetchone()
        except BaseException:
            if not connection.closed:
                await connection.rollback()
            raise
        if row is None:
            raise AssertionError(f"{self._query.name} returned no row")
        return row


def statement_of(
    change: Query,
    schema: str,
    *,
    columns: str,
    key: str,
    before: Query | None = None,
    returning: Query | None = None,
) -> Query:
    """Returns the whole statement. See SingleStatement."""
    template = queries("vsyncd.postgres", schema)["mutate"].sql
    texts = {
        "columns": columns.encode(),
        "before": before.sql + b", " if before else b"",
        "change": change.sql,
        "key": key.encode(),
        "returning": returning.sql if returning else b"NULL::json",
    }
    for marker, text in texts.items():
        template = template.replace(b"/*%s*/" % marker.encode(), text)
    return Query(change.name, template)


def _row(change: Change) -> dict[str, Any]:
    mutation, call = change.mutation, change.mutation.call
    return {
        **change.row,
        "audit_id": mutation.audit_id.hex,
        "method": call.method,
        "correlation_id": call.correlation_id,
        "actor": call.principal,
        "request_id": mutation.request_id and mutation.request_id.hex,
        "fingerprint": _hex(mutation.fingerprint),
        "answer": _hex(change.answer),
        "audit_resource": mutation.resource,
        "audit_ispb": mutation.ispb,
        "audit_key_value": mutation.key_value,
        "audit_cid": mutation.cid and _hex(mutation.cid),
        "audit_payload": change.payload,
    }


def _hex(value: bytes) -> str:
    return "\\x" + value.hex()


def _json_value(value: bytes | UUID | date) -> str:
    return _hex(value) if isinstance(value, bytes) else str(value)
