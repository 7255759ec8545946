"""The command itself, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click
from vsync.cli.standard_streams import describe_system_error

from vsyncd import __version__
from vsyncd.backup.errors import BackupError
from vsyncd.config import ConfigError
from vsyncd.migrate import MigrateError

DONE, FAILED, WRONG_USAGE = 0, 1, 2

# In vsyncd.cli, each in a module of its name. Loaded when it is called: what the others stand on takes a third of a
# second to load.
_COMMANDS: Final = ("serve", "migrate", "maintain", "backup", "vsync", "check-config")


class _Commands(click.Group):
    """See _COMMANDS; click's pattern of lazily loaded subcommands."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Their names, as the help lists them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them."""
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"vsyncd.cli.{name}"), name)
        # Its answer goes to standard output, and what is logged beside it must not; serve configures it anew. What
        # does not log need not load it, which is a fifth of the start.
        if ctx.obj and (logs := sys.modules.get("vsyncd.observability.logs")) is not None:
            logs.configure(level="WARNING", form="console")
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="vsyncd")
def vsyncd() -> None:
    """The data service of a Pix participant's VSync system.

    Settings come from environment variables, and from .env in the working folder.
    """


def run(arguments: Sequence[str], *, own_process: bool = False) -> int:
    """Run the command; its exit code. What we know can go wrong is a line on stderr and no traceback.

    `own_process`: the process is there for it alone, and its log is the command's to configure.
    """
    try:
        code = vsyncd.main(list(arguments), prog_name="vsyncd", standalone_mode=False, obj=own_process)
    except click.UsageError as error:
        error.show()
        return WRONG_USAGE
    except ConfigError as error:
        return _fail(*error.lines)
    except (click.ClickException, MigrateError, BackupError, OSError, UnicodeEncodeError) as error:
        return _fail(f"vsyncd: {_message(error)}")
    except click.Abort:
        return FAILED
    return int(code) if isinstance(code, int) else DONE


def _message(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    return describe_system_error(error) if isinstance(error, OSError | UnicodeError) else str(error)


def _fail(*lines: str) -> int:
    for line in lines:
        click.echo(line, err=True)
    return FAILED
