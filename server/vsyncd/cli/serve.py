"""`vsyncd serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vsyncd.cli.embedded import embedded_data_dir, require_embedded
from vsyncd.config import Settings, load_settings
from vsyncd.core.errors import ServiceError
from vsyncd.migrate import MigrateError
from vsyncd.observability.tracing import TracingError
from vsyncd.session_settings import UnfitDatabase

if TYPE_CHECKING:  # it brings gRPC and the whole service with it, which no other command needs
    from vsyncd.app import Application


@click.command()
@click.option("--embedded", is_flag=True, help="Start PostgreSQL and Valkey from the wheels, and serve from them.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded servers keep their data; default: .data in a source checkout (for root and for an "
    "installed package a folder of the platform's).",
)
@click.option("--listen", metavar="HOST:PORT", help="Where to serve gRPC, in place of GRPC_LISTEN.")
@click.option("--http-listen", metavar="HOST:PORT", help="Where to serve HTTP, in place of HTTP_LISTEN.")
@click.option(
    "--banner/--no-banner",
    default=None,
    help="With --embedded: print addresses and first commands to standard output; default: on a terminal. "
    "The log goes to standard error.",
)
def serve(
    *, embedded: bool, data_dir: Path | None, listen: str | None, http_listen: str | None, banner: bool | None
) -> int:
    """Migrate (unless DB_AUTO_MIGRATE is off) and serve until SIGTERM or Ctrl-C.

    With --embedded it listens on this machine only (127.0.0.1), unless an address is configured.
    """
    if not embedded and data_dir is not None:
        raise click.UsageError("--data-dir goes with --embedded")
    settings = load_settings(grpc_listen=listen, http_listen=http_listen)
    if embedded:
        require_embedded()
        return _serve_embedded(settings, embedded_data_dir(data_dir), banner=banner)
    # Only now: see Application above.
    from vsyncd.app import serve as serve_until_stopped  # noqa: PLC0415 - see above

    try:
        return serve_until_stopped(settings)
    except (MigrateError, ServiceError, TracingError, UnfitDatabase) as error:
        raise click.ClickException(str(error)) from error


def _serve_embedded(settings: Settings, data_dir: Path, *, banner: bool | None) -> int:
    # The first is slow to import, and the others are an extra that may not be installed.
    from vsyncd.app import serve as serve_until_stopped  # noqa: PLC0415 - see above
    from vsyncd.cli.banner import print_banner  # noqa: PLC0415 - see above
    from vsyncd.embedded import EmbeddedError  # noqa: PLC0415 - see above
    from vsyncd.embedded_servers import EmbeddedServers  # noqa: PLC0415 - see above

    servers = EmbeddedServers(data_dir)

    def on_serving(application: Application) -> None:
        if sys.stdout.isatty() if banner is None else banner:
            print_banner(application, servers.postgres)

    try:
        return serve_until_stopped(settings.listening_on_loopback(), embedded=servers, on_serving=on_serving)
    except (MigrateError, ServiceError, TracingError, UnfitDatabase, EmbeddedError) as error:
        raise click.ClickException(str(error)) from error
