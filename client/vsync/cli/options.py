"""What the commands share: how to reach the server, and how an error ends a command."""

import functools
import shlex
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vsync.atomic_files import STANDARD
from vsync.channel import Tls
from vsync.cli.console import print_error
from vsync.cli.streams import READER_GONE
from vsync.client import SyncClient, connect_sync
from vsync.errors import VsyncError
from vsync.reconnect import DEFAULT_PATIENCE_S

DONE, FAILED = 0, 1
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the server is, and how to speak with it."""

    target: str
    timeout: float
    tls: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_server_name: str | None

    @contextmanager
    def client(self) -> Iterator[SyncClient]:
        """A client whose calls all carry one correlation id. Raises click.UsageError for half a client certificate."""
        with connect_sync(
            self.target, tls=self._tls(), timeout=self.timeout, correlation_id=str(uuid.uuid4())
        ) as client:
            yield client

    def _tls(self) -> Tls | None:
        if not (self.tls or self.tls_ca or self.tls_cert or self.tls_key):
            return None
        if (self.tls_cert is None) != (self.tls_key is None):
            raise click.UsageError("--tls-cert and --tls-key come together.")
        return Tls(ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key, server_name=self.tls_server_name)


_SERVER_OPTIONS = (
    click.option(
        "--target",
        envvar="VSYNC_TARGET",
        default="localhost:50051",
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help="The server.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a single call may take.",
    ),
    click.option("--tls", is_flag=True, help="Use TLS, trusting the usual authorities."),
    click.option("--tls-ca", envvar="VSYNC_TLS_CA", type=_FILE, help="Use TLS, trusting these authorities (PEM)."),
    click.option("--tls-cert", envvar="VSYNC_TLS_CERT", type=_FILE, help="The client's certificate (PEM)."),
    click.option("--tls-key", envvar="VSYNC_TLS_KEY", type=_FILE, help="Its private key (PEM)."),
    click.option(
        "--tls-server-name", metavar="NAME", help="The name in the server's certificate, if not the target's."
    ),
)


def server_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds the options that say where the server is; the command gets them as one argument, server."""

    @functools.wraps(command)
    def with_server(**arguments: Any) -> int:  # noqa: ANN401 - the options' values are of many types
        names = Server.__dataclass_fields__
        server = Server(**{name: arguments.pop(name) for name in names})
        return command(server=server, **arguments)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_SERVER_OPTIONS), with_server)


def patience_option(command: Callable[..., int]) -> Callable[..., int]:
    """Adds --patience, for commands that use streams."""
    option = click.option(
        "--patience",
        type=click.FloatRange(min=0),
        default=DEFAULT_PATIENCE_S,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the server without any progress before the command fails. 0: do not reconnect.",
    )
    return option(command)


def machine_option(command: Callable[..., int], *, failed: int = FAILED) -> Callable[..., int]:
    """Adds --json. An error of ours becomes one line (or one JSON object) and the exit code `failed`.

    A command whose records nobody reads any more ends without a message, with READER_GONE.
    """

    @functools.wraps(command)
    def reporting(*, as_json: bool, **arguments: Any) -> int:  # noqa: ANN401 - the options' values are of many types
        try:
            return command(as_json=as_json, **arguments)
        except BrokenPipeError:
            # Whoever read the records that this command writes has had enough, as head does.
            return READER_GONE
        except (VsyncError, OSError, UnicodeEncodeError) as error:
            print_error(error, as_json=as_json)
            return failed
        except KeyboardInterrupt:
            sys.stderr.write("\ninterrupted\n")
            return failed

    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for machines.")(reporting)


def command_again(**changed: str) -> str:
    """The command that runs now, for a shell: as it was given, but for the options `changed`, by their names.

    What came from the environment, or by default, comes again by itself.
    """
    context = click.get_current_context()
    arguments: list[str] = []
    options = [word for name, value in changed.items() for word in (f"--{name}", value)]
    for parameter in context.command.params:
        name, given = parameter.name or "", context.params.get(parameter.name or "")
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if isinstance(parameter, click.Option):
            if not any(spelling.removeprefix("--") in changed for spelling in parameter.opts):
                options += [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], str(given)]
        else:
            # A dash alone is a name; others that begin with one would be taken for options.
            arguments.append(f"./{given}" if str(given).startswith("-") and given != STANDARD else str(given))
    return shlex.join([*context.command_path.split(), *arguments, *options])
