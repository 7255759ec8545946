"""The `vsync` command, put together."""

import sys

import click

from vsync.cli.console import print_error
from vsync.cli.diffing import diff_command
from vsync.cli.exporting import export_command
from vsync.cli.get import get_command
from vsync.cli.health import health_command
from vsync.cli.importing import import_command
from vsync.cli.options import FAILED
from vsync.cli.sampling import sample_command
from vsync.cli.signals import end_by_signals
from vsync.cli.vsyncs import vsync_command
from vsync.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vsync")
def cli() -> None:
    """Works with a vsyncd server: its health, and its records in files.

    \b
    vsync health
    vsync sample --count 1000 --out sample.ndjson
    vsync import sample.ndjson
    vsync export cids.csv.gz --ispb 10203040
    vsync get --key +5511987654321 --ispb 10203040
    vsync vsync --ispb 10203040
    vsync diff cid-set.txt --ispb 10203040 --key-type PHONE
    """


for command in (
    health_command,
    get_command,
    import_command,
    export_command,
    vsync_command,
    diff_command,
    sample_command,
):
    cli.add_command(command)


def run(*, own_process: bool = False) -> int:
    """Runs the command line; gives the exit code.

    `own_process`: the process is there for it alone. SIGTERM and SIGHUP end it as Ctrl-C does, with SystemExit.
    """
    if own_process:
        end_by_signals()
    try:
        # Without standalone mode click gives back what the command returns: its exit code.
        return int(cli.main(prog_name="vsync", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (OSError, UnicodeEncodeError) as error:
        print_error(error, as_json=False)
        return FAILED
    except click.Abort:
        sys.stderr.write("\ninterrupted\n")
        return FAILED
