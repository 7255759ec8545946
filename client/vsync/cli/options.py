"""Options that several commands share, and the conversion of errors into exit codes."""

import datetime as dt
import functools
import shlex
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from vsync.atomic_files import STANDARD
from vsync.channel import Tls
from vsync.cli.console import print_error
from vsync.cli.standard_streams import FAILED, READER_GONE
from vsync.client import SyncClient, connect_sync
from vsync.errors import FileError, VsyncError
from vsync.reconnect import DEFAULT_RECONNECT_TIMEOUT_S
from vsync.record_files import FileFormat, file_format
from vsync.records import KEY_TYPES

T = TypeVar("T")

DONE = 0
# Only for shell completion: any name is accepted.
FILE = click.Path(allow_dash=True)
KEY_TYPE = click.Choice(KEY_TYPES.choices, case_sensitive=False)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The options that `server_options` adds."""

    target: str
    timeout: float
    tls: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_server_name: str | None
    token_file: Path | None

    @contextmanager
    def client(self) -> Iterator[SyncClient]:
        """Connects a client whose calls all have one correlation id. Raises click.UsageError."""
        try:
            client = connect_sync(
                self.target,
                tls=self._tls(),
                token_file=self.token_file,
                timeout=self.timeout,
                correlation_id=str(uuid.uuid4()),
            )
        except ValueError as error:
            raise click.UsageError(f"--token-file: {error}.") from error
        with client:
            yield client

    def _tls(self) -> Tls | None:
        if not (self.tls or self.tls_ca or self.tls_cert or self.tls_key):
            return None
        if (self.tls_cert is None) != (self.tls_key is None):
            raise click.UsageError("--tls-cert and --tls-key must be given together.")
        return Tls(ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key, server_name=self.tls_server_name)


_SERVER_OPTIONS = (
    click.option(
        "--target",
        envvar="VSYNC_TARGET",
        default="localhost:50051",
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help="The server's address.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="The deadline of each call that has a single response.",
    ),
    click.option("--tls", is_flag=True, help="Use TLS and trust the default certificate authorities."),
    click.option("--tls-ca", envvar="VSYNC_TLS_CA", type=_FILE, help="Use TLS and trust these authorities (PEM)."),
    click.option("--tls-cert", envvar="VSYNC_TLS_CERT", type=_FILE, help="The client's certificate (PEM)."),
    click.option("--tls-key", envvar="VSYNC_TLS_KEY", type=_FILE, help="The private key of --tls-cert (PEM)."),
    click.option(
        "--tls-server-name",
        metavar="NAME",
        envvar="VSYNC_TLS_SERVER_NAME",
        help="The name in the server's certificate, if it differs from the host in --target.",
    ),
    click.option(
        "--token-file",
        envvar="VSYNC_TOKEN_FILE",
        type=_FILE,
        help="A file with a key or a JWT that each call sends, over TLS or to this machine only.",
    ),
)


def server_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds the options of the connection. The command receives them as the argument `server`."""

    @functools.wraps(command)
    def with_server(**arguments: Any) -> int:  # noqa: ANN401 - the options' values are of many types
        server = ServerOptions(**{name: arguments.pop(name) for name in ServerOptions.__dataclass_fields__})
        return command(server=server, **arguments)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_SERVER_OPTIONS), with_server)


reconnect_option = click.option(
    "--reconnect-timeout",
    "--patience",
    type=click.FloatRange(min=0),
    default=DEFAULT_RECONNECT_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to try to reconnect without progress before the command fails. 0: do not reconnect.",
)


def json_option(command: Callable[..., int], *, failed: int = FAILED) -> Callable[..., int]:
    """Adds --json, and converts an error into one line (or one JSON object) and the exit code `failed`.

    A command whose reader closed standard output ends without a message and with READER_GONE.
    """

    @functools.wraps(command)
    def reporting(*, as_json: bool, **arguments: Any) -> int:  # noqa: ANN401 - the options' values are of many types
        try:
            return command(as_json=as_json, **arguments)
        except BrokenPipeError:
            # The reader has read enough, as head does.
            return READER_GONE
        except (VsyncError, OSError, UnicodeEncodeError) as error:
            print_error(error, as_json=as_json)
            return failed
        except KeyboardInterrupt:
            sys.stderr.write("\ninterrupted\n")
            return failed

    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(reporting)


def parse_time(_ctx: click.Context, _param: click.Parameter, text: str | None) -> dt.datetime | None:
    """A click callback: converts ISO 8601 to a time in UTC, which is also the default offset."""
    if text is None:
        return None
    try:
        time = dt.datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("must be a time such as 2026-11-20 or 2026-11-20T08:00:00-03:00") from None


def open_input(open_file: Callable[[str], T], file: str) -> T:
    """Returns the opened FILE. Raises click.BadParameter."""
    try:
        return open_file(file)
    except FileError as error:
        raise click.BadParameter(f"{error}.", param_hint="FILE") from error
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}.", param_hint="FILE") from error


def format_option(*kinds: str, default: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Adds --format with these choices. The command receives it as `kind`, None by default."""
    text = f"The format of FILE. Default: {default}"
    return click.option("--format", "kind", type=click.Choice(kinds), help=text)


def parse_format(name: str, *, option: str, kind: str | None = None) -> FileFormat:
    """Returns the format of a record file. Raises click.BadParameter."""
    try:
        return file_format(name, kind)
    except FileError as error:
        raise click.BadParameter(f"{error}.", param_hint=option) from error


def rerun_command(**changed: str) -> str:
    """Returns the running command as a shell command, with the options `changed` set by name.

    Options from the environment or with their default are omitted: they will have the same values again.
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
            # "-" alone is a name; any other name that begins with a dash would be parsed as an option.
            arguments.append(f"./{given}" if str(given).startswith("-") and given != STANDARD else str(given))
    return shlex.join([*context.command_path.split(), *arguments, *options])
