"""The answer of GetStatus for a terminal."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vsync.health.v1 import health_pb2
from vsync.v1 import reconciliation_pb2, sync_batch_pb2
from vsync.v1 import status_pb2 as pb
from vsync.v1.cid_pb2 import KeyType

_STATES = {health_pb2.HEALTHY: "green", health_pb2.DEGRADED: "yellow", health_pb2.UNHEALTHY: "red"}
_BATCH_STYLES = {"FAILED": "red", "RUNNING": "green", "STARTING": "yellow"}
_CRITICAL = pb.FINDING_SEVERITY_CRITICAL
_BAR_CELLS = 12
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_NOK = reconciliation_pb2.DIRECTORY_RESULT_NOK

Cell = str | Text


def status_view(status: pb.ServerStatus, target: str, *, max_rows: int | None) -> RenderableType:
    """Returns what `vsync top` shows. `max_rows` limits the rows of each table; None: all."""
    view = _View(status, max_rows)
    return Group(*view.head(target), *view.work(), *view.service(), *view.upkeep())


class _View:
    def __init__(self, status: pb.ServerStatus, max_rows: int | None) -> None:
        self._status = status
        self._max_rows = max_rows
        self._now = status.collected_at.ToDatetime(dt.UTC)

    def head(self, target: str) -> Iterator[RenderableType]:
        """The overall state, the key figures, and what an operator should look at."""
        status, state = self._status, self._status.health.status
        name = health_pb2.ServiceStatus.Name(state).lower()
        yield Text.assemble(("● ", _STATES[state]), (name, "bold"), f"  {target}  ", (status.health.message, "dim"))
        complete = status.calls.minutes[-2:-1] or status.calls.minutes[-1:]
        figures = [
            f"version {status.version}",
            f"up {self._age(status.start_time)}",
            f"instances {len(status.instances) or '?'}",
            *(f"{each.calls * 60 / max(each.seconds, 1):,.0f} calls/min" for each in complete),
            *(f"P99 {_ms(each.p99_ms)}" for each in complete if each.HasField("p99_ms")),
            f"{sum(each.server_errors for each in status.calls.minutes):,} server errors in 15 min",
        ]
        yield Text("  ".join(figures), style="dim")
        for finding in status.findings:
            mark = ("✗ ", "red") if finding.severity == _CRITICAL else ("! ", "yellow")
            yield Text.assemble(mark, finding.message)

    def work(self) -> Iterator[RenderableType]:
        """Batches, imports and VSyncs."""
        status = self._status
        titles: Sequence[str]
        if status.batches:
            titles = ("participant", "day", "status", "progress", ">done", ">rate", ">ready", ">leased", "failed")
            batches = sorted(status.batches, key=lambda batch: (_batch_order(batch), batch.ispb))
            yield from self._table("Batches", titles, map(self._batch, batches))
        if status.imports:
            titles = ("import", ">inserted", ">skipped", ">replaced", ">rejected", ">rate", ">last chunk")
            yield from self._table("Imports", titles, map(self._import, status.imports))
        if status.vsyncs:
            titles = ("participant", "key type", ">cids", "directory", ">since")
            vsyncs = sorted(status.vsyncs, key=lambda vsync: vsync.verdict != _NOK)
            yield from self._table("VSyncs", titles, map(self._vsync, vsyncs))

    def service(self) -> Iterator[RenderableType]:
        """Dependencies, calls and failures."""
        status = self._status
        titles: Sequence[str] = ("dependency", "status", "breaker", ">latency", ">pool", ">lag", "")
        yield from self._table("Dependencies", titles, map(_dependency, status.health.dependencies))
        if status.calls.methods:
            titles = ("method", ">calls", ">errors", ">server errors", ">in flight", ">P50", ">P99")
            methods = sorted(status.calls.methods, key=lambda method: (-method.calls, method.method))
            yield from self._table("Calls in 15 minutes", titles, map(_method, methods))
        if status.failures:
            titles = (">when", "method", "code", "reason", "correlation id")
            yield from self._table("Failures", titles, map(self._failure, status.failures))

    def upkeep(self) -> Iterator[RenderableType]:
        """Jobs, backups, partitions, migrations and instances."""
        status = self._status
        jobs = sorted(status.jobs, key=lambda job: not job.last_error)
        yield from self._table("Jobs", ("job", ">last run", ">last success", "error"), map(self._job, jobs))
        if status.HasField("backups"):
            backups = status.backups
            row = [self._ago(backups.last_at), self._ago(backups.last_verified_at), self._ago(backups.due_at)]
            yield from self._table("Backups", ("newest", "verified", "next"), [row])
        tables = ([each.table, self._ago(each.complete_until)] for each in status.partitioned_tables)
        yield from self._table("Partitions", ("table", ">until"), tables)
        sets = ([each.set, str(each.version), str(each.required_version or "-")] for each in status.migration_sets)
        yield from self._table("Migrations", ("set", ">version", ">needed"), sets)
        instances = ([each.address or "socket", self._ago(each.connected_at)] for each in status.instances)
        yield from self._table("Instances", ("address", ">connected"), instances)

    def _table(self, name: str, titles: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[RenderableType]:
        """Yields a table with its heading, unless it has no rows. A title after ">" is right-aligned."""
        given = list(rows)
        if not given:
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for title in titles:
            right = title.startswith(">")
            table.add_column(title.removeprefix(">"), justify="right" if right else "left", overflow="fold")
        kept = given[: self._max_rows]
        for row in kept:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        hidden = f"  {len(given) - len(kept):,} more" if len(kept) < len(given) else ""
        yield Text.assemble("\n", (name, "bold"), (hidden, "dim"))
        yield table

    def _batch(self, batch: pb.BatchStatus) -> Sequence[Cell]:
        done = batch.synced_records + batch.failed_records + batch.skipped_records
        share = done / batch.total_records if batch.total_records else 0.0
        state = _batch_state(batch)
        reasons = ", ".join(f"{each.reason} {each.records:,}" for each in batch.failure_reasons)
        ready = batch.completed_at if batch.HasField("completed_at") else batch.estimated_completion
        return (
            batch.ispb or "all",
            batch.batch_date,
            Text(state, style=_BATCH_STYLES.get(state, "")),
            "█" * int(share * _BAR_CELLS) + "░" * (_BAR_CELLS - int(share * _BAR_CELLS)),
            f"{done:,} of {batch.total_records:,}",
            f"{batch.records_per_second:,.1f}/s" if batch.HasField("records_per_second") else "",
            self._ago(ready, missing=""),
            f"{batch.leased_records:,}" if batch.leased_records else "",
            f"{batch.failed_records:,}  {reasons}" if batch.failed_records else "",
        )

    def _import(self, each: pb.ImportStatus) -> Sequence[Cell]:
        counts = (each.inserted_records, each.skipped_records, each.replaced_records, each.rejected_records)
        rate = f"{each.records_per_second:,.0f}/s"
        return each.import_id, *(f"{count:,}" for count in counts), rate, self._ago(each.updated_at)

    def _vsync(self, vsync: pb.VsyncStatus) -> Sequence[Cell]:
        verdict = {_NOK: Text("✗ rejected", style="red"), reconciliation_pb2.DIRECTORY_RESULT_OK: Text("✓ ok", "green")}
        return (
            vsync.ispb,
            KeyType.Name(vsync.key_type).removeprefix("KEY_TYPE_"),
            f"{vsync.count:,}",
            verdict.get(vsync.verdict, Text("not verified", style="dim")),
            self._ago(vsync.verdict_since, missing=""),
        )

    def _failure(self, call: pb.FailedCall) -> Sequence[Cell]:
        return self._ago(call.time), _short(call.method), call.code, call.reason, call.correlation_id

    def _job(self, job: pb.JobStatus) -> Sequence[Cell]:
        last = "running" if job.running else self._ago(job.last_started)
        return job.name, last, self._ago(job.last_succeeded), Text(job.last_error, style="red")

    def _age(self, time: Timestamp) -> str:
        return _duration(abs((self._now - time.ToDatetime(dt.UTC)).total_seconds()))

    def _ago(self, time: Timestamp, *, missing: str = "never") -> str:
        if not time.seconds:
            return missing
        age = self._age(time)
        return f"in {age}" if time.ToDatetime(dt.UTC) > self._now else f"{age} ago"


def _dependency(dependency: health_pb2.DependencyHealth) -> Sequence[Cell]:
    config, metadata = dependency.config, dependency.config.metadata
    pool = config.pool_info
    used = f"{pool.active_connections} of {pool.max_connections}" if config.HasField("pool_info") else ""
    lag = metadata.get("replication_lag_ms", "")
    return (
        dependency.name,
        Text(health_pb2.ServiceStatus.Name(dependency.status).lower(), style=_STATES[dependency.status]),
        metadata.get("circuit_breaker", ""),
        f"{dependency.response_time_ms:,} ms",
        used,
        f"{lag} ms" if lag else "",
        "" if dependency.status == health_pb2.HEALTHY else dependency.message,
    )


def _method(method: pb.MethodStatus) -> Sequence[Cell]:
    percentiles = [_ms(method.p50_ms), _ms(method.p99_ms)] if method.HasField("p99_ms") else ["", ""]
    server_errors = Text(f"{method.server_errors:,}", style="red" if method.server_errors else "")
    counts = f"{method.calls:,}", f"{method.errors:,}", server_errors, f"{method.in_flight:,}"
    return _short(method.method), *counts, *percentiles


def _batch_state(batch: pb.BatchStatus) -> str:
    return sync_batch_pb2.SyncBatchStatus.Name(batch.status).removeprefix("SYNC_BATCH_STATUS_")


def _batch_order(batch: pb.BatchStatus) -> int:
    order = ("FAILED", "RUNNING", "STARTING", "PENDING", "COMPLETED")
    state = _batch_state(batch)
    return order.index(state) if state in order else len(order)


def _short(method: str) -> str:
    """Returns the name without the package."""
    return method.rpartition(".")[2]


def _ms(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:,.1f} s"
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _duration(seconds: float) -> str:
    """Returns a duration with one or two units."""
    for index, (unit, size) in enumerate(_UNITS):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            following = _UNITS[index + 1 : index + 2]
            parts = [f"{whole:.0f} {unit}", *(f"{rest // step:.0f} {name}" for name, step in following if rest >= step)]
            return " ".join(parts[: 2 if whole < 10 else 1])
    return "0 s"
