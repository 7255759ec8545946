"""`vsync get`"""

import click
from rich.text import Text

from vsync.cli.console import print_json, stdout
from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.keys import normalize_key
from vsync.records import fields_of
from vsync.v1 import cid_pb2

_STATUS_STYLES = {"PENDING": "yellow", "SYNCED": "green", "FAILED": "red"}


@click.command("get")
@click.option("--cid", metavar="HEX", help="The record's content identifier.")
@click.option("--id", "record_id", metavar="UUID", help="The record's id.")
@click.option("--key", metavar="KEY", help="The Pix key, together with --ispb. Punctuation and case are ignored.")
@click.option("--ispb", metavar="ISPB", help="The participant that holds --key.")
@server_options
@json_option
def command(
    *, server: ServerOptions, cid: str | None, record_id: str | None, key: str | None, ispb: str | None, as_json: bool
) -> int:
    """Show one record.

    It is identified by --cid, by --id, or by --key and --ispb.
    """
    if sum(value is not None for value in (cid, record_id, key)) != 1 or (key is None) != (ispb is None):
        raise click.UsageError("Give either --cid, or --id, or --key and --ispb.")
    request = cid_pb2.GetCidRequest()
    if cid is not None:
        request.cid = cid
    elif record_id is not None:
        request.id = record_id
    else:
        request.key.MergeFrom(cid_pb2.CidKey(key_value=_normalized(key or ""), ispb=ispb or ""))
    with server.client() as client:
        fields = fields_of(client.cids.GetCid(request).record)
    if as_json:
        print_json(fields)
        return DONE
    console = stdout()
    for name, value in fields.items():
        style = _STATUS_STYLES.get(str(value), "") if name == "sync_status" else ""
        # Values are never truncated or wrapped, so that they can be copied.
        console.print(Text.assemble((f"{name:<18}", "dim"), (str(value), style)), soft_wrap=True)
    return DONE


def _normalized(key: str) -> str:
    try:
        return normalize_key(key)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--key") from error
