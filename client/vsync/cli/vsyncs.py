"""`vsync vsync`"""

import click

from vsync.cli.console import print_json, stdout
from vsync.cli.options import DONE, FAILED, Server, machine_option, server_options
from vsync.client import SyncClient
from vsync.consistency import STRONG
from vsync.records import KEY_TYPES
from vsync.v1 import reconciliation_pb2 as pb


@click.command("vsync", short_help="Shows a participant's VSyncs.")
@click.option("--ispb", required=True, metavar="ISPB", help="The participant.")
@click.option("--key-type", type=click.Choice(KEY_TYPES.choices, case_sensitive=False), help="Only this key type.")
@click.option("--recompute", is_flag=True, help="Compute them by a full scan too; exit code 1 when one differs.")
@server_options
@machine_option
def vsync_command(*, server: Server, ispb: str, key_type: str | None, recompute: bool, as_json: bool) -> int:
    """The VSync and the number of CIDs of each key type, as the primary has them: they are what is submitted.

    --recompute takes about a second for a million CIDs: give it a --timeout.
    """
    with server.client() as client:
        vsyncs = [
            vsync
            for vsync in client.reconciliation.ListVsyncs(pb.ListVsyncsRequest(ispb=ispb), metadata=STRONG).vsyncs
            if key_type is None or vsync.key_type == KEY_TYPES.numbers[key_type]
        ]
        scans = [_scan(client, vsync) for vsync in vsyncs] if recompute else []
    differing = [scan for scan in scans if not scan.agrees]
    if as_json:
        print_json({"ispb": ispb, "vsyncs": [_fields(vsync) for vsync in vsyncs], **_scanned(scans)})
        return FAILED if differing else DONE
    console = stdout()
    for vsync in vsyncs:
        console.out(f"{KEY_TYPES.name(vsync.key_type):<6}{vsync.count:>14,}  {vsync.vsync}")
    for scan in differing:
        console.out(
            f"{KEY_TYPES.name(scan.vsync.key_type):<6}{scan.vsync.count:>14,}  {scan.vsync.vsync} by a full scan"
        )
    if scans and not differing:
        console.out("a full scan says the same")
    return FAILED if differing else DONE


def _scan(client: SyncClient, vsync: pb.Vsync) -> pb.RecomputeVsyncResponse:
    request = pb.RecomputeVsyncRequest(ispb=vsync.ispb, key_type=vsync.key_type)
    return client.reconciliation.RecomputeVsync(request)


def _scanned(scans: list[pb.RecomputeVsyncResponse]) -> dict[str, object]:
    if not scans:
        return {}
    return {"recomputed": [_fields(scan.vsync) | {"agrees": scan.agrees} for scan in scans]}


def _fields(vsync: pb.Vsync) -> dict[str, object]:
    return {"key_type": KEY_TYPES.name(vsync.key_type), "vsync": vsync.vsync, "count": vsync.count}
