"""A complete synchronisation day of a participant.

Keys are imported from a file and added to a batch. Four worker processes claim and report them. One is killed while it
holds a lease, and the others take over. The batch is completed. Then all answers of the server are compared with the
sent data. scripts/demo.py shows the day, and tests/end_to_end/test_main_job.py asserts its checks.
"""

import asyncio
import contextlib
import datetime as dt
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import vsync
from vsync.atomic_files import atomic_files
from vsync.record_files import RecordReader, RecordWriter, ValidLine, file_format
from vsync.records import INPUT_FIELDS, KEY_TYPES, SYNC_STATUSES
from vsync.sample import entries
from vsync.v1 import audit_pb2, cid_pb2, sync_batch_pb2

from scripts.demo_screen import Check
from scripts.sync_worker import verdict

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ("worker-1", "worker-2", "worker-3", "worker-4")
KILLED = WORKERS[-1]
_BRASILIA = dt.timezone(dt.timedelta(hours=-3))
_BLOCK = 1000


class WorkerEvent(NamedTuple):
    """An event of a worker."""

    worker: str
    event: str
    """claimed, reported, killed or done"""
    records: int
    stale: int = 0


@dataclass
class Sent:
    """The sent CIDs. `errors` maps each CID to the directory's error, which is empty for an accepted CID."""

    errors: dict[str, str] = field(default_factory=dict)
    key_types: Counter[str] = field(default_factory=Counter)

    def add(self, record: cid_pb2.CidRecord) -> None:
        """Add a record."""
        self.errors[record.cid] = verdict(record.cid)
        self.key_types[KEY_TYPES.name(record.key_type)] += 1

    @property
    def failed(self) -> int:
        """The number of CIDs that the directory rejects."""
        return sum(1 for error in self.errors.values() if error)


class SyncDay:
    """One day against one server, which must have no CIDs yet."""

    def __init__(self, client: vsync.Client, target: str, *, count: int, seed: int = 0, lease: int = 5) -> None:
        """`lease` is in seconds."""
        self._client = client
        self._target = target
        self._count = count
        self._seed = seed
        self._lease = lease
        self._began = dt.datetime.now(dt.UTC)
        self._abandoned: Mapping[str, str] = {}
        self._stored: set[bytes] = set()
        self.sent = Sent()
        self.checks: list[Check] = []

    def write_sample(self, path: Path) -> Iterator[int]:
        """Writes the day's keys to a file, as `vsync sample` does. Yields the number written so far."""
        with atomic_files([str(path)], gzipped=file_format(path.name).gzipped) as (stream,):
            writer = RecordWriter(stream, file_format(path.name), INPUT_FIELDS)
            for number, record in enumerate(entries(self._count, self._seed), 1):
                self.sent.add(record)
                writer.write([record])
                if number % _BLOCK == 0 or number == self._count:
                    yield number

    async def import_file(self, path: Path) -> AsyncIterator[vsync.ImportProgress]:
        """Imports the file through the Python client."""
        progress = vsync.ImportProgress()
        with RecordReader(str(path)) as reader:
            good = (entry.record for entry in reader if isinstance(entry, ValidLine))
            async for progress in self._client.import_records(good):
                yield progress
        self._check("records imported", self._count, progress.inserted)
        counts = await self._client.cids.CountCids(cid_pb2.CountCidsRequest())
        pending = {KEY_TYPES.name(count.key_type): count.count for count in counts.counts}
        self._check("PENDING, by key type", dict(self.sent.key_types), pending)

    async def open_batch(self) -> sync_batch_pb2.SyncBatch:
        """Creates today's batch over all participants, and starts it."""
        today = dt.datetime.now(_BRASILIA).date().isoformat()
        create = sync_batch_pb2.CreateSyncBatchRequest(batch_date=today)
        batch = (await self._client.batches.CreateSyncBatch(create)).batch
        while batch.status != sync_batch_pb2.SYNC_BATCH_STATUS_RUNNING:
            start = sync_batch_pb2.StartSyncBatchRequest(id=batch.id)
            batch = (await self._client.batches.StartSyncBatch(start, timeout=60)).batch
        self._check("records in the batch", self._count, batch.total_records)
        return batch

    async def work(self, batch_id: str, watch: Callable[[WorkerEvent], None]) -> None:
        """Runs the workers until they finish.

        The last is killed with SIGKILL while it holds a claim and the others work.
        """
        holding, working = asyncio.Event(), asyncio.Event()

        def follow(event: WorkerEvent) -> None:
            if event.worker == KILLED:
                holding.set()
            elif event.event in {"reported", "done"}:
                working.set()
            watch(event)

        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_worker(batch_id, KILLED, follow, working))
            await holding.wait()
            for name in WORKERS[:-1]:
                group.create_task(self._run_worker(batch_id, name, follow))

    async def _run_worker(
        self, batch_id: str, name: str, watch: Callable[[WorkerEvent], None], fate: asyncio.Event | None = None
    ) -> None:
        """If `fate` is given, the worker is killed once it holds a claim and `fate` is set."""
        doomed = fate is not None
        arguments = ["--target", self._target, "--batch", batch_id, "--name", name, "--lease", str(self._lease)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scripts.sync_worker", *arguments, *(["--hang"] if doomed else [])),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async for line in _output_of(process):
                said = json.loads(line)
                records = said["records"] if said["event"] == "claimed" else said["applied"]
                watch(WorkerEvent(name, said["event"], records, said.get("stale", 0)))
                if fate is not None:
                    self._abandoned = said
                    await fate.wait()
                    process.kill()
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        self._check(f"{name}, exit code", -9 if doomed else 0, code)
        watch(WorkerEvent(name, "killed" if doomed else "done", 0))

    async def close_batch(self, batch_id: str) -> sync_batch_pb2.SyncBatch:
        """Completes the batch, and compares its counts with what was sent."""
        self._check("late report of the killed worker", "STALE", await self._late_report())
        complete = sync_batch_pb2.CompleteSyncBatchRequest(id=batch_id)
        batch = (await self._client.batches.CompleteSyncBatch(complete)).batch
        self._check("batch", "COMPLETED", sync_batch_pb2.SyncBatchStatus.Name(batch.status).split("_")[-1])
        self._check("synced", self._count - self.sent.failed, batch.synced_records)
        self._check("failed", self.sent.failed, batch.failed_records)
        self._check("skipped, still leased", (0, 0), (batch.skipped_records, batch.leased_records))
        return batch

    async def _late_report(self) -> str:
        result = sync_batch_pb2.SyncResult(cid=self._abandoned["cid"], sync_status=cid_pb2.SYNC_STATUS_SYNCED)
        request = sync_batch_pb2.ReportSyncRecordsRequest(claim_token=self._abandoned["token"], results=[result])
        outcome = (await self._client.batches.ReportSyncRecords(request)).outcomes[0].outcome
        return sync_batch_pb2.ReportOutcome.Name(outcome).removeprefix("REPORT_OUTCOME_")

    async def compare_records(self) -> None:
        """Exports every record and compares its status and error with the directory's answer."""
        self._check("records that differ", 0, await self._differing())
        counts = (await self._client.cids.CountCids(cid_pb2.CountCidsRequest())).counts
        by_status: Counter[str] = Counter()
        for count in counts:
            by_status[SYNC_STATUSES.name(count.sync_status)] += count.count
        expected = {"SYNCED": self._count - self.sent.failed, "FAILED": self.sent.failed}
        self._check("CountCids", {name: number for name, number in expected.items() if number}, dict(by_status))

    async def _differing(self) -> int:
        missing = dict(self.sent.errors)
        wrong = 0
        async for record in self._exported():
            error = missing.pop(record.cid, None)
            status = cid_pb2.SYNC_STATUS_FAILED if error else cid_pb2.SYNC_STATUS_SYNCED
            wrong += int(error is None or record.sync_status != status or record.last_error != error)
            self._stored.add(record.SerializeToString(deterministic=True))
        return wrong + len(missing)

    async def compare_audit(self, batch: sync_batch_pb2.SyncBatch) -> None:
        """Adds up the audit entries and compares the sums with the file and the batch."""
        imports = [entry async for entry in self._trail("CidService/ImportCids")]
        self._check("audited: records imported", self._count, _total(imports, "inserted"))
        reports = [entry async for entry in self._trail("SyncBatchService/ReportSyncRecords")]
        self._check("audited: synced", batch.synced_records, _total(reports, "synced"))
        self._check("audited: failed", batch.failed_records, _total(reports, "failed"))
        claims = [entry async for entry in self._trail("SyncBatchService/ClaimSyncRecords")]
        lost = [claim for claim in claims if claim.id == self._abandoned["token"]]
        self._check("audited: claimed by the killed worker", self._abandoned["records"], _total(lost, "claimed"))
        history = audit_pb2.ListAuditLogsRequest(cid=self._abandoned["cid"])
        logs = (await self._client.audit.ListAuditLogs(history)).logs
        ours = [log.id for log in logs if log.id in {entry.id for entry in imports}]
        self._check("audited: imports of one of its CIDs", 1, len(ours))

    async def _trail(self, method: str) -> AsyncIterator[audit_pb2.AuditLog]:
        request = audit_pb2.ListAuditLogsRequest(action=f"vsync.v1.{method}", page_size=1000)
        request.created_after.FromDatetime(self._began - dt.timedelta(minutes=5))
        request.created_before.FromDatetime(self._began + dt.timedelta(days=1))
        while True:
            page = await self._client.audit.ListAuditLogs(request)
            for log in page.logs:
                yield log
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def import_again(self, path: Path) -> dict[str, object]:
        """Imports the same file again with `vsync import` and checks that nothing changes after `compare_records`."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from vsync.cli import main; raise SystemExit(main())"),
            *("import", str(path), "--on-conflict", "skip", "--target", self._target, "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        result: dict[str, object] = json.loads(output)
        counts = [int(str(result[name])) for name in ("inserted", "skipped", "replaced", "rejected")]
        self._check("imported again: new, skipped, other", (0, self._count, 0), (counts[0], counts[1], sum(counts[2:])))
        after = {record.SerializeToString(deterministic=True) async for record in self._exported()}
        self._check("changed by it", 0, len(self._stored ^ after))
        return result

    async def _exported(self) -> AsyncIterator[cid_pb2.CidRecord]:
        async for answer in self._client.export(cid_pb2.ExportCidsRequest()):
            for record in answer.records:
                yield record

    def _check(self, name: str, expected: object, found: object) -> None:
        self.checks.append(Check(name, expected, found))


def _output_of(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise AssertionError("the process was started with a pipe")
    return process.stdout


def _total(entries: list[audit_pb2.AuditLog], name: str) -> int:
    """Returns the sum of one number of the entries' payloads. JSON numbers are floats."""
    return sum(int(entry.payload.fields[name].number_value) for entry in entries)
