"""`vsync list`"""

import click

from vsync.cli.messages import short_time
from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.pages import limit_option, print_page, read_pages
from vsync.cli.record_options import filter_options
from vsync.cli.tables import Cell
from vsync.records import KEY_TYPES, SYNC_STATUSES
from vsync.v1 import cid_pb2

_COLUMNS = ("type", "key", "ispb", "status", "revision", "updated (UTC)")


@click.command("list")
@filter_options
@limit_option
@server_options
@json_option
def command(*, server: ServerOptions, wanted: cid_pb2.CidFilter, limit: int, as_json: bool) -> int:
    """List records.

    --json prints all fields. Use `vsync export` for many records.
    """
    with server.client() as client:
        page = read_pages(client.cids.ListCids, cid_pb2.ListCidsRequest(filter=wanted), "records", limit)
    print_page(page, "records", _COLUMNS, _row, as_json=as_json)
    return DONE


def _row(record: cid_pb2.CidRecord) -> tuple[Cell, ...]:
    return (
        KEY_TYPES.name(record.key_type),
        record.key_value,
        record.ispb,
        SYNC_STATUSES.name(record.sync_status),
        record.revision,
        short_time(record.updated_at),
    )
