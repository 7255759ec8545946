"""`vsync export`"""

from contextlib import ExitStack
from typing import IO

import click

from vsync.atomic_files import STANDARD, atomic_files
from vsync.cid_codec import CID_BYTES
from vsync.cli.console import Stopwatch, print_json, print_mark, progress_bar, show_reconnect, stderr, stdout
from vsync.cli.options import (
    DONE,
    FILE,
    ServerOptions,
    format_option,
    json_option,
    parse_format,
    reconnect_option,
    server_options,
)
from vsync.cli.record_options import filter_options
from vsync.client import SyncClient
from vsync.errors import CallError
from vsync.record_files import FileFormat
from vsync.record_formats import record_writer
from vsync.v1 import cid_pb2

# The count only scales the progress bar, so it must not delay the export for long.
_COUNT_TIMEOUT_S = 2.0


@click.command("export")
@click.argument("file", type=FILE)
@click.option("--cids", "cids_only", is_flag=True, help="The same as --format cids.")
@format_option("csv", "ndjson", "parquet", "cids", default="that of its name. cids: one CID per line.")
@filter_options
@reconnect_option
@server_options
@json_option
def command(
    *,
    server: ServerOptions,
    file: str,
    cids_only: bool,
    kind: str | None,
    wanted: cid_pb2.CidFilter,
    reconnect_timeout: float,
    as_json: bool,
) -> int:
    """Export records, or only their CIDs, to a file.

    FILE is .ndjson, .jsonl or .csv, followed by .gz for compression, or .parquet (extra: arrow); - is NDJSON to
    standard output. With --format it may have any name. FILE appears when it is complete, and only its owner can read
    it.
    """
    if file == STANDARD and as_json:
        raise click.UsageError("--json needs a FILE, because the records go to standard output.")
    if cids_only and kind not in {None, "cids"}:
        raise click.UsageError("--cids and --format contradict each other.")
    form = parse_format(file, option="FILE", kind="cids" if cids_only else kind)
    request = cid_pb2.ExportCidsRequest(filter=wanted, cids_only=form.kind == "cids")
    with server.client() as client, atomic_files([file], gzipped=form.gzipped) as (stream,):
        export = _Export(client, request, reconnect_timeout=reconnect_timeout)
        export.write(stream, form, hidden=as_json or file == STANDARD)
    export.summarise(file, as_json=as_json)
    return DONE


class _Export:
    def __init__(self, client: SyncClient, request: cid_pb2.ExportCidsRequest, *, reconnect_timeout: float) -> None:
        self._client = client
        self._request = request
        self._reconnect_timeout = reconnect_timeout
        self._watch = Stopwatch()
        self._records = 0
        self._snapshots: list[str] = []

    def write(self, stream: IO[bytes], form: FileFormat, *, hidden: bool) -> None:
        """Writes every message. Raises CallError, OSError."""
        with ExitStack() as writers, progress_bar(hidden=hidden) as bar:
            cids_only = self._request.cids_only
            writer = None if cids_only else writers.enter_context(record_writer(stream, form))
            task = bar.add_task("exporting", total=None, records=0)
            messages = self._client.export(
                self._request, reconnect_timeout=self._reconnect_timeout, on_reconnect=show_reconnect(bar, task)
            )
            for number, message in enumerate(messages):
                if not number and not hidden:
                    # After the first message: while the server is unreachable, this call would delay the timeout.
                    bar.update(task, total=self._expected_records())
                if writer is None:
                    self._write_cids(stream, message.cids)
                else:
                    writer.write(message.records)
                    self._records += len(message.records)
                snapshot = message.snapshot_time.ToJsonString()
                if snapshot not in self._snapshots[-1:]:
                    self._snapshots.append(snapshot)
                bar.update(task, description="exporting", completed=self._records, records=self._records)

    def summarise(self, file: str, *, as_json: bool) -> None:
        """Prints the result. The export has several snapshots if its stream was lost and resumed."""
        if as_json:
            print_json(
                {
                    "file": file,
                    "records": self._records,
                    "snapshots": self._snapshots,
                    "seconds": round(self._watch.seconds, 3),
                    "records_per_second": self._watch.rate(self._records),
                }
            )
            return
        console = stderr() if file == STANDARD else stdout()
        noun = "CIDs" if self._request.cids_only else "records"
        print_mark(console, good=True)
        console.out(f"{self._records:,} {noun} to {file} {self._watch.sentence(self._records)}")
        if len(self._snapshots) > 1:
            console.out(f"  resumed after a lost connection: read in {len(self._snapshots)} snapshots")

    def _write_cids(self, stream: IO[bytes], packed: bytes) -> None:
        if packed:
            stream.write(packed.hex("\n", CID_BYTES).encode() + b"\n")
            self._records += len(packed) // CID_BYTES

    def _expected_records(self) -> int | None:
        """Returns the expected number of records, or None if the server has no count for the filter."""
        wanted = self._request.filter
        if wanted.tax_id or wanted.HasField("created_after") or wanted.HasField("created_before"):
            return None
        request = cid_pb2.CountCidsRequest(ispb=wanted.ispb)
        try:
            counts = self._client.cids.CountCids(request, timeout=_COUNT_TIMEOUT_S).counts
        except CallError:
            # A persistent error ends the export, too.
            return None
        return sum(
            count.count
            for count in counts
            if wanted.key_type in {0, count.key_type} and wanted.sync_status in {0, count.sync_status}
        )
