"""The vsyncd command. Imports only the standard library: the base install lacks the server's dependencies."""

import importlib.util
import sys

_NEEDED = (
    "click",
    "cronsim",
    "psycopg",
    "psycopg_pool",
    "pydantic_settings",
    "structlog",
    "grpc_health",
    "grpc_reflection",
    "yaml",
)


def main() -> None:
    """Runs the command and exits: 0 done, 1 failed, 2 wrong usage."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.exit("vsyncd: the server is not installed: pip install 'vsyncd[server]'")
    # Their dependencies may not be installed.
    from vsync.cli.standard_streams import run_process  # noqa: PLC0415 - see above

    from vsyncd.cli.command import run  # noqa: PLC0415 - see above

    sys.exit(run_process(lambda: run(sys.argv[1:], own_process=True), prefix="vsyncd: "))
