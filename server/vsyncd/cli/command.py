"""The vsyncd command group. All errors become an exit code and a line on standard error here."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Final

import click
from vsync.cli.lazy_group import LazyGroup
from vsync.cli.standard_streams import describe_system_error

from vsyncd import __version__

DONE, FAILED, WRONG_USAGE = 0, 1, 2

# The command's name and its help line. A command is imported when it is called: the help does not need gRPC, pydantic
# and psycopg, whose imports take most of a second.
_COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "serve": "Migrate the database and serve until SIGTERM or Ctrl-C.",
        "migrate": "Migrate the configured database.",
        "maintain": "Create future partitions and drop expired data.",
        "backup": "Back up the configured database.",
        "vsync": "Verify and repair the stored VSyncs.",
        "authz": "Check who may call what.",
        "dev-certs": "Create certificates and an AUTHZ_FILE for development in DIR.",
        "doctor": "Check the settings, and everything that they name.",
        "check-config": "Print the effective settings, or what is wrong with them.",
    }
)

_EXPECTED_ERRORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "backup.errors": "BackupError",
        "config": "ConfigError",
        "config.errors": "StartError",
        "core.errors": "ServiceError",
        "embedded.errors": "EmbeddedError",
        "jobs.runner": "JobFailed",
        "migrate.errors": "MigrateError",
        "session_settings": "UnfitDatabase",
    }
)


def _verifiable_domains() -> list[str]:
    """Returns the domains that have a module `verification`, without importing anything."""
    domains = Path(__file__).resolve().parents[1] / "domains"
    return sorted(path.parent.name for path in domains.glob("*/verification.py"))


class _Commands(LazyGroup):
    def help_lines(self) -> dict[str, str]:
        return {**_COMMANDS, **{domain: f"Verify the stored {domain}." for domain in _verifiable_domains()}}

    def load(self, ctx: click.Context, name: str) -> click.Command:
        command: click.Command
        if name in _COMMANDS:
            attribute = name.replace("-", "_")
            command = getattr(import_module(f"vsyncd.cli.{attribute}"), attribute)
        else:
            command = import_module("vsyncd.cli.verification").command_of(name)
        # The log must not go to standard output, where the command's result goes. `serve` configures it again. A
        # command that has not imported the log does not need it.
        if ctx.obj and (logs := sys.modules.get("vsyncd.observability.logs")) is not None:
            logs.configure(level="WARNING", form="console")
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="vsyncd")
def vsyncd() -> None:
    """The data service of a Pix participant's VSync system.

    Settings are environment variables. The file .env in the working directory can set them too.
    """


def run(arguments: Sequence[str], *, own_process: bool = False) -> int:
    """Runs the command and returns its exit code. An expected error is one line on standard error.

    `own_process`: the process runs only this command, which may configure the log.
    """
    try:
        code = vsyncd.main(list(arguments), prog_name="vsyncd", standalone_mode=False, obj=own_process)
    except click.UsageError as error:
        error.show()
        return WRONG_USAGE
    except click.ClickException as error:
        return _fail(f"vsyncd: {error.format_message()}")
    except (OSError, UnicodeEncodeError) as error:
        return _fail(f"vsyncd: {describe_system_error(error)}")
    except click.Abort:
        return FAILED
    except expected_errors() as error:
        # A ConfigError names the variable in each of its lines; the text of a ServiceError starts with its reason.
        return _fail(*getattr(error, "lines", (f"vsyncd: {getattr(error, 'message', error)}",)))
    return int(code) if isinstance(code, int) else DONE


def expected_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that are for the operator. Only an imported module can have raised one."""
    modules = ((sys.modules.get(f"vsyncd.{module}"), name) for module, name in _EXPECTED_ERRORS.items())
    return tuple(getattr(module, name) for module, name in modules if module is not None)


def _fail(*lines: str) -> int:
    for line in lines:
        click.echo(line, err=True)
    return FAILED
