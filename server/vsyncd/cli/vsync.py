"""`vsyncd vsync verify | rebuild`."""

from __future__ import annotations

import json
from typing import Final

import click

from vsyncd.config import load_settings
from vsyncd.core.errors import ServiceError
from vsyncd.domains.reconciliation.admin import RecomputedVsync, rebuild, verify

_KEY_TYPES: Final = ("", "CPF", "CNPJ", "PHONE", "EMAIL", "EVP")
_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for machines.")


@click.group()
def vsync() -> None:
    """Verify and repair the VSyncs that are kept."""


@vsync.command("verify")
@_json_option
def verify_command(*, as_json: bool) -> int:
    """Compute every VSync and count by a full scan, and compare; exit code 1 when one differs from what is kept.

    Reads one snapshot, from the first replica of DB_REPLICA_HOSTS that can do it, else from the primary; which one that
    was is told. Writers go on.
    """
    try:
        found = verify(load_settings())
    except ServiceError as failure:
        raise click.ClickException(failure.message) from failure
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
        _tell(group)
    click.echo(f"as of {found.at.isoformat(timespec='seconds')}, {found.server}", err=True)
    if not found.agrees:
        wrong = sum(not group.agrees for group in found.groups)
        click.echo(f"{wrong} of {len(found.groups)} differ from what is kept; repair: vsyncd vsync rebuild", err=True)
    return not found.agrees


@vsync.command("rebuild")
@_json_option
def rebuild_command(*, as_json: bool) -> None:
    """Make the kept VSyncs and counts what a full scan says, as the role of DB_MIGRATE_URL. Writers go on."""
    try:
        repaired = rebuild(load_settings())
    except ServiceError as failure:
        raise click.ClickException(failure.message) from failure
    if as_json:
        click.echo(json.dumps({"repaired": repaired}))
    else:
        click.echo(f"repaired {repaired}" if repaired else "nothing to repair")


def _tell(group: RecomputedVsync) -> None:
    mark = "ok     " if group.agrees else "DIFFERS"
    name = _KEY_TYPES[group.key_type]
    click.echo(f"{mark} {group.ispb} {name:<5} {group.size:>12,}  {group.vsync.hex()}")
    if not group.agrees:
        click.echo(f"   kept:{'':15} {group.kept_size:>12,}  {group.kept_vsync.hex()}")


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
