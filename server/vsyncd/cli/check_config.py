"""`vsyncd check-config`."""

import click

from vsyncd.access.requirements import check_requirements
from vsyncd.domains.registry import check_tenants, load_settings, setting_notes


@click.command("check-config")
def check_config() -> None:
    """Print the effective settings, or what is wrong with them.

    Masks secrets. Prints one line for each variable that is wrong, and for each invalid entry of the files of access
    control, and exits with 1.
    """
    settings = load_settings()
    for note in setting_notes():
        click.echo(f"note: {note}", err=True)
    check_tenants(settings)
    check_requirements(settings)
    if settings.tls_cert_file or settings.authn_methods or settings.authz_file:
        # Imported here because it is slow, and only these settings need it.
        from vsyncd.access.control import AccessControl  # noqa: PLC0415

        AccessControl(settings)
    for name, value in settings.masked().items():
        click.echo(f"{name}={value}")
