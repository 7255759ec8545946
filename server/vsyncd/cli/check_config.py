"""`vsyncd check-config`."""

import click

from vsyncd.domains.registry import load_settings, select_domains


@click.command("check-config")
def check_config() -> None:
    """Print the effective settings, or what is wrong with them.

    Masks secrets. Prints one line for each variable that is wrong, and exits with 1.
    """
    settings = load_settings()
    select_domains(settings.domains)
    for name, value in settings.masked().items():
        click.echo(f"{name}={value}")
