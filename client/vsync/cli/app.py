"""The `vsync` command group. A command is imported when it is called: the help needs neither gRPC nor rich."""

import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from types import FrameType, MappingProxyType
from typing import Final

import click

from vsync.cli.lazy_group import LazyGroup
from vsync.cli.standard_streams import FAILED, describe_system_error
from vsync.version import __version__

# The signals that end the command, if the system has them.
_SIGNALS: Final = [number for number in signal.Signals if number.name in {"SIGTERM", "SIGHUP"}]
# Each command's name, its help line, and the module that defines `command`.
_COMMANDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "health": ("Show the health of the server and its dependencies.", "health"),
        "top": ("Show the state of the server and of the day's work.", "top"),
        "list": ("List records.", "list_"),
        "count": ("Count the records by key type and sync status.", "count"),
        "get": ("Show one record.", "get"),
        "create": ("Create one record.", "create"),
        "update": ("Update the account of one record.", "update"),
        "delete": ("Delete one record.", "delete"),
        "import": ("Import the records of a file.", "import_"),
        "export": ("Export records, or only their CIDs, to a file.", "export"),
        "watch": ("Show the changes of the CID set as they happen.", "watch"),
        "batches": ("Show and control the daily sync batches.", "batches"),
        "vsyncs": ("Show a participant's VSyncs.", "vsyncs"),
        "verifications": ("Show the results of VSync verifications, newest first.", "verifications"),
        "diff": ("Compare the directory's CID set file with the server.", "diff"),
        "audit": ("Show audit entries, newest first.", "audit"),
        "sample": ("Create sample records.", "sample"),
    }
)


class _Commands(LazyGroup):
    def help_lines(self) -> dict[str, str]:
        return {name: text for name, (text, _) in _COMMANDS.items()}

    def load(self, ctx: click.Context, name: str) -> click.Command:  # noqa: ARG002 - the method of LazyGroup
        command: click.Command = import_module(f"vsync.cli.{_COMMANDS[name][1]}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vsync")
def cli() -> None:
    """The client of a vsyncd server.

    \b
    vsync health
    vsync sample --count 1000 --out sample.ndjson
    vsync import sample.ndjson
    vsync export cids.csv.gz --ispb 10203040
    vsync get --key +5511987654321 --ispb 10203040
    vsync vsyncs --ispb 10203040
    vsync diff cid-set.txt --ispb 10203040 --key-type PHONE
    """


def run(*, own_process: bool = False) -> int:
    """Runs the command line. Returns the exit code.

    `own_process`: the process exists only for the command, so SIGTERM and SIGHUP end it as Ctrl-C does.
    """
    if own_process:
        exit_on_signals()
    try:
        # Outside standalone mode, click returns the command's own return value, which is its exit code.
        return int(cli.main(prog_name="vsync", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (OSError, UnicodeEncodeError) as error:
        sys.stderr.write(f"error: {describe_system_error(error)}\n")
        return FAILED
    except click.Abort:
        sys.stderr.write("\ninterrupted\n")
        return FAILED


def exit_on_signals() -> None:
    """Makes SIGTERM and SIGHUP raise SystemExit with 128 + their number, so that temporary files are removed.

    An ignored signal, as under nohup, remains ignored.
    """
    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def handle(number: int, _frame: FrameType | None) -> None:
        # A closed terminal sends several signals; only the first may interrupt, since the clean-up follows it.
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in handled:
        signal.signal(each, handle)
