"""`vsync audit`"""

import datetime as dt

import click

from vsync.cli.messages import short_time
from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.pages import limit_option, print_page, read_pages
from vsync.cli.record_options import canonical_key, time_options, timestamp
from vsync.cli.tables import Cell
from vsync.v1 import audit_pb2 as pb

_COLUMNS = ("created (UTC)", "action", "actor", "ispb", "correlation id")


@click.command("audit")
@click.option("--key", metavar="KEY", help="Entries about this Pix key. Punctuation and case are ignored.")
@click.option("--cid", metavar="HEX", help="Entries about this content identifier.")
@click.option("--correlation-id", metavar="ID", help="Entries of the call with this correlation id.")
@click.option("--ispb", default="", metavar="ISPB", help="Only entries about this participant.")
@time_options
@limit_option
@server_options
@json_option
def command(
    *,
    server: ServerOptions,
    key: str | None,
    cid: str | None,
    correlation_id: str | None,
    ispb: str,
    created_after: dt.datetime | None,
    created_before: dt.datetime | None,
    limit: int,
    as_json: bool,
) -> int:
    """Show audit entries, newest first.

    They are those of a key, of a CID or of a correlation id. --json also prints their payloads and
    who recorded them.
    """
    if [key, cid, correlation_id].count(None) != 2:
        raise click.UsageError("Give either --key, or --cid, or --correlation-id.")
    request = pb.ListAuditLogsRequest(
        ispb=ispb, created_after=timestamp(created_after), created_before=timestamp(created_before)
    )
    if key is not None:
        request.key_value = canonical_key(key)
    elif cid is not None:
        request.cid = cid
    else:
        request.correlation_id = correlation_id or ""
    with server.client() as client:
        page = read_pages(client.audit.ListAuditLogs, request, "logs", limit)
    print_page(page, "logs", _COLUMNS, _row, as_json=as_json)
    return DONE


def _row(log: pb.AuditLog) -> tuple[Cell, ...]:
    # The method without its service.
    action = log.action.rpartition("/")[2]
    return short_time(log.created_at), action, log.actor, log.ispb, log.correlation_id
