"""`vsync batches list | show | create | start | watch | fail | retry | complete`"""

import datetime as dt
import time
import uuid
from collections.abc import Callable
from typing import Any

import click

from vsync.cli.console import print_json, progress_bar, stdout
from vsync.cli.messages import fields_of, short_name
from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.pages import limit_option, print_page, read_pages
from vsync.cli.record_options import dry_run_option
from vsync.cli.standard_streams import FAILED
from vsync.cli.tables import Cell, print_fields
from vsync.client import SyncClient
from vsync.records import EnumNames
from vsync.v1 import sync_batch_pb2 as pb

STATUSES = EnumNames(pb.SyncBatchStatus.DESCRIPTOR, "SYNC_BATCH_STATUS_")
_COLUMNS = ("date", "ispb", "status", "done", "total", "synced", "failed", "skipped", "leased")
_ENDED = (pb.SYNC_BATCH_STATUS_COMPLETED, pb.SYNC_BATCH_STATUS_FAILED)


@click.group("batches")
def command() -> None:
    """Show and control the daily sync batches.

    BATCH is a batch's id, or its date (YYYY-MM-DD, or today) together with --ispb, unless it is of all participants.
    """


def _parse_date(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str:
    if text in {None, ""}:
        return ""
    try:
        # The participant's date: that of this machine.
        return (dt.datetime.now().astimezone().date() if text == "today" else dt.date.fromisoformat(text)).isoformat()
    except ValueError:
        raise click.BadParameter("must be a date such as 2026-11-20, or today") from None


def _parse_batch(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        try:
            return _parse_date(_ctx, _param, text)
        except click.BadParameter:
            raise click.BadParameter("must be a UUID, a date such as 2026-11-20, or today") from None


_batch_argument = click.argument("batch", callback=_parse_batch)
_ispb_option = click.option("--ispb", default="", metavar="ISPB", help="The participant. Default: all participants.")


@command.command("list")
@click.option("--status", type=click.Choice(STATUSES.choices, case_sensitive=False), help="Only this status.")
@click.option("--ispb", default="", metavar="ISPB", help="Only batches of this participant.")
@click.option("--date-after", callback=_parse_date, metavar="DATE", help="Only batches from DATE on.")
@click.option("--date-before", callback=_parse_date, metavar="DATE", help="Only batches before DATE.")
@limit_option
@server_options
@json_option
def list_(
    *,
    server: ServerOptions,
    status: str | None,
    ispb: str,
    date_after: str,
    date_before: str,
    limit: int,
    as_json: bool,
) -> int:
    """List batches, newest day first."""
    request = pb.ListSyncBatchesRequest(
        status=STATUSES.numbers[status] if status else pb.SYNC_BATCH_STATUS_UNSPECIFIED,
        ispb=ispb,
        date_after=date_after,
        date_before=date_before,
    )
    with server.client() as client:
        page = read_pages(client.batches.ListSyncBatches, request, "batches", limit)
    print_page(page, "batches", _COLUMNS, _row, as_json=as_json)
    return DONE


@command.command()
@_batch_argument
@_ispb_option
@server_options
@json_option
def show(*, server: ServerOptions, batch: str, ispb: str, as_json: bool) -> int:
    """Show a batch."""
    with server.client() as client:
        _print_batch(_find(client, batch, ispb), as_json=as_json)
    return DONE


@command.command()
@click.option("--date", default="today", show_default=True, callback=_parse_date, metavar="DATE", help="The day.")
@_ispb_option
@dry_run_option
@server_options
@json_option
def create(*, server: ServerOptions, date: str, ispb: str, dry_run: bool, as_json: bool) -> int:
    """Create the batch of a day."""
    request = pb.CreateSyncBatchRequest(ispb=ispb, batch_date=date, validate_only=dry_run)
    with server.client() as client:
        _print_batch(client.batches.CreateSyncBatch(request).batch, as_json=as_json)
    return DONE


@command.command()
@_batch_argument
@_ispb_option
@dry_run_option
@server_options
@json_option
def start(*, server: ServerOptions, batch: str, ispb: str, dry_run: bool, as_json: bool) -> int:
    """Start a batch: collect the CIDs that are PENDING."""
    with server.client() as client, progress_bar(hidden=as_json) as bar:
        request = pb.StartSyncBatchRequest(id=_find(client, batch, ispb).id, validate_only=dry_run)
        task = bar.add_task("collecting", total=None, records=0)
        while (started := client.batches.StartSyncBatch(request).batch).status == pb.SYNC_BATCH_STATUS_STARTING:
            bar.update(task, records=started.total_records)
            if dry_run:
                break
    _print_batch(started, as_json=as_json)
    return DONE


@command.command()
@_batch_argument
@_ispb_option
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two readings.",
)
@server_options
@json_option
def watch(*, server: ServerOptions, batch: str, ispb: str, interval: float, as_json: bool) -> int:
    """Show the progress of a batch until it ends.

    The exit code is 0 if it is COMPLETED, and 1 if it FAILED. --json prints one object at each change.
    """
    with server.client() as client, progress_bar(hidden=as_json) as bar:
        task = bar.add_task("waiting", total=None, records=0)
        last = pb.SyncBatch()
        while (found := _find(client, batch, ispb)).status not in _ENDED:
            batch, done = found.id, _done(found)
            if as_json and found != last:
                print_json(fields_of(found))
            last = found
            status = STATUSES.name(found.status).lower()
            bar.update(task, description=status, total=found.total_records or None, completed=done, records=done)
            time.sleep(interval)
    _print_batch(found, as_json=as_json)
    return DONE if found.status == pb.SYNC_BATCH_STATUS_COMPLETED else FAILED


@command.command()
@_batch_argument
@_ispb_option
@click.option("--reason", required=True, metavar="TEXT", help="Why the batch failed.")
@dry_run_option
@server_options
@json_option
def fail(*, server: ServerOptions, batch: str, ispb: str, reason: str, dry_run: bool, as_json: bool) -> int:
    """Mark a batch as failed."""
    return _change(
        server,
        batch,
        ispb,
        lambda client, id_: client.batches.FailSyncBatch(
            pb.FailSyncBatchRequest(id=id_, error_message=reason, validate_only=dry_run)
        ),
        as_json=as_json,
    )


@command.command()
@_batch_argument
@_ispb_option
@dry_run_option
@server_options
@json_option
def retry(*, server: ServerOptions, batch: str, ispb: str, dry_run: bool, as_json: bool) -> int:
    """Resume a failed batch."""
    return _change(
        server,
        batch,
        ispb,
        lambda client, id_: client.batches.RetrySyncBatch(pb.RetrySyncBatchRequest(id=id_, validate_only=dry_run)),
        as_json=as_json,
    )


@command.command()
@_batch_argument
@_ispb_option
@dry_run_option
@server_options
@json_option
def complete(*, server: ServerOptions, batch: str, ispb: str, dry_run: bool, as_json: bool) -> int:
    """Complete a batch whose records are all reported or skipped."""
    return _change(
        server,
        batch,
        ispb,
        lambda client, id_: client.batches.CompleteSyncBatch(
            pb.CompleteSyncBatchRequest(id=id_, validate_only=dry_run)
        ),
        as_json=as_json,
    )


def _change(
    server: ServerOptions, batch: str, ispb: str, call: Callable[[SyncClient, str], Any], *, as_json: bool
) -> int:
    with server.client() as client:
        _print_batch(call(client, _find(client, batch, ispb).id).batch, as_json=as_json)
    return DONE


def _find(client: SyncClient, batch: str, ispb: str) -> pb.SyncBatch:
    """Returns a batch by its id, or by its date. Raises CallError."""
    if len(batch) == len("YYYY-MM-DD"):
        request = pb.GetSyncBatchRequest(key=pb.SyncBatchKey(ispb=ispb, batch_date=batch))
    else:
        request = pb.GetSyncBatchRequest(id=batch)
    return client.batches.GetSyncBatch(request).batch


def _done(batch: pb.SyncBatch) -> int:
    return batch.synced_records + batch.failed_records + batch.skipped_records


def _percentage(batch: pb.SyncBatch) -> str:
    return f"{_done(batch) * 100 // batch.total_records} %" if batch.total_records else ""


def _row(batch: pb.SyncBatch) -> tuple[Cell, ...]:
    return (
        batch.batch_date,
        batch.ispb or "all",
        STATUSES.name(batch.status),
        _percentage(batch),
        batch.total_records,
        batch.synced_records,
        batch.failed_records,
        batch.skipped_records,
        batch.leased_records,
    )


def _print_batch(batch: pb.SyncBatch, *, as_json: bool) -> None:
    if as_json:
        print_json(fields_of(batch))
        return
    fields: dict[str, Cell] = fields_of(batch)
    fields["status"] = short_name(pb.SyncBatchStatus.DESCRIPTOR, batch.status)
    print_fields(stdout(), fields.items())
