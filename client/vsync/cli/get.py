"""`vsync get`"""

import click

from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.record_options import print_record, record_options
from vsync.v1 import cid_pb2


@click.command("get")
@record_options
@server_options
@json_option
def command(*, server: ServerOptions, by: cid_pb2.GetCidRequest, as_json: bool) -> int:
    """Show one record.

    It is identified by --cid, by --id, or by --key and --ispb.
    """
    with server.client() as client:
        print_record(client.cids.GetCid(by).record, as_json=as_json)
    return DONE
