"""`vsync export`"""

from typing import IO

import click
from google.protobuf.timestamp_pb2 import Timestamp

from vsync.atomic_files import STANDARD, whole_file
from vsync.cid_codec import CID_BYTES
from vsync.cli.console import Stopwatch, print_json, progress_bar, stderr, stdout, waiting_for_the_server
from vsync.cli.options import DONE, Server, machine_option, patience_option, server_options
from vsync.cli.times import instant
from vsync.client import SyncClient
from vsync.errors import CallError, FileError
from vsync.files import FileForm, RecordWriter, form_of
from vsync.records import KEY_TYPES, SYNC_STATUSES
from vsync.v1 import cid_pb2

# The count only scales the progress bar, and must not delay the export for long.
_COUNT_TIMEOUT_S = 2.0


def _instant(ctx: click.Context, param: click.Parameter, text: str | None) -> Timestamp | None:
    time = instant(ctx, param, text)
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


@click.command("export", short_help="Writes records, or only their CIDs, to a file.")
@click.argument("file")
@click.option("--cids", "cids_only", is_flag=True, help="Write the directory's own file: one CID a line, nothing else.")
@click.option("--ispb", default="", metavar="ISPB", help="Only this participant's.")
@click.option("--key-type", type=click.Choice(KEY_TYPES.choices, case_sensitive=False), help="Only keys of this type.")
@click.option("--status", type=click.Choice(SYNC_STATUSES.choices, case_sensitive=False), help="Only with this status.")
@click.option("--tax-id", default="", metavar="TAX_ID", help="Only this owner's.")
@click.option("--created-after", callback=_instant, metavar="TIME", help="Only created then or later. ISO 8601, UTC.")
@click.option("--created-before", callback=_instant, metavar="TIME", help="Only created before then.")
@patience_option
@server_options
@machine_option
def export_command(
    *,
    server: Server,
    file: str,
    cids_only: bool,
    ispb: str,
    key_type: str | None,
    status: str | None,
    tax_id: str,
    created_after: Timestamp | None,
    created_before: Timestamp | None,
    patience: float,
    as_json: bool,
) -> int:
    """Exports records to FILE: .ndjson, .jsonl or .csv, with .gz behind it to compress, or - for stdout.

    FILE appears when it is whole, readable by its owner only. With --cids it may have any name.
    """
    if file == STANDARD and as_json:
        raise click.UsageError("--json would mix with the records on stdout.")
    form = _form(file, cids_only=cids_only)
    request = cid_pb2.ExportCidsRequest(
        filter=cid_pb2.CidFilter(
            ispb=ispb,
            key_type=KEY_TYPES.numbers[key_type] if key_type else cid_pb2.KEY_TYPE_UNSPECIFIED,
            sync_status=SYNC_STATUSES.numbers[status] if status else cid_pb2.SYNC_STATUS_UNSPECIFIED,
            tax_id=tax_id,
            created_after=created_after,
            created_before=created_before,
        ),
        cids_only=cids_only,
    )
    with server.client() as client, whole_file(file, gzipped=form.gzipped) as stream:
        run = _ExportRun(client, request, patience=patience)
        run.write(stream, form, hidden=as_json or file == STANDARD)
    run.summarise(file, as_json=as_json)
    return DONE


def _form(file: str, *, cids_only: bool) -> FileForm:
    if cids_only:
        return FileForm(csv=False, gzipped=file.endswith(".gz"))
    try:
        return form_of(file)
    except FileError as error:
        raise click.BadParameter(f"{error}.", param_hint="FILE") from error


class _ExportRun:
    """One run of the command."""

    def __init__(self, client: SyncClient, request: cid_pb2.ExportCidsRequest, *, patience: float) -> None:
        self._client = client
        self._request = request
        self._patience = patience
        self._watch = Stopwatch()
        self._records = 0
        self._snapshots: list[str] = []

    def write(self, stream: IO[bytes], form: FileForm, *, hidden: bool) -> None:
        """Writes every message. Raises CallError, OSError."""
        records = None if self._request.cids_only else RecordWriter(stream, form)
        with progress_bar(hidden=hidden) as bar:
            task = bar.add_task("exporting", total=None, records=0)
            waiting = waiting_for_the_server(bar, task)
            for number, answer in enumerate(
                self._client.export(self._request, patience=self._patience, on_wait=waiting)
            ):
                if not number and not hidden:
                    # Only now: while the server is unreachable, this call would add to the time that patience limits.
                    bar.update(task, total=self._expected())
                if records is None:
                    self._write_cids(stream, answer.cids)
                else:
                    records.write(answer.records)
                    self._records += len(answer.records)
                snapshot = answer.snapshot_time.ToJsonString()
                if snapshot not in self._snapshots[-1:]:
                    self._snapshots.append(snapshot)
                bar.update(task, description="exporting", completed=self._records, records=self._records)

    def summarise(self, file: str, *, as_json: bool) -> None:
        """Says what was written. More than one snapshot means that the stream was lost and went on."""
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
        what = "CIDs" if self._request.cids_only else "records"
        console.print("[green]✓[/] ", end="")
        console.out(f"{self._records:,} {what} to {file} {self._watch.sentence(self._records)}")
        if len(self._snapshots) > 1:
            console.out(f"  went on after a lost connection: read in {len(self._snapshots)} snapshots")

    def _write_cids(self, stream: IO[bytes], packed: bytes) -> None:
        if packed:
            stream.write(packed.hex("\n", CID_BYTES).encode() + b"\n")
            self._records += len(packed) // CID_BYTES

    def _expected(self) -> int | None:
        """How many records will come, for the bar; None when the counts cannot say."""
        wanted = self._request.filter
        if wanted.tax_id or wanted.HasField("created_after") or wanted.HasField("created_before"):
            return None
        try:
            counts = self._client.cids.CountCids(
                cid_pb2.CountCidsRequest(ispb=wanted.ispb), timeout=_COUNT_TIMEOUT_S
            ).counts
        except CallError:
            # The export itself will say what is wrong, or get through.
            return None
        return sum(
            count.count
            for count in counts
            if wanted.key_type in {0, count.key_type} and wanted.sync_status in {0, count.sync_status}
        )
