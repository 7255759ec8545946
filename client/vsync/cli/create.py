"""`vsync create`"""

import click

from vsync.cli.options import DONE, KEY_TYPE, ServerOptions, json_option, server_options
from vsync.cli.record_options import ACCOUNT_TYPE, canonical_key, dry_run_option, print_record
from vsync.records import record_of
from vsync.v1 import cid_pb2


@click.command("create")
@click.option("--cid", required=True, metavar="HEX", help="The content identifier, 64 hexadecimal digits.")
@click.option("--key-type", required=True, type=KEY_TYPE, help="The type of --key.")
@click.option("--key", required=True, metavar="KEY", help="The Pix key. Punctuation and case are ignored.")
@click.option("--ispb", required=True, metavar="ISPB", help="The participant.")
@click.option("--account-number", metavar="NUMBER", help="The account.")
@click.option("--account-type", type=ACCOUNT_TYPE, help="The type of the account.")
@click.option("--branch", metavar="NUMBER", help="The branch of the account.")
@click.option("--tax-id", metavar="TAX_ID", help="The owner: a CPF or a CNPJ.")
@click.option("--dict-request-id", metavar="UUID", help="The request id of the directory.")
@dry_run_option
@server_options
@json_option
def command(*, server: ServerOptions, key: str, dry_run: bool, as_json: bool, **given: str | None) -> int:
    """Create one record.

    Its sync status is PENDING. Use `vsync import` for many records.
    """
    record = record_of({**given, "key_value": canonical_key(key)})
    with server.client() as client:
        answer = client.cids.CreateCid(cid_pb2.CreateCidRequest(record=record, validate_only=dry_run))
    print_record(answer.record, as_json=as_json)
    return DONE
