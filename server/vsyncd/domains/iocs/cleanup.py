"""Deletes expired IOCs, in steps of one transaction each."""

from typing import Final

from vsyncd.core.tenants import Tenant, audit_tenant
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, never_again
from vsyncd.postgres.queries import Session, queries

# Rows deleted in one transaction. A writer of one of them waits for it.
STEP: Final = 1_000
_ACTION: Final = "vsync.iocs.v1.IocService/CleanExpiredIocs"


class Cleanup:
    """The work of the job. Each step has one audit entry."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.iocs", database.schema)

    async def run(self) -> int:
        """Deletes the IOCs of all tenants that have expired. Returns their number."""
        deleted = 0
        while step := await self._step():
            deleted += step
        return deleted

    async def _step(self) -> int:
        mutation = Mutation.of_job(_ACTION)

        async def work(session: Session) -> Outcome[int]:
            rows = await session.all(self._queries["delete_expired"], {"step": STEP})
            deleted = sum(row[1] for row in rows)
            tenants = {audit_tenant(Tenant(row[0]))["tenant"]: row[1] for row in rows}
            payload = {"iocs": deleted, "tenants": tenants}
            return Outcome(deleted, b"", payload, resource="iocs", changed=deleted > 0)

        return await self._mutations.execute(mutation, work, never_again)
