"""`vsync vsyncs`"""

import click

from vsync.cli.console import print_json, stdout
from vsync.cli.options import DONE, KEY_TYPE, ServerOptions, json_option, server_options
from vsync.cli.standard_streams import FAILED
from vsync.cli.tables import print_table
from vsync.consistency import STRONG
from vsync.records import KEY_TYPES
from vsync.v1 import reconciliation_pb2 as pb


@click.command("vsyncs")
@click.option("--ispb", required=True, metavar="ISPB", help="The participant.")
@click.option("--key-type", type=KEY_TYPE, help="Show only this key type.")
@click.option(
    "--recompute",
    is_flag=True,
    help="Also compute each VSync by a full scan. Exit code 1 if one differs. Needs about 1 s of --timeout per million "
    "CIDs.",
)
@server_options
@json_option
def command(*, server: ServerOptions, ispb: str, key_type: str | None, recompute: bool, as_json: bool) -> int:
    """Show a participant's VSyncs.

    Each line has a key type, its number of CIDs, and its VSync. They are read from the primary, so they can be
    submitted to the directory.
    """
    with server.client() as client:
        vsyncs = [
            vsync
            for vsync in client.reconciliation.ListVsyncs(pb.ListVsyncsRequest(ispb=ispb), metadata=STRONG).vsyncs
            if key_type is None or vsync.key_type == KEY_TYPES.numbers[key_type]
        ]
        scans = [
            client.reconciliation.RecomputeVsync(pb.RecomputeVsyncRequest(ispb=ispb, key_type=vsync.key_type))
            for vsync in (vsyncs if recompute else ())
        ]
    differing = [scan for scan in scans if not scan.agrees]
    if as_json:
        recomputed = [_fields(scan.vsync) | {"agrees": scan.agrees} for scan in scans]
        fields = {"ispb": ispb, "vsyncs": [_fields(vsync) for vsync in vsyncs]}
        print_json(fields | ({"recomputed": recomputed} if recomputed else {}))
    else:
        print_table(stdout(), ("type", "CIDs", "VSync"), [_row(vsync) for vsync in vsyncs])
        for scan in differing:
            kind, count, vsync = _row(scan.vsync)
            stdout().out(f"{kind}: a full scan yields {count:,} CIDs and {vsync}")
        if scans and not differing:
            stdout().out("A full scan yields the same values.")
    return FAILED if differing else DONE


def _row(vsync: pb.Vsync) -> tuple[str, int, str]:
    return KEY_TYPES.name(vsync.key_type), vsync.count, vsync.vsync


def _fields(vsync: pb.Vsync) -> dict[str, object]:
    return {"key_type": KEY_TYPES.name(vsync.key_type), "vsync": vsync.vsync, "count": vsync.count}
