"""The frame of every mutation: one transaction with its effect, its audit entry, and the request's id.

A request_id takes effect once. Its row, with what is needed to answer again, is written last, in the same transaction;
the unique index lets only one such transaction commit. A later execution finds the row and answers again; one that
ran beside the first fails on the index, or on what the first one changed, and then finds the row.

The row is seen once the first transaction is committed on the primary, which may be before its synchronous standby has
it: the first one's caller was not answered, since its wait was cut short. Who answers in its place waits in its place.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NoReturn, Protocol, TypeVar
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from vsyncd.core.context import RequestContext, current_context
from vsyncd.core.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    InvalidFields,
    NotFound,
    ServiceError,
    Violation,
)
from vsyncd.core.fingerprints import fingerprint
from vsyncd.core.ids import new_id, time_of
from vsyncd.core.validation import Validator
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """What a caller asks for.

    `fingerprint` covers the validated fields (vsyncd.core.fingerprints). `key_value` and `cid` are what the audit
    entry names, for a mutation of one record. `audit_id` is the entry's id.

    `repeatable`: `work` looks, under its locks, at what is still to be done, so that it can be executed again after a
    commit whose outcome is unknown, also without a request_id. Each execution's entry has an id of its own then.
    """

    request_id: UUID | None
    fingerprint: bytes
    validate_only: bool = False
    resource: str | None = None
    ispb: str | None = None
    key_value: str | None = None
    cid: bytes | None = None
    audit_id: UUID = field(default_factory=new_id)
    call: RequestContext = field(default_factory=current_context)
    repeatable: bool = False

    def renewed(self) -> "Mutation":
        """The mutation with an audit entry that sorts behind those that were written before."""
        return replace(self, audit_id=new_id())

    def part(self) -> "Mutation":
        """A transaction of its own within the mutation, with its own audit entry. Its work must be repeatable."""
        return replace(self, audit_id=new_id(), request_id=None, repeatable=True)


class MutationRequest(Protocol):
    """The fields that every mutation's request message has."""

    request_id: str
    validate_only: bool


def mutation_of(request: MutationRequest, validator: Validator, *content: object, **named: Any) -> Mutation:  # noqa: ANN401  Mutation's own types apply
    """Returns the mutation that a request asks for.

    `content` are the validated fields, which the fingerprint covers; `named` are further fields of Mutation.
    Raises InvalidFields with every bad field that the validator has found.
    """
    request_id = validator.optional_uuid("request_id", request.request_id)
    validator.raise_any()
    return Mutation(
        request_id=request_id,
        fingerprint=fingerprint(*content) if request_id else b"",
        validate_only=request.validate_only,
        **named,
    )


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a mutation came to: its result, the bytes from which the result can be given again, and what the audit
    entry says of it (no personal values). `changed` false: nothing was changed, and no audit entry is written."""

    result: T
    answer: bytes
    payload: Mapping[str, Any] | None = None
    resource: str | None = None
    ispb: str | None = None
    key_value: str | None = None
    cid: bytes | None = None
    changed: bool = True


class _Keep(Exception):  # noqa: N818  it carries a result out of a transaction that is rolled back
    def __init__(self, result: object) -> None:
        self.result = result


class Mutations:
    """Executes mutations on a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._queries = queries("vsyncd.postgres", database.schema)

    async def execute(
        self,
        mutation: Mutation,
        work: Callable[[Session], Awaitable[Outcome[T]]],
        replay: Callable[[Session, bytes], Awaitable[T]],
    ) -> T:
        """The result of `work`, or of an earlier execution of the same request by `replay`.

        Raises InvalidFields with REQUEST_ID_REUSED when the id was used for something else, and what `work` raises.
        """

        async def attempt(session: Session) -> T:
            found = await self._find(session, mutation)
            if found is not None:
                return await self._answer_again(session, replay, found)
            entry = mutation.renewed() if mutation.repeatable else mutation
            await session.one(self._queries["begin_mutation"], {"audit_id": str(entry.audit_id)})
            outcome = await work(session)
            if outcome.changed:
                await self._append_audit(session, entry, outcome)
            if mutation.validate_only:
                raise _Keep(outcome.result)
            if mutation.request_id is not None:
                await self._keep(session, mutation, outcome.answer)
            elif not outcome.changed:
                await self.database.wait_for_standbys(session)  # for what somebody else has changed
            return outcome.result

        try:
            repeatable = mutation.repeatable or mutation.request_id is not None
            return await self.database.transaction(attempt, repeatable=repeatable)
        except _Keep as kept:
            result: T = kept.result  # type: ignore[assignment]  # it was put there six lines above
            return result
        except ServiceError as failure:
            # Perhaps our own twin was faster: its answer is ours. The failure stands otherwise.
            if mutation.request_id is None or not _may_be_a_twins(failure):
                raise
            return await self._replay_or_raise(mutation, replay, failure)

    async def _replay_or_raise(
        self, mutation: Mutation, replay: Callable[[Session, bytes], Awaitable[T]], failure: ServiceError
    ) -> T:
        async def look(session: Session) -> T:
            found = await self._find(session, mutation)
            if found is None:
                raise failure
            return await self._answer_again(session, replay, found)

        return await self.database.transaction(look, repeatable=True)

    async def _answer_again(
        self, session: Session, replay: Callable[[Session, bytes], Awaitable[T]], found: bytes
    ) -> T:
        await self.database.wait_for_standbys(session)
        return await replay(session, found)

    async def _find(self, session: Session, mutation: Mutation) -> bytes | None:
        if mutation.request_id is None:
            return None
        row = await session.one(
            self._queries["find_request"],
            {"request_id": mutation.request_id, "actor": mutation.call.actor, "method": mutation.call.method},
        )
        if row is None:
            return None
        if row[0] != mutation.fingerprint:
            violation = Violation("request_id", "was used before, for a request with other content")
            raise InvalidFields([violation], reason="REQUEST_ID_REUSED")
        answer: bytes = row[1]
        return answer

    async def _keep(self, session: Session, mutation: Mutation, answer: bytes) -> None:
        parameters = {
            "request_id": mutation.request_id,
            "actor": mutation.call.actor,
            "method": mutation.call.method,
            "fingerprint": mutation.fingerprint,
            "answer": answer,
        }
        try:
            await session.run(self._queries["keep_request"], parameters)
        except psycopg.errors.UniqueViolation as error:
            raise _DuplicateRequestError from error

    async def _append_audit(self, session: Session, mutation: Mutation, outcome: Outcome[T]) -> None:
        await session.run(
            self._queries["append_audit"],
            {
                "id": mutation.audit_id,
                "created_at": time_of(mutation.audit_id),
                "correlation_id": mutation.call.correlation_id,
                "actor": mutation.call.actor,
                "action": mutation.call.method,
                "resource": outcome.resource or mutation.resource,
                "ispb": outcome.ispb or mutation.ispb,
                "key_value": outcome.key_value or mutation.key_value,
                "cid": outcome.cid or mutation.cid,
                "payload": Jsonb(dict(outcome.payload)) if outcome.payload else None,
            },
        )


async def never_again(_session: Session, _answer: bytes) -> NoReturn:
    """The `replay` of a part: without a request's id nothing is answered again."""
    raise AssertionError


class _DuplicateRequestError(ServiceError):
    """The same request committed while this execution of it was under way."""

    def __init__(self) -> None:
        super().__init__("CONTENTION", "The same request is being executed.")


def _may_be_a_twins(failure: ServiceError) -> bool:
    """Whether what the same request has changed before could be what this execution fails on."""
    return isinstance(
        failure, _DuplicateRequestError | AlreadyExists | NotFound | Aborted | FailedPrecondition | InvalidArgument
    )
