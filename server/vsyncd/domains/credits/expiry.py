"""Releases expired reservations, in steps of one transaction each."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from vsyncd.core.tenants import Tenant, audit_tenant
from vsyncd.domains.credits.records import COLUMNS
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import Contention
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, never_again
from vsyncd.postgres.queries import Session, queries

# Reservations released in one transaction. Writers of their accounts wait for it.
STEP: Final = 100
_ACTION: Final = "vsync.credits.v1.CreditService/ExpireReservations"


class _Locked(NamedTuple):
    """The accounts that a step has locked, and those with expired reservations that others have locked."""

    accounts: Sequence[str]
    busy: frozenset[str] = frozenset()


class _Step(NamedTuple):
    """The number of released reservations, and as _Locked."""

    released: int
    busy: frozenset[str] = frozenset()


class Expiry:
    """The work of the job. Each step has one audit entry."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.credits", database.schema, **COLUMNS)

    async def run(self) -> int:
        """Releases the reservations of all tenants that have expired. Returns their number."""
        query = self._queries["tenants_with_expired"]
        tenants = await self._database.read(lambda session: session.all(query))
        return sum([await self._release(Tenant(tenant)) for (tenant,) in tenants])

    async def _release(self, tenant: Tenant) -> int:
        """Skips accounts that others have locked. Then waits briefly for each of those, holding no other lock."""
        released = 0
        busy: frozenset[str] = frozenset()
        while (step := await self._step(tenant, partial(self._lock_free, tenant, busy))) != _Step(0):
            released += step.released
            busy |= step.busy
        for account in sorted(busy):
            with suppress(Contention):  # still locked: the next run of the job tries again
                while count := (await self._step(tenant, partial(self._lock_busy, tenant, account))).released:
                    released += count
        return released

    async def _lock_free(self, tenant: Tenant, busy: frozenset[str], session: Session) -> _Locked:
        parameters = {"tenant": tenant, "step": STEP, "busy": list(busy)}
        due = [row[0] for row in await session.all(self._queries["accounts_with_expired"], parameters)]
        rows = await session.all(self._queries["lock_free_accounts"], {"tenant": tenant, "accounts": due})
        locked = [row[0] for row in rows]
        return _Locked(locked, frozenset(due).difference(locked))

    async def _lock_busy(self, tenant: Tenant, account: str, session: Session) -> _Locked:
        """Raises LockNotAvailable."""
        await session.one(self._queries["limit_lock_wait"])
        await session.one(self._queries["lock_account"], {"tenant": tenant, "account": account})
        return _Locked([account])

    async def _step(self, tenant: Tenant, lock: Callable[[Session], Awaitable[_Locked]]) -> _Step:
        """Releases reservations of the accounts that `lock` locks. Raises Contention if it waited in vain."""
        mutation = Mutation.of_job(_ACTION, tenant=tenant)

        async def work(session: Session) -> Outcome[_Step]:
            locked = await lock(session)
            count = 0
            if locked.accounts:
                parameters = {"tenant": tenant, "step": STEP, "accounts": locked.accounts}
                (count,) = await session.single(self._queries["expire"], parameters)
            payload = {**audit_tenant(tenant), "reservations": count}
            return Outcome(_Step(count, locked.busy), b"", payload, resource="credits", changed=count > 0)

        return await self._mutations.execute(mutation, work, never_again)
