"""Whether PostgreSQL's own log may hold what ours never does."""

from typing import Final

from vsyncd.observability.logs import logger
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries

# The one verbosity that leaves out an error's DETAIL, which has the key of a record in it, and statements' parameters.
_FIT: Final = "terse"

_log = logger(__name__)


class ServerLogWatch:
    """Looks at how PostgreSQL logs errors, and says so once when that is not fit for personal data."""

    def __init__(self, database: Database) -> None:
        self._query = queries("vsyncd.jobs.maintenance", database.schema)["error_verbosity"]
        self._database = database
        self._seen = _FIT

    async def look(self) -> None:
        """Look now. Raises Failure."""
        row = await self._database.read(lambda session: session.one(self._query))
        before, self._seen = self._seen, row[0] if row else _FIT
        if self._seen not in {before, _FIT}:
            _log.warning(
                "PostgreSQL may write keys into its log", log_error_verbosity=self._seen, remedy="set it to terse"
            )
