"""`vsyncd serve`."""

from __future__ import annotations

from pathlib import Path

import click

from vsyncd.cli.embedded import require_embedded
from vsyncd.config import load_settings
from vsyncd.errors import Failure
from vsyncd.migrate import MigrateError
from vsyncd.session_settings import UnfitDatabase


@click.command()
@click.option("--embedded", is_flag=True, help="Start PostgreSQL and Valkey from the wheels, and serve from them.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded servers keep their data; default: the platform's place for such data.",
)
@click.option("--listen", metavar="HOST:PORT", help="Where to serve gRPC, in place of GRPC_LISTEN.")
@click.option("--http-listen", metavar="HOST:PORT", help="Where to serve HTTP, in place of HTTP_LISTEN.")
def serve(*, embedded: bool, data_dir: Path | None, listen: str | None, http_listen: str | None) -> int:
    """Migrate (unless DB_AUTO_MIGRATE is off) and serve until SIGTERM or Ctrl-C."""
    if data_dir is not None and not embedded:
        raise click.UsageError("--data-dir goes with --embedded")
    settings = load_settings(grpc_listen=listen, http_listen=http_listen)
    known = _known_errors(embedded=embedded)
    # Only now: it brings gRPC and the whole service with it, which no other command needs.
    from vsyncd.app import serve as serve_until_stopped  # noqa: PLC0415 - see above

    try:
        return serve_until_stopped(settings, embedded=embedded, data_dir=data_dir)
    except known as error:
        raise click.ClickException(str(error)) from error


def _known_errors(*, embedded: bool) -> tuple[type[Exception], ...]:
    """What can go wrong with a start, and says so itself."""
    known: tuple[type[Exception], ...] = (MigrateError, Failure, UnfitDatabase)
    if not embedded:
        return known
    require_embedded()
    # An extra of its own, which may not be there.
    from vsyncd.embedded import EmbeddedError  # noqa: PLC0415 - see above

    return (*known, EmbeddedError)
