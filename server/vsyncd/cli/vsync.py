"""`vsyncd vsync verify | rebuild`."""

import json
from typing import Final

import click

from vsyncd.cli.options import for_running_server, json_option
from vsyncd.config import Settings
from vsyncd.domains.reconciliation.admin import RecomputedVsync, rebuild, verify

_KEY_TYPES: Final = ("", "CPF", "CNPJ", "PHONE", "EMAIL", "EVP")


@click.group()
def vsync() -> None:
    """Verify and repair the stored VSyncs."""


@vsync.command("verify")
@json_option
@for_running_server
def verify_command(settings: Settings, *, as_json: bool) -> int:
    """Compare the stored VSyncs and counts with a full scan. Exits with 1 if one differs.

    Scans one snapshot on the first usable replica of DB_REPLICA_HOSTS, or else on the primary, and prints which server
    that was. Does not block writers.
    """
    found = verify(settings)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "agrees": found.agrees,
                    "server": found.server,
                    "snapshot": found.at.isoformat(),
                    "vsyncs": [_as_json(group) for group in found.groups],
                }
            )
        )
        return not found.agrees
    for group in found.groups:
        _print_group(group)
    click.echo(f"as of {found.at.isoformat(timespec='seconds')}, {found.server}", err=True)
    if not found.agrees:
        wrong = sum(not group.agrees for group in found.groups)
        click.echo(f"{wrong} of {len(found.groups)} stored VSyncs differ; repair: vsyncd vsync rebuild", err=True)
    return not found.agrees


@vsync.command("rebuild")
@json_option
@for_running_server
def rebuild_command(settings: Settings, *, as_json: bool) -> None:
    """Replace wrong VSyncs and counts with the result of a full scan, as the role of DB_MIGRATE_URL.

    Does not block writers.
    """
    repaired = rebuild(settings)
    if as_json:
        click.echo(json.dumps({"repaired": repaired}))
    else:
        click.echo(f"repaired {repaired}" if repaired else "nothing to repair")


def _print_group(group: RecomputedVsync) -> None:
    mark = "ok     " if group.agrees else "DIFFERS"
    name = _KEY_TYPES[group.key_type]
    click.echo(f"{mark} {group.ispb} {name:<5} {group.size:>12,}  {group.vsync.hex()}")
    if not group.agrees:
        click.echo(f"   stored:{'':13} {group.kept_size:>12,}  {group.kept_vsync.hex()}")


def _as_json(group: RecomputedVsync) -> dict[str, str | int | bool]:
    return {
        "ispb": group.ispb,
        "key_type": _KEY_TYPES[group.key_type],
        "vsync": group.vsync.hex(),
        "count": group.size,
        "kept_vsync": group.kept_vsync.hex(),
        "kept_count": group.kept_size,
        "agrees": group.agrees,
    }
