"""`vsync delete`"""

import click

from vsync.cli.console import print_json, print_mark, stdout
from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.record_options import dry_run_option, record_options, revision_option
from vsync.v1 import cid_pb2


@click.command("delete")
@record_options
@revision_option
@dry_run_option
@server_options
@json_option
def command(
    *, server: ServerOptions, by: cid_pb2.GetCidRequest, revision: int | None, dry_run: bool, as_json: bool
) -> int:
    """Delete one record.

    It is identified by --cid, by --id, or by --key and --ispb.
    """
    request = cid_pb2.DeleteCidRequest(revision=revision, validate_only=dry_run)
    request.MergeFromString(by.SerializeToString())  # both messages have the same oneof
    with server.client() as client:
        client.cids.DeleteCid(request)
    if as_json:
        print_json({"deleted": not dry_run})
    else:
        print_mark(stdout(), good=True)
        stdout().out("the record can be deleted" if dry_run else "deleted")
    return DONE
