"""Warns if PostgreSQL's own log may contain personal data."""

from typing import Final

from vsyncd.observability.logs import logger
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries

# The only verbosity that omits an error's DETAIL, which can contain a record's key, and a statement's parameters.
_SAFE_VERBOSITY: Final = "terse"

_log = logger(__name__)


class ServerLogWatch:
    """Reads log_error_verbosity, and warns once per change to an unsafe value."""

    def __init__(self, database: Database) -> None:
        self._query = queries("vsyncd.jobs.maintenance", database.schema)["error_verbosity"]
        self._database = database
        self._last = _SAFE_VERBOSITY

    async def look(self) -> None:
        """Reads the setting. Raises ServiceError."""
        row = await self._database.read(lambda session: session.one(self._query))
        before, self._last = self._last, row[0] if row else _SAFE_VERBOSITY
        if self._last not in {before, _SAFE_VERBOSITY}:
            _log.warning(
                "PostgreSQL may write keys into its log", log_error_verbosity=self._last, remedy="set it to terse"
            )
