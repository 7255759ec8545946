"""The table job_runs, which records the instance that runs each job.

A run is claimed with a lease, which its holder renews. Any instance can claim a job whose lease has expired: its holder
was killed, or has lost the database and ended the run itself before the expiry (runner.py).
"""

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries

LEASE_S: Final = 60.0
_MAX_ERROR_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """The last run of a job. All times are by the database's clock; `now` is its present time.

    `holder` (host, process and a random text) holds the lease until `lease_until`; None: no instance runs the job.
    `last_error` is the reason of the last failure; None after a success. `last_succeeded` is the start of the last
    successful run. `lease` is the maximum duration of a lease: a later `lease_until` was written by a clock that was
    ahead.
    """

    now: datetime
    holder: str | None = None
    lease_until: datetime | None = None
    last_started: datetime | None = None
    last_finished: datetime | None = None
    last_succeeded: datetime | None = None
    last_error: str | None = None
    lease: timedelta = timedelta(seconds=LEASE_S)

    @property
    def is_running(self) -> bool:
        """Whether an instance holds the lease. A holder renews a lease that was written by a clock that was ahead."""
        return self.lease_until is not None and self.now < self.lease_until <= self.now + 2 * self.lease

    @property
    def is_ahead(self) -> bool:
        """Whether the last run began in the future, because the clock was ahead."""
        return self.last_started is not None and self.last_started > self.now + self.lease

    @property
    def was_interrupted(self) -> bool:
        """Whether the last run ended without a result, because its process was stopped or killed."""
        if self.is_running or self.last_started is None:
            return False
        return self.last_finished is None or self.last_finished < self.last_started


@dataclass(frozen=True, slots=True)
class JobLease:
    """A run that this process has claimed. `started` is by the database's clock."""

    name: str
    holder: str
    started: datetime


class JobLedger:
    """Reads and writes job_runs. Every method raises ServiceError; SCHEMA_OUT_OF_DATE if the table does not exist.

    `lease` is in seconds.
    """

    def __init__(self, database: Database, *, lease: float = LEASE_S) -> None:
        self.lease = lease
        self._max_lease = timedelta(seconds=max(lease, LEASE_S))
        self._database = database
        self._queries = queries("vsyncd.postgres", database.schema)

    async def find(self, name: str) -> JobRun:
        """Returns the last run of a job, or a run without times if the job never ran."""
        row = await self._database.read(lambda session: session.single(self._queries["find_job_run"], {"name": name}))
        now, holder, lease_until, started, finished, succeeded, error = row
        return JobRun(
            now=now,
            holder=holder,
            lease_until=lease_until,
            last_started=started,
            last_finished=finished,
            last_succeeded=succeeded,
            last_error=error,
            lease=self._max_lease,
        )

    async def claim(self, name: str, seen: JobRun) -> JobLease | None:
        """Claims a run. Returns None if another instance has begun one since `seen` was read."""
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        parameters = {
            "name": name,
            "holder": holder,
            "lease": timedelta(seconds=self.lease),
            "most": 2 * self._max_lease,
            "last_started": seen.last_started,
        }
        query = self._queries["claim_job_run"]
        # Repeatable, because it finds its own claim by the holder if the answer of the first commit was lost.
        row = await self._database.transaction(lambda session: session.one(query, parameters), repeatable=True)
        return None if row is None else JobLease(name, holder, row[0])

    async def renew(self, claim: JobLease) -> bool:
        """Renews the lease. Returns False if another instance has claimed the job."""
        return await self._change("renew_job_run", claim, {"lease": timedelta(seconds=self.lease)})

    async def release(self, claim: JobLease) -> bool:
        """Releases the lease without a result, so that another instance can claim the job at once."""
        return await self._change("release_job_run", claim, {})

    async def finish(self, claim: JobLease, *, error: str | None) -> bool:
        """Records the result. `error` must not contain personal values; None: success."""
        return await self._change("finish_job_run", claim, {"error": error and error[:_MAX_ERROR_CHARACTERS]})

    async def _change(self, query: str, claim: JobLease, parameters: dict[str, object]) -> bool:
        given = {"name": claim.name, "holder": claim.holder, **parameters}
        return bool(
            await self._database.transaction(lambda session: session.run(self._queries[query], given), repeatable=True)
        )
