"""Computes the tenant of a call, and restricts reads to it.

A tenant is stored as the HMAC of its name. The key never changes, because the stored rows could not be found any more:
the database has the key's fingerprint, and another key is rejected.

Every query of a tenanted domain has a tenant predicate. In addition each transaction sets the tenant for row-level
security: Mutations and SingleStatement do so if the mutation has a tenant, and `as_tenant` does so for reads.
"""

import hmac
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Final, TypeVar

from vsyncd.config import Settings
from vsyncd.config.types import read_key_file
from vsyncd.core.context import current_context
from vsyncd.core.tenants import Tenant, TenantKeyDiffers, TenantRequired
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import Session, queries

T = TypeVar("T")

# Used without TENANT_HMAC_KEY_FILE, which is possible only if callers do not authenticate. It protects nothing.
_PUBLIC_KEY: Final = b"vsyncd: the key of the tenant `default`"
_FINGERPRINT: Final = "vsyncd: the fingerprint of this key"
_CACHED_TENANTS: Final = 4096


class Tenancy:
    """The tenants of one database."""

    def __init__(self, settings: Settings, database: Database) -> None:
        path = settings.tenant_hmac_key_file
        key = _PUBLIC_KEY if path is None else read_key_file(path)
        self._database = database
        self._queries = queries("vsyncd.postgres", database.schema)
        self._hmac_of = lru_cache(_CACHED_TENANTS)(lambda text: hmac.digest(key, text.encode(), "sha256"))
        self._is_checked = False

    async def current(self) -> Tenant:
        """Returns the tenant of the current call. Raises TenantRequired and TenantKeyDiffers.

        A background job has no tenant.
        """
        name = current_context().grant.tenant
        if not name:
            raise TenantRequired
        if not self._is_checked:
            fingerprint = await self._database.read(self._find_fingerprint, ReadMode.PRIMARY_PREFERRED)
            self._check(fingerprint or await self._database.transaction(self._store_fingerprint, repeatable=True))
        return Tenant(self._hmac_of(name))

    async def check_key(self, connection: Connection) -> None:
        """Stores the fingerprint of the key in an empty database. Raises TenantKeyDiffers if it has another one."""
        session = Session(connection)
        self._check(await self._find_fingerprint(session) or await self._store_fingerprint(session))

    async def _find_fingerprint(self, session: Session) -> bytes | None:
        row = await session.one(self._queries["tenant_key"])
        return None if row is None else bytes(row[0])

    async def _store_fingerprint(self, session: Session) -> bytes | None:
        await session.run(self._queries["store_tenant_key"], {"fingerprint": self._hmac_of(_FINGERPRINT)})
        return await self._find_fingerprint(session)

    def _check(self, fingerprint: bytes | None) -> None:
        if fingerprint != self._hmac_of(_FINGERPRINT):
            raise TenantKeyDiffers
        self._is_checked = True


async def begin_as(
    session: Session, tenant: Tenant | None, *, read_only: bool = False, lock_timeout_ms: int = 0
) -> None:
    """Begins a transaction whose statements see only the rows of this tenant. The caller ends it.

    Called in a pipeline, so that its statements need no round trip each. A lock timeout of 0 is none.
    """
    access = "READ ONLY" if read_only else "READ WRITE"
    settings = {"vsync.tenant": tenant.hex() if tenant else "", "lock_timeout": f"{lock_timeout_ms}ms"}
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    await session.connection.execute(f"BEGIN ISOLATION LEVEL read committed {access}".encode())
    await session.connection.execute(f"SELECT {calls}".encode())


def as_tenant(tenant: Tenant, work: Callable[[Session], Awaitable[T]]) -> Callable[[Session], Awaitable[T]]:
    """Returns `work` for Database.read, executed in a transaction that sees only the rows of this tenant."""

    async def restricted(session: Session) -> T:
        connection = session.connection
        try:
            async with connection.pipeline():
                await begin_as(session, tenant, read_only=True)
            result = await work(session)
            await connection.execute(b"COMMIT")
        except BaseException:
            if not connection.closed:
                await connection.rollback()
            raise
        return result

    return restricted
