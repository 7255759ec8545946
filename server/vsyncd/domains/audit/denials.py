"""Records denied calls in the audit trail."""

import json
from typing import Final

from vsyncd.access.denials import Denial
from vsyncd.core.context import RequestContext
from vsyncd.core.scope import ALL
from vsyncd.domains.audit.records import NewEntry
from vsyncd.domains.audit.repository import AuditRepository
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations

ACTION: Final = "vsync.access/METHOD_DENIED"


class DenialRecorder:
    """Appends an entry about denied calls: the principal, the method as its resource, and their number."""

    def __init__(self, database: Database) -> None:
        self._repository = AuditRepository(database, Mutations(database))

    async def record(self, denial: Denial) -> None:
        """Appends the entry. Raises ServiceError."""
        entry = NewEntry(
            correlation_id=denial.correlation_id,
            on_behalf_of=None,
            action=ACTION,
            resource=denial.method,
            ispb=None,
            key_value=None,
            cid=None,
            payload=json.dumps({"count": denial.calls}),
        )
        call = RequestContext(method=ACTION, principal=denial.principal, correlation_id=denial.correlation_id)
        await self._repository.append(Mutation(request_id=None, fingerprint=b"", call=call), [entry], scope=ALL)
