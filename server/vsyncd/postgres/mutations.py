"""Executes mutations: one transaction with the change, the audit entry and the request id.

A mutation with a request_id takes effect once. The transaction ends with a row in request_ids, which has the bytes from
which the service can build the answer again. The unique index lets only one transaction with that request id commit. A
later execution finds the row and answers again. A concurrent execution fails on the index, or on what the first one
changed, and then finds the row.

The row is visible once the first transaction is committed on the primary. Its synchronous standby may not have it yet
if the wait for the standby was interrupted. A replayed answer therefore also waits for the synchronous standby.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final, Generic, NoReturn, Protocol, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb
from pydantic import ConfigDict, TypeAdapter

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
from vsyncd.core.ids import new_id, time_of
from vsyncd.core.tenants import Tenant
from vsyncd.core.validation import Validator
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import ConstraintErrors
from vsyncd.postgres.queries import Session, queries
from vsyncd.postgres.tables import set_tenant

R = TypeVar("R")
T = TypeVar("T")


def fingerprint(*values: object) -> bytes:
    """Returns a 16-byte digest of a request's validated fields, given as plain values whose repr is their content."""
    return blake2b(repr(values).encode(), digest_size=16, person=b"vsyncd request").digest()


class AnswerCodec(Generic[R]):
    """Encodes the records of one class, such as a NamedTuple, as JSON."""

    def __init__(self, record: type[R]) -> None:
        config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        self._adapter: TypeAdapter[R] = TypeAdapter(record, config=config)

    def encode(self, record: R) -> bytes:
        return self._adapter.dump_json(record)

    def decode(self, data: bytes) -> R:
        return self._adapter.validate_json(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A mutation that a caller requests.

    `fingerprint` covers the validated fields (vsyncd.postgres.mutations). `audit_id` is the id of the audit entry;
    `resource`, `ispb`, `key_value` and `cid` are what the entry is about. With a `tenant`, the statements see only the
    rows of that tenant.

    `repeatable`: `work` determines under its locks what remains to be done, so it can be executed again after an
    unknown commit even without a request_id. Each execution then has an audit entry of its own.
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
    tenant: Tenant | None = None

    def renewed(self) -> "Mutation":
        """Returns the mutation with a new audit id, which sorts after those of earlier entries."""
        return replace(self, audit_id=new_id())

    @classmethod
    def of_job(cls, method: str, *, tenant: Tenant | None = None) -> Self:
        """Returns a step of a background job: a transaction with its own audit entry, whose work must be repeatable."""
        call = RequestContext(method=method, correlation_id=str(new_id()), principal="vsyncd")
        return cls(request_id=None, fingerprint=b"", call=call, repeatable=True, tenant=tenant)

    def part(self) -> "Mutation":
        """Returns a step of the mutation: a transaction with its own audit entry, whose work must be repeatable."""
        return replace(self, audit_id=new_id(), request_id=None, repeatable=True)


class MutationRequest(Protocol):
    """The fields that the request messages of all mutations have."""

    request_id: str
    validate_only: bool


def mutation_of(
    request: MutationRequest,
    validator: Validator,
    *content: object,
    tenant: Tenant | None = None,
    **named: Any,  # noqa: ANN401  Mutation's own types apply
) -> Mutation:
    """Returns the mutation of a request.

    `content` are the validated fields. The fingerprint covers them and the tenant, because a caller may move to another
    tenant, and must not get an answer of the former one. `named` are further fields of Mutation. Raises InvalidFields
    with every violation that the validator has found.
    """
    request_id = validator.optional_uuid("request_id", request.request_id)
    validator.raise_any()
    return Mutation(
        request_id=request_id,
        fingerprint=fingerprint(*content, *([tenant] if tenant else [])) if request_id else b"",
        validate_only=request.validate_only,
        tenant=tenant,
        **named,
    )


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of a mutation, the bytes from which `replay` builds it again, and the contents of the audit entry.

    `payload` must contain no personal data. If `changed` is false, nothing was changed, and no audit entry is written.
    """

    result: T
    answer: bytes
    payload: Mapping[str, Any] | None = None
    resource: str | None = None
    ispb: str | None = None
    key_value: str | None = None
    cid: bytes | None = None
    changed: bool = True


class _RolledBack(Exception):  # noqa: N818  carries the result of validate_only out of its transaction
    def __init__(self, result: object) -> None:
        self.result = result


class Mutations:
    """Executes mutations on a database.

    `constraint_errors` has the error for each constraint that a mutation may violate. Other violations are CONTENTION
    (unique) or INTERNAL.
    """

    def __init__(self, database: Database, constraint_errors: ConstraintErrors | None = None) -> None:
        self.database = database
        self._constraint_errors = constraint_errors or {}
        self._queries = queries("vsyncd.postgres", database.schema)

    def with_constraints(self, errors: ConstraintErrors) -> Self:
        """Returns the same with the errors of a repository's constraints."""
        return type(self)(self.database, errors)

    async def execute(
        self,
        mutation: Mutation,
        work: Callable[[Session], Awaitable[Outcome[T]]],
        replay: Callable[[Session, bytes], Awaitable[T]],
    ) -> T:
        """Returns the result of `work`, or by `replay` that of an earlier execution of the same request.

        Raises InvalidFields (REQUEST_ID_REUSED) if the request id was used with other content, and what `work` raises.
        """

        async def attempt(session: Session) -> T:
            found = await self._find(session, mutation)
            if found is not None:
                return await self._answer_again(session, mutation, replay, found)
            entry = mutation.renewed() if mutation.repeatable else mutation
            tenant = mutation.tenant.hex() if mutation.tenant else ""
            await session.one(self._queries["begin_mutation"], {"audit_id": str(entry.audit_id), "tenant": tenant})
            outcome = await work(session)
            if outcome.changed:
                await self._append_audit(session, entry, outcome)
            if mutation.validate_only:
                raise _RolledBack(outcome.result)
            if mutation.request_id is not None:
                await self._store_request_id(session, mutation, outcome.answer)
            elif not outcome.changed:
                await self.database.wait_for_standbys(session)  # the result may depend on another transaction
            return outcome.result

        try:
            repeatable = mutation.repeatable or mutation.request_id is not None
            return await self.database.transaction(
                attempt, repeatable=repeatable, constraint_errors=self._constraint_errors
            )
        except _RolledBack as validated:
            result: T = validated.result  # type: ignore[assignment]  # `attempt` has raised it
            return result
        except ServiceError as failure:
            # A concurrent execution of the same request may have caused the error. Its answer is returned then.
            if mutation.request_id is None or not isinstance(failure, _CAUSED_BY_SAME_REQUEST):
                raise
            return await self._replay_or_raise(mutation, replay, failure)

    async def _replay_or_raise(
        self, mutation: Mutation, replay: Callable[[Session, bytes], Awaitable[T]], failure: ServiceError
    ) -> T:
        async def look(session: Session) -> T:
            found = await self._find(session, mutation)
            if found is None:
                raise failure
            return await self._answer_again(session, mutation, replay, found)

        return await self.database.transaction(look, repeatable=True)

    async def _answer_again(
        self, session: Session, mutation: Mutation, replay: Callable[[Session, bytes], Awaitable[T]], found: bytes
    ) -> T:
        if mutation.tenant:
            await set_tenant(session, mutation.tenant)
        await self.database.wait_for_standbys(session)
        return await replay(session, found)

    async def _find(self, session: Session, mutation: Mutation) -> bytes | None:
        if mutation.request_id is None:
            return None
        row = await session.one(
            self._queries["find_request"],
            {"request_id": mutation.request_id, "actor": mutation.call.principal, "method": mutation.call.method},
        )
        if row is None:
            return None
        if row[0] != mutation.fingerprint:
            violation = Violation("request_id", "was used before, for a request with other content")
            raise InvalidFields([violation], reason="REQUEST_ID_REUSED")
        answer: bytes = row[1]
        return answer

    async def _store_request_id(self, session: Session, mutation: Mutation, answer: bytes) -> None:
        parameters = {
            "request_id": mutation.request_id,
            "actor": mutation.call.principal,
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
                "actor": mutation.call.principal,
                "action": mutation.call.method,
                "resource": outcome.resource or mutation.resource,
                "ispb": outcome.ispb or mutation.ispb,
                "key_value": outcome.key_value or mutation.key_value,
                "cid": outcome.cid or mutation.cid,
                "payload": Jsonb(dict(outcome.payload)) if outcome.payload else None,
            },
        )


def replay_by(decode: Callable[[bytes], T]) -> Callable[[Session, bytes], Awaitable[T]]:
    """Returns the `replay` of a mutation whose stored answer contains its whole result."""

    async def replay(_session: Session, answer: bytes) -> T:
        return decode(answer)

    return replay


async def never_again(_session: Session, _answer: bytes) -> NoReturn:
    """The `replay` of a step. A step has no request id, so it is never replayed."""
    raise AssertionError


class _DuplicateRequestError(ServiceError):
    """The same request was committed during this execution of it."""

    def __init__(self) -> None:
        super().__init__("CONTENTION", "The same request is being executed.")


# The errors that an execution can get because the same request has been executed before.
_CAUSED_BY_SAME_REQUEST: Final = (
    _DuplicateRequestError,
    AlreadyExists,
    NotFound,
    Aborted,
    FailedPrecondition,
    InvalidArgument,
)
