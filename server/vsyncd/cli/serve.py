"""`vsyncd serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vsyncd.cli.options import embedded_data_dir, require_embedded
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings, setting_notes

if TYPE_CHECKING:  # slow to import, and only `serve` needs it
    from vsyncd.app import Application


@click.command()
@click.option("--embedded", is_flag=True, help="Start and use the embedded PostgreSQL and Valkey.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder of the embedded servers; default: .data in a source checkout, or else the platform's "
    "data folder (also for root).",
)
@click.option("--domains", metavar="NAMES", help="The domains to serve, comma separated, or all; overrides DOMAINS.")
@click.option("--listen", metavar="HOST:PORT", help="The gRPC address; overrides GRPC_LISTEN.")
@click.option("--http-listen", metavar="HOST:PORT", help="The HTTP address; overrides HTTP_LISTEN.")
@click.option(
    "--banner/--no-banner",
    default=None,
    help="With --embedded: print addresses and commands to try; default: if standard output is a terminal. "
    "The log is written to standard error.",
)
def serve(
    *,
    embedded: bool,
    data_dir: Path | None,
    domains: str | None,
    listen: str | None,
    http_listen: str | None,
    banner: bool | None,
) -> int:
    """Migrate the database and serve until SIGTERM or Ctrl-C.

    DB_AUTO_MIGRATE=false disables the migration.
    """
    if not embedded and data_dir is not None:
        raise click.UsageError("--data-dir needs --embedded")
    settings = load_settings(domains=domains, grpc_listen=listen, http_listen=http_listen)
    if embedded:
        require_embedded()
        return _serve_embedded(settings, embedded_data_dir(data_dir), banner=banner)
    from vsyncd.app import serve as serve_until_stopped  # noqa: PLC0415 - slow to import

    return serve_until_stopped(settings, notes=setting_notes())


def _serve_embedded(settings: Settings, data_dir: Path, *, banner: bool | None) -> int:
    # Slow to import, or an extra that may not be installed.
    from vsyncd.app import serve as serve_until_stopped  # noqa: PLC0415 - see above
    from vsyncd.cli.banner import print_banner  # noqa: PLC0415 - see above
    from vsyncd.embedded_servers import EmbeddedServers  # noqa: PLC0415 - see above

    servers = EmbeddedServers(data_dir)

    def on_serving(application: Application) -> None:
        if sys.stdout.isatty() if banner is None else banner:
            print_banner(application, servers.postgres)

    return serve_until_stopped(settings, notes=setting_notes(), embedded=servers, on_serving=on_serving)
