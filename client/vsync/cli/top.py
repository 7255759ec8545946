"""`vsync top`"""

import time

import click
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from vsync import message_json
from vsync.cli.console import print_json, stdout
from vsync.cli.options import DONE, ServerOptions, json_option, server_options
from vsync.cli.status_view import status_view
from vsync.client import SyncClient
from vsync.errors import UnavailableError
from vsync.v1 import status_pb2 as pb

# The rows of each table, so that the most important sections fit on a screen.
_SCREEN_ROWS = 8
_MAX_DELAY_S = 60.0


@click.command("top")
@click.option("--once", is_flag=True, help="Print the status once, with every row.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.5),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two updates.",
)
@server_options
@json_option
def command(*, server: ServerOptions, once: bool, interval: float, as_json: bool) -> int:
    """Show the state of the server and of the day's work.

    It is updated until Ctrl-C, or printed once with --once, with --json or without a terminal. Needs the role operator.
    """
    console = stdout()
    with server.client() as client:
        if as_json:
            print_json(message_json.as_json(_status(client)))
        elif once or not console.is_terminal:
            console.print(status_view(_status(client), server.target, max_rows=None))
        else:
            _watch(client, server.target, interval)
    return DONE


def _status(client: SyncClient) -> pb.ServerStatus:
    return client.status.GetStatus(pb.GetStatusRequest()).status


def _watch(client: SyncClient, target: str, interval: float) -> None:
    """Updates the screen until Ctrl-C. While the server is unreachable, the last status remains and the waits grow."""
    view: RenderableType = status_view(_status(client), target, max_rows=_SCREEN_ROWS)
    delay = interval
    try:
        with Live(view, console=stdout(), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(delay)
                try:
                    view = status_view(_status(client), target, max_rows=_SCREEN_ROWS)
                    delay = interval
                    live.update(view, refresh=True)
                except UnavailableError as error:
                    delay = min(2 * delay, _MAX_DELAY_S)
                    live.update(Text(f"{target} does not answer: {error}", style="bold red"), refresh=True)
    except KeyboardInterrupt:
        return
