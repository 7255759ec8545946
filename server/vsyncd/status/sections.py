"""The sections of the status that belong to no domain."""

from datetime import UTC, datetime
from typing import Any, Final

from vsync.v1 import status_pb2 as pb

from vsyncd.core.timestamps import timestamp
from vsyncd.jobs.maintenance.partitions import PartitionWatch
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.observability.call_history import FAILURES, CallHistory, CallTotals
from vsyncd.observability.job_metrics import BACKUPS, JOBS
from vsyncd.postgres.queries import Session, queries

_MAX_ROWS: Final = 100


class CoreSections:
    """Reads the sections `instances`, `jobs` and `migrations` from the database."""

    def __init__(self, schema: str, versions: SchemaVersions) -> None:
        self._queries = queries("vsyncd.status", schema)
        self._versions = versions
        self.readers = {"instances": self._read_instances, "jobs": self._read_jobs, "migrations": self._read_migrations}

    async def _read_instances(self, session: Session, status: pb.ServerStatus) -> None:
        for address, since in await session.all(self._queries["instances"], {"limit": _MAX_ROWS}):
            status.instances.add(address=address, connected_at=timestamp(since))

    async def _read_jobs(self, session: Session, status: pb.ServerStatus) -> None:
        for name, running, started, succeeded, error in await session.all(self._queries["jobs"], {"limit": _MAX_ROWS}):
            status.jobs.add(
                name=name,
                exclusive=True,
                running=running,
                last_started=timestamp(started),
                last_succeeded=timestamp(succeeded),
                last_error=error,
            )

    async def _read_migrations(self, session: Session, status: pb.ServerStatus) -> None:
        current = await self._versions.current(session.connection)
        for name in sorted(current.keys() | self._versions.required.keys()):
            required = self._versions.required.get(name, 0)
            status.migration_sets.add(set=name, version=current.get(name, 0), required_version=required)


def add_process(status: pb.ServerStatus, history: CallHistory, partitions: PartitionWatch) -> None:
    """Adds what this process knows. Its jobs complete those that the database has."""
    _add_calls(status.calls, history)
    for call in FAILURES.newest_first():
        status.failures.add(
            time=_time(call.at),
            method=call.method,
            code=call.code,
            reason=call.reason,
            correlation_id=call.correlation_id,
            duration_ms=_ms(call.seconds),
        )
    _add_jobs(status)
    if (backups := BACKUPS.summary) is not None:
        status.backups.MergeFrom(
            pb.BackupStatus(
                last_at=timestamp(backups.last),
                last_verified_at=timestamp(backups.last_verified),
                due_at=timestamp(backups.due),
                last_bytes=backups.last_size,
                states={state: count for state, count in backups.states.items() if count},
            )
        )
    for table, reach in sorted(partitions.tables.items()):
        until = timestamp(reach.until)
        status.partitioned_tables.add(table=table, complete_until=until, expired_partitions=reach.expired)


def _add_calls(calls: pb.CallStatistics, history: CallHistory) -> None:
    calls.MergeFrom(pb.CallStatistics(since=_time(history.since)))
    for method in history.methods():
        calls.methods.add(
            method=method.name,
            streaming=method.is_stream,
            in_flight=method.in_flight,
            **_counts(method.totals),
            **_percentiles(method.totals),
        )
    for minute in history.minutes():
        calls.minutes.add(
            begin=_time(minute.begin), seconds=minute.seconds, **_counts(minute.totals), **_percentiles(minute.unary)
        )


def _counts(totals: CallTotals) -> dict[str, int]:
    return {"calls": totals.calls, "errors": totals.errors, "server_errors": totals.server_errors}


def _percentiles(totals: CallTotals) -> dict[str, float]:
    found = {"p50_ms": totals.quantile(0.5), "p99_ms": totals.quantile(0.99)}
    return {name: _ms(seconds) for name, seconds in found.items() if seconds is not None}


def _add_jobs(status: pb.ServerStatus) -> None:
    recorded = {job.name: job for job in status.jobs}
    for name, state in sorted(JOBS.states.items()):
        if (job := recorded.get(name)) is None:
            job = status.jobs.add(
                name=name,
                exclusive=state.exclusive,
                running=state.running,
                last_started=_time(state.last_started),
                last_succeeded=_time(state.last_succeeded),
                last_error=state.error,
            )
        job.interval_ms = round(state.interval * 1000)


def _time(unix_time: float | None) -> Any:  # noqa: ANN401  as `timestamp`
    return None if unix_time is None else timestamp(datetime.fromtimestamp(unix_time, UTC))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
