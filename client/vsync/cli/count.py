"""`vsync count`"""

import click

from vsync.cli.console import print_json, stdout
from vsync.cli.messages import fields_of
from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.tables import Cell, print_table
from vsync.records import KEY_TYPES, SYNC_STATUSES
from vsync.v1 import cid_pb2


@click.command("count")
@click.option("--ispb", default="", metavar="ISPB", help="Only records of this participant.")
@server_options
@json_option
def command(*, server: ServerOptions, ispb: str, as_json: bool) -> int:
    """Count the records by key type and sync status."""
    with server.client() as client:
        answer = client.cids.CountCids(cid_pb2.CountCidsRequest(ispb=ispb))
    if as_json:
        print_json(fields_of(answer))
        return DONE
    counts = {(each.key_type, each.sync_status): each.count for each in answer.counts}
    statuses = [SYNC_STATUSES.numbers[name] for name in SYNC_STATUSES.choices]
    rows: list[list[Cell]] = [
        [KEY_TYPES.name(kind), *(of_kind := [counts.get((kind, status), 0) for status in statuses]), sum(of_kind)]
        for kind in (KEY_TYPES.numbers[name] for name in KEY_TYPES.choices)
    ]
    totals = [sum(count for (_, each), count in counts.items() if each == status) for status in statuses]
    print_table(stdout(), ("type", *SYNC_STATUSES.choices, "total"), [*rows, ["total", *totals, answer.total]])
    return DONE
