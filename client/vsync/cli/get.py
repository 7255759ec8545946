"""`vsync get`"""

import click
from rich.text import Text

from vsync.cli.console import print_json, stdout
from vsync.cli.options import DONE, Server, machine_option, server_options
from vsync.keys import normalize_key
from vsync.records import fields_of
from vsync.v1 import cid_pb2

_STATUS_STYLES = {"PENDING": "yellow", "SYNCED": "green", "FAILED": "red"}


@click.command("get", short_help="Shows one record.")
@click.option("--cid", metavar="HEX", help="By content identifier.")
@click.option("--id", "record_id", metavar="UUID", help="By the record's id.")
@click.option("--key", metavar="KEY", help="By key, together with --ispb. Punctuation and case do not matter.")
@click.option("--ispb", metavar="ISPB", help="The participant of --key.")
@server_options
@machine_option
def get_command(
    *, server: Server, cid: str | None, record_id: str | None, key: str | None, ispb: str | None, as_json: bool
) -> int:
    """One record, by --cid, by --id, or by --key and --ispb."""
    if sum(way is not None for way in (cid, record_id, key)) != 1 or (key is None) != (ispb is None):
        raise click.UsageError("Give one of --cid, --id, or --key together with --ispb.")
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
        # A value is never cut or folded: it will be copied.
        console.print(Text.assemble((f"{name:<18}", "dim"), (str(value), style)), soft_wrap=True)
    return DONE


def _normalized(key: str) -> str:
    try:
        return normalize_key(key)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--key") from error
