"""The command itself, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vsyncd import __version__
from vsyncd.backup.errors import BackupError
from vsyncd.cli.backup import backup
from vsyncd.cli.check_config import check_config
from vsyncd.cli.maintain import maintain
from vsyncd.cli.migrate import migrate
from vsyncd.cli.serve import serve
from vsyncd.config import ConfigError
from vsyncd.migrate import MigrateError

DONE, FAILED, WRONG_USAGE = 0, 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="vsyncd")
def vsyncd() -> None:
    """The data service of a Pix participant's VSync system.

    Settings come from environment variables, and from .env in the working folder.
    """


vsyncd.add_command(serve)
vsyncd.add_command(migrate)
vsyncd.add_command(maintain)
vsyncd.add_command(backup)
vsyncd.add_command(check_config)


def run(arguments: Sequence[str]) -> int:
    """Run the command; its exit code. What we know can go wrong is a line on stderr and no traceback."""
    try:
        code = vsyncd.main(list(arguments), prog_name="vsyncd", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return WRONG_USAGE
    except ConfigError as error:
        return _fail(*error.lines)
    except click.ClickException as error:
        return _fail(f"vsyncd: {error.format_message()}")
    except (MigrateError, BackupError) as error:
        return _fail(f"vsyncd: {error}")
    except click.Abort:
        return FAILED
    return code if isinstance(code, int) else DONE


def _fail(*lines: str) -> int:
    for line in lines:
        click.echo(line, err=True)
    return FAILED
