"""`vsyncd check-config`."""

from __future__ import annotations

import click

from vsyncd.config import load_settings


@click.command("check-config")
def check_config() -> None:
    """Print the effective settings, secrets masked; fail with a line for each variable that is wrong."""
    for name, value in load_settings().masked().items():
        click.echo(f"{name}={value}")
