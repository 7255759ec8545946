"""Opens, closes and reads accounts."""

from vsyncd.core.errors import AlreadyExists, FailedPrecondition
from vsyncd.core.ids import time_of
from vsyncd.core.tenants import Tenant, audit_tenant
from vsyncd.domains.credits.records import (
    COLUMNS,
    Account,
    AccountNotFound,
    AccountPage,
    Transaction,
    TransactionPage,
    amount_text,
)
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import AnswerCodec, Mutation, Mutations, Outcome, replay_by
from vsyncd.postgres.queries import Session, queries
from vsyncd.postgres.tenancy import as_tenant

_ACCOUNT: AnswerCodec[Account] = AnswerCodec(Account)


class AccountRepository:
    """The accounts of all tenants, and reads of their ledgers. Mutations have the tenant of the caller."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.credits", database.schema, **COLUMNS)

    async def open(self, mutation: Mutation, account: str) -> Account:
        """Opens an account. Raises AlreadyExists (ACCOUNT_EXISTS)."""

        async def work(session: Session) -> Outcome[Account]:
            parameters = {
                "tenant": mutation.tenant,
                "account": account,
                "opened_at": time_of(mutation.audit_id),
            }
            row = await session.one(self._queries["open_account"], parameters)
            if row is None:
                raise AlreadyExists("ACCOUNT_EXISTS", "The account exists already.")
            opened = Account._make(row)
            return Outcome(
                opened, _ACCOUNT.encode(opened), audit_tenant(mutation.tenant), f"credits/{mutation.audit_id}"
            )

        return await self._mutations.execute(mutation, work, replay_by(_ACCOUNT.decode))

    async def close(self, mutation: Mutation, account: str) -> Account:
        """Closes an account. Raises AccountNotFound and FailedPrecondition (ACCOUNT_NOT_EMPTY)."""

        async def work(session: Session) -> Outcome[Account]:
            parameters = {
                "tenant": mutation.tenant,
                "account": account,
                "closed_at": time_of(mutation.audit_id),
            }
            row = await session.one(self._queries["lock_account"], parameters)
            if row is None:
                raise AccountNotFound
            found = Account._make(row)
            if found.closed_at is not None:
                return Outcome(found, _ACCOUNT.encode(found), changed=False)
            if found.available or found.reserved:
                metadata = {"available": amount_text(found.available), "reserved": amount_text(found.reserved)}
                raise FailedPrecondition("ACCOUNT_NOT_EMPTY", "The account has a balance.", metadata=metadata)
            closed = Account._make(await session.single(self._queries["close_account"], parameters))
            return Outcome(
                closed, _ACCOUNT.encode(closed), audit_tenant(mutation.tenant), f"credits/{mutation.audit_id}"
            )

        return await self._mutations.execute(mutation, work, replay_by(_ACCOUNT.decode))

    async def get(self, account: str, *, tenant: Tenant) -> Account:
        """Returns an account. Raises AccountNotFound."""
        query, parameters = self._queries["get_account"], {"tenant": tenant, "account": account}
        work = as_tenant(tenant, lambda session: session.one(query, parameters))
        row = await self._database.read(work, ReadMode.PRIMARY_PREFERRED)
        if row is None:
            raise AccountNotFound
        return Account._make(row)

    async def page(self, *, tenant: Tenant, after: str, size: int) -> AccountPage:
        """Returns up to `size` accounts whose names are above `after`."""
        query, parameters = self._queries["list_accounts"], {"tenant": tenant, "after": after, "limit": size + 1}
        work = as_tenant(tenant, lambda session: session.all(query, parameters))
        rows = await self._database.read(work, ReadMode.REPLICA_PREFERRED)
        accounts = [Account._make(row) for row in rows[:size]]
        return AccountPage(accounts, accounts[-1].account if len(rows) > size else None)

    async def transactions(self, account: str, *, tenant: Tenant, below: int, size: int) -> TransactionPage:
        """Returns up to `size` transactions with numbers below `below`, newest first. Raises AccountNotFound."""
        parameters = {"tenant": tenant, "account": account, "below": below, "limit": size + 1}

        async def work(session: Session) -> TransactionPage:
            rows = await session.all(self._queries["list_transactions"], parameters)
            if not rows and await session.one(self._queries["get_account"], parameters) is None:
                raise AccountNotFound
            found = [Transaction._make(row) for row in rows[:size]]
            return TransactionPage(found, found[-1].number if len(rows) > size else None)

        return await self._database.read(as_tenant(tenant, work), ReadMode.REPLICA_PREFERRED)


def _outcome(mutation: Mutation, changed: Account) -> Outcome[Account]:
    payload = audit_tenant(mutation.tenant)
    return Outcome(changed, _ACCOUNT.encode(changed), payload, f"credits/{mutation.audit_id}")
