"""Which instance runs which job: the table job_runs.

A run is claimed with a lease, which its holder renews. Who finds a lease that ran out takes the job over: its holder
was killed, or cut off from the database, in which case it has ended the run itself by then (jobs.py).
"""

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries

LEASE: Final = 60.0
_MOST_TEXT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """The last run of a job, and `now` by the database's clock, which all of its times are of.

    `holder` (host, process and a random part) runs it until `lease_until` at least; None: nobody.
    `last_error` says why the last run failed; None when it succeeded. `last_succeeded` is when one last did. `lease` is
    the longest there is: what is later than that allows was written while the clock was ahead.
    """

    now: datetime
    holder: str | None = None
    lease_until: datetime | None = None
    last_started: datetime | None = None
    last_finished: datetime | None = None
    last_succeeded: datetime | None = None
    last_error: str | None = None
    lease: timedelta = timedelta(seconds=LEASE)

    @property
    def is_running(self) -> bool:
        """Whether someone holds it now. Who does, and whose clock was put back, renews the lease by the right one."""
        return self.lease_until is not None and self.now < self.lease_until <= self.now + 2 * self.lease

    @property
    def is_ahead(self) -> bool:
        """Whether the last run began at a time that is still to come."""
        return self.last_started is not None and self.last_started > self.now + self.lease

    @property
    def was_cut_off(self) -> bool:
        """Whether the last run ended without a result: its process was killed or told to stop."""
        if self.is_running or self.last_started is None:
            return False
        return self.last_finished is None or self.last_finished < self.last_started


@dataclass(frozen=True, slots=True)
class JobLease:
    """A run that is this process's own. `started` is by the database's clock."""

    name: str
    holder: str
    started: datetime


class JobLedger:
    """Reads and writes job_runs. Every method raises Failure; SCHEMA_OUT_OF_DATE when there is no such table yet.

    `lease` is in seconds.
    """

    def __init__(self, database: Database, *, lease: float = LEASE) -> None:
        self.lease = lease
        self._longest = timedelta(seconds=max(lease, LEASE))
        self._database = database
        self._queries = queries("vsyncd.postgres", database.schema)

    async def look(self, name: str) -> JobRun:
        """The last run of a job, or one without any times when it never ran."""
        row = await self._database.read(lambda session: session.one(self._queries["find_job_run"], {"name": name}))
        if row is None:
            raise AssertionError("the query always has one row")
        now, holder, lease_until, started, finished, succeeded, error = row
        return JobRun(
            now=now,
            holder=holder,
            lease_until=lease_until,
            last_started=started,
            last_finished=finished,
            last_succeeded=succeeded,
            last_error=error,
            lease=self._longest,
        )

    async def claim(self, name: str, seen: JobRun) -> JobLease | None:
        """Begin a run, unless somebody else has begun one since `seen`; then None."""
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        parameters = {
            "name": name,
            "holder": holder,
            "lease": timedelta(seconds=self.lease),
            "most": 2 * self._longest,
            "last_started": seen.last_started,
        }
        query = self._queries["claim_job_run"]
        # Repeatable: it finds its own claim, by the holder, when the first commit's answer was lost.
        row = await self._database.transaction(lambda session: session.one(query, parameters), repeatable=True)
        return None if row is None else JobLease(name, holder, row[0])

    async def renew(self, claim: JobLease) -> bool:
        """Keep it for another lease. False: it is somebody else's by now."""
        return await self._change("renew_job_run", claim, {"lease": timedelta(seconds=self.lease)})

    async def release(self, claim: JobLease) -> bool:
        """Give it up without a result, so that someone else can take over at once."""
        return await self._change("release_job_run", claim, {})

    async def finish(self, claim: JobLease, *, error: str | None) -> bool:
        """Note what the run came to. `error` names no personal value; None: it succeeded."""
        return await self._change("finish_job_run", claim, {"error": error and error[:_MOST_TEXT]})

    async def _change(self, query: str, claim: JobLease, parameters: dict[str, object]) -> bool:
        given = {"name": claim.name, "holder": claim.holder, **parameters}
        return bool(
            await self._database.transaction(lambda session: session.run(self._queries[query], given), repeatable=True)
        )
