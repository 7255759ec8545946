"""`vsync update`"""

import click
from google.protobuf.field_mask_pb2 import FieldMask

from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.record_options import ACCOUNT_TYPE, dry_run_option, print_record, record_options, revision_option
from vsync.records import ACCOUNT_TYPES
from vsync.v1 import cid_pb2


@click.command("update")
@record_options
@click.option("--new-cid", required=True, metavar="HEX", help="The new content identifier, which every update needs.")
@click.option("--account-number", metavar="NUMBER", help="The new account.")
@click.option("--account-type", type=ACCOUNT_TYPE, help="The new type of the account.")
@click.option("--branch", metavar="NUMBER", help="The new branch; '' removes it.")
@click.option("--dict-request-id", metavar="UUID", help="The new request id of the directory; '' removes it.")
@revision_option
@dry_run_option
@server_options
@json_option
def command(
    *,
    server: ServerOptions,
    by: cid_pb2.GetCidRequest,
    new_cid: str,
    account_type: str | None,
    revision: int | None,
    dry_run: bool,
    as_json: bool,
    **given: str | None,
) -> int:
    """Update the account of one record.

    It is identified by --cid, by --id, or by --key and --ispb. A CID depends on the account, so it changes too. The
    sync status becomes PENDING.
    """
    changed = {name: value for name, value in given.items() if value is not None}
    update = cid_pb2.CidUpdate(cid=new_cid)
    for name, value in changed.items():
        if value:
            setattr(update, name, value)
    mask = ["cid", *changed]
    if account_type is not None:
        update.account_type = ACCOUNT_TYPES.numbers[account_type]
        mask.append("account_type")
    request = cid_pb2.UpdateCidRequest(
        update=update, update_mask=FieldMask(paths=mask), revision=revision, validate_only=dry_run
    )
    request.MergeFromString(by.SerializeToString())  # both messages have the same oneof
    with server.client() as client:
        print_record(client.cids.UpdateCid(request).record, as_json=as_json)
    return DONE
