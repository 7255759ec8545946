"""Shows a synchronisation day: 100,000 keys and four workers, one of which is killed. Exit code 0 if all checks pass.

make demo
make demo ARGS="--count 10000"
make demo ARGS="--target localhost:50051"

With --domain it shows another domain instead: it calls `demonstrate` of the module scripts.demos.NAME.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import vsync
from rich.progress import Progress, TaskID
from vsync.v1 import cid_pb2, server_pb2

from scripts.demo_screen import Check, Screen
from scripts.own_server import ServerDied, own_server
from scripts.sync_day import KILLED, WORKERS, SyncDay, WorkerEvent


class Workers:
    """One progress bar for each worker, and one for all."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._began = time.monotonic()
        self._together = progress.add_task("all", total=total, note="")
        self._bars: dict[str, TaskID] = {name: progress.add_task(name, total=total, note="") for name in WORKERS}
        self._reported = dict.fromkeys(WORKERS, 0)
        self._done = 0

    def watch(self, event: WorkerEvent) -> None:
        """Show an event."""
        bar = self._bars[event.worker]
        if event.event == "reported":
            self._done += event.records
            note = _rate(self._done, self._began)
            self._reported[event.worker] += event.records
            self._progress.update(bar, advance=event.records)
            self._progress.update(self._together, completed=self._done, note=note)
        elif event.event == "claimed" and event.worker == KILLED:
            self._progress.update(bar, note=f"holds {event.records:,} records")
        elif event.event == "killed":
            self._progress.update(bar, note="[red]kill -9 while it held a claim[/]")
        if event.event == "done":
            # Nobody knows before how many records a worker gets. The bar of one that ends is complete.
            self._progress.update(bar, total=self._reported[event.worker])
        if event.event in {"killed", "done"}:
            self._progress.stop_task(bar)


def _rate(records: int, began: float) -> str:
    return f"[cyan]{records / max(time.monotonic() - began, 1e-3):,.0f}/s[/]"


async def _import(screen: Screen, day: SyncDay, path: Path, count: int) -> None:
    screen.step(f"1  {count:,} sample keys in a file", f"vsync sample --count {count} --out {path.name}")
    with screen.bars() as progress:
        bar = progress.add_task("sampled", total=count, note="")
        for done in day.write_sample(path):
            progress.update(bar, completed=done)
    screen.step("2  Import the file", f"vsync import {path.name}")
    began = time.monotonic()
    with screen.bars() as progress:
        bar = progress.add_task("imported", total=count, note="")
        async for imported in day.import_file(path):
            progress.update(bar, completed=imported.records, note=_rate(imported.records, began))


async def _synchronise(screen: Screen, day: SyncDay) -> None:
    screen.step("3  Create today's batch", "CreateSyncBatch, StartSyncBatch")
    began = time.monotonic()
    batch = await day.open_batch()
    screen.say(f"{batch.total_records:,} records of {batch.batch_date} in {time.monotonic() - began:.1f} s")
    screen.step("4  Four workers claim and report", "ClaimSyncRecords, ReportSyncRecords")
    with screen.bars() as progress:
        workers: Callable[[WorkerEvent], None] = Workers(progress, batch.total_records).watch
        await day.work(batch.id, workers)
    screen.step("5  Complete the batch", "CompleteSyncBatch")
    batch = await day.close_batch(batch.id)
    screen.say(f"{batch.synced_records:,} synced, {batch.failed_records:,} failed")
    screen.step("6  Compare every record and the audit trail with the sent data", "ExportCids, ListAuditLogs")
    await day.compare_records()
    await day.compare_audit(batch)


async def _run(screen: Screen, target: str, count: int, seed: int, lease: int) -> list[Check]:
    async with vsync.connect(target) as client:
        info = (await client.server.GetServerInfo(server_pb2.GetServerInfoRequest())).info
        screen.say(f"vsyncd {info.version} on {target}")
        there = (await client.cids.CountCids(cid_pb2.CountCidsRequest())).total
        if there:
            screen.say(f"[red]It has {there:,} records. The demonstration needs an empty server.[/]")
            return [Check("records before", 0, there)]
        day = SyncDay(client, target, count=count, seed=seed, lease=lease)
        with tempfile.TemporaryDirectory(prefix="vsyncd-demo-") as folder:
            path = Path(folder) / "keys.ndjson"
            await _import(screen, day, path, count)
            await _synchronise(screen, day)
            screen.step("7  Import the same file again", f"vsync import {path.name} --on-conflict skip")
            result = await day.import_again(path)
            screen.say(f"{result['skipped']:,} skipped, {result['records_per_second']:,} records/s")
        return day.checks


@contextlib.asynccontextmanager
async def _server(screen: Screen, target: str | None, domain: str | None) -> AsyncIterator[str]:
    if target is not None:
        yield target
        return
    option = f" --domains {domain}" if domain else ""
    screen.step("Start vsyncd in a temporary folder", f"vsyncd serve --embedded{option}")
    async with own_server(**{"DOMAINS": domain} if domain else {}) as own:
        yield own


def _demonstration(_context: click.Context, _option: click.Parameter, domain: str | None) -> str | None:
    if domain is not None and find_spec(f"scripts.demos.{domain}") is None:
        raise click.BadParameter("the domain has no demonstration")
    return domain


@click.command()
@click.option("--domain", metavar="NAME", callback=_demonstration, help="Show this domain, e.g. payments.")
@click.option("--target", metavar="HOST:PORT", help="An empty server. By default the script starts one.")
@click.option("--count", type=click.IntRange(min=2000), default=100_000, show_default=True, help="Number of keys.")
@click.option("--seed", default=0, show_default=True, help="Seed of the generated keys.")
@click.option(
    "--lease", type=click.IntRange(1, 3600), default=5, show_default=True, help="Duration of a lease in seconds."
)
def main(*, domain: str | None, target: str | None, count: int, seed: int, lease: int) -> None:
    """Show a synchronisation day, or a domain."""
    screen = Screen()

    async def demonstrate() -> bool:
        async with _server(screen, target, domain) as address:
            began = time.monotonic()
            if domain is None:
                checks = await _run(screen, address, count, seed, lease)
            else:
                checks = await import_module(f"scripts.demos.{domain}").demonstrate(screen, address)
            return screen.verdict(checks, time.monotonic() - began)

    try:
        sys.exit(0 if asyncio.run(demonstrate()) else 1)
    except (vsync.VsyncError, ServerDied) as error:
        screen.console.print(f"[bold red]error:[/] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
