"""Executes simple mutations as single statements: one round trip, and one statement for concurrent calls.

The statement `mutate` checks the request id, makes the change, and inserts the audit entry and the request id row. It
has the guarantees of vsyncd.postgres.mutations, because it decides only the simple case: a mutation that it does not
make (the request id is known, the row exists or is missing, the revision differs, a constraint is violated) is executed
by Mutations, which raises the error or answers again.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from itertools import compress
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import psycopg

from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import CommitUnknown, ServerSilent, lost_while_committing
from vsyncd.postgres.mutations import Mutation
from vsyncd.postgres.queries import Query, Session, queries
from vsyncd.resilience.coalescer import Coalescer

T = TypeVar("T")


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


class SingleStatement:
    """Executes the changes of one query.

    `change` inserts or updates the rows of the CTE `fresh` and returns the key of each changed row as `key`. An INSERT
    ends with ON CONFLICT DO NOTHING. `columns` are the columns that the domain adds to `fresh`, with their types, and
    `key` is the column that identifies a row. `fresh` also has audit_id, its time created_at, and the other columns of
    `input` in queries.sql, whose names the domain's columns must not have. `before` is a CTE that `change` reads, for
    example an insert into another table. With `coalesce`, the name of the batch in the metrics, one statement executes
    the changes of concurrent calls.

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
        coalesce: str | None = None,
    ) -> None:
        self._database = database
        self._key = key
        self._query = statement_of(change, database.schema, columns=columns, key=key, before=before)
        self._coalescer: Coalescer[Change, bool] | None = None
        if coalesce is not None:
            self._coalescer = Coalescer(self._flush, name=coalesce, split_on=(BatchConflict,))

    async def execute(self, change: Change, result: T, otherwise: Callable[[], Awaitable[T]]) -> T:
        """Returns `result` if the statement makes the change, otherwise the result of `otherwise`.

        `otherwise` executes the same mutation with Mutations. Raises CommitUnknown, and what `otherwise` raises.
        """
        if not change.mutation.validate_only:
            try:
                if await self._coalescer.join(change) if self._coalescer else (await self._flush([change]))[0]:
                    return result
            except NotApplied as failure:
                # With a request id, `otherwise` finds a change that was committed, and does not repeat it.
                if failure.outcome_unknown and change.mutation.request_id is None:
                    raise CommitUnknown from failure
        return await otherwise()

    async def _flush(self, changes: Sequence[Change]) -> list[bool]:
        members = [_row(change) for change in changes]
        if len({member[self._key] for member in members}) < len(members):
            raise BatchConflict
        parameters = {"rows": json.dumps(members, default=_json_value), "method": changes[0].mutation.call.method}

        async def work(session: Session) -> tuple[frozenset[UUID], str]:
            try:
                with session.connection.committing():
                    row = await session.single(self._query, parameters)
            except (psycopg.errors.ReadOnlySqlTransaction, psycopg.ProgrammingError):
                raise  # a defect of the statement must not be hidden by `otherwise`
            except psycopg.errors.IntegrityError as error:
                raise BatchConflict from error
            except psycopg.Error as error:
                raise NotApplied(outcome_unknown=lost_while_committing(error)) from error
            return frozenset(row[0] or ()), await self._database.token(session.connection)

        try:
            rejected, token = await self._database.execute_once(work)
        except ServerSilent as error:
            raise NotApplied(outcome_unknown=True) from error
        applied = [not rejected or change.mutation.audit_id not in rejected for change in changes]
        if token:
            for change in compress(changes, applied):
                change.mutation.call.token = token
        return applied


def statement_of(change: Query, schema: str, *, columns: str, key: str, before: Query | None = None) -> Query:
    """Returns the whole statement. See SingleStatement."""
    template = queries("vsyncd.postgres", schema)["mutate"].sql
    texts = {
        "columns": columns.encode(),
        "before": before.sql + b", " if before else b"",
        "change": change.sql,
        "key": key.encode(),
    }
    for marker, text in texts.items():
        template = template.replace(b"/*%s*/" % marker.encode(), text)
    return Query(change.name, template)


def _row(change: Change) -> dict[str, Any]:
    mutation, call = change.mutation, change.mutation.call
    return {
        **change.row,
        "audit_id": mutation.audit_id.hex,
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
