"""`vsync verifications`"""

import datetime as dt

import click

from vsync.cli.messages import short_time
from vsync.cli.options import DONE, KEY_TYPE, ServerOptions, json_option, server_options
from vsync.cli.pages import Page, limit_option, print_page, read_pages
from vsync.cli.record_options import time_options, timestamp
from vsync.cli.tables import Cell
from vsync.records import KEY_TYPES, EnumNames
from vsync.v1 import reconciliation_pb2 as pb

RESULTS = EnumNames(pb.DirectoryResult.DESCRIPTOR, "DIRECTORY_RESULT_")
_COLUMNS = ("created (UTC)", "type", "result", "CIDs", "set since", "last OK (UTC)", "verification")


@click.command("verifications")
@click.option("--ispb", required=True, metavar="ISPB", help="The participant.")
@click.option("--key-type", type=KEY_TYPE, help="Only this key type.")
@click.option("--result", type=click.Choice(RESULTS.choices, case_sensitive=False), help="Only this result.")
@time_options
@limit_option
@server_options
@json_option
def command(
    *,
    server: ServerOptions,
    ispb: str,
    key_type: str | None,
    result: str | None,
    created_after: dt.datetime | None,
    created_before: dt.datetime | None,
    limit: int,
    as_json: bool,
) -> int:
    """Show the results of VSync verifications, newest first.

    They are the directory's answers that were recorded. --json also prints the VSyncs.
    """
    pages = []
    with server.client() as client:
        for name in KEY_TYPES.choices if key_type is None else (key_type,):
            request = pb.ListVsyncVerificationsRequest(
                ispb=ispb,
                key_type=KEY_TYPES.numbers[name],
                directory_result=RESULTS.numbers[result] if result else pb.DIRECTORY_RESULT_UNSPECIFIED,
                created_after=timestamp(created_after),
                created_before=timestamp(created_before),
            )
            pages.append(read_pages(client.reconciliation.ListVsyncVerifications, request, "verifications", limit))
    found = sorted((each for page in pages for each in page.elements), key=lambda each: str(each.id), reverse=True)
    page = Page(found[:limit], more=len(found) > limit or any(page.more for page in pages))
    print_page(page, "verifications", _COLUMNS, _row, as_json=as_json)
    return DONE


def _row(verification: pb.VsyncVerification) -> tuple[Cell, ...]:
    has_changed = verification.our_vsync.vsync != verification.submitted_vsync
    return (
        short_time(verification.created_at),
        KEY_TYPES.name(verification.key_type),
        RESULTS.name(verification.directory_result),
        verification.our_vsync.count,
        "changed" if has_changed else "unchanged",
        short_time(verification.last_ok_at),
        verification.directory_verification_id,
    )
