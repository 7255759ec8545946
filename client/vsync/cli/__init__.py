"""The `vsync` command. Imports only the standard library: the base install lacks click and rich."""

import os
import sys
from importlib.util import find_spec


def main() -> int:
    """Runs the command.

    Returns its exit code: 0 done, 1 failed, 2 wrong usage, 128 + n after signal n, 141 if the reader of standard output
    closed it.
    """
    if find_spec("click") is None or find_spec("rich") is None:
        sys.stderr.write("vsync: the command is not installed: pip install 'vsyncd[cli]'\n")
        return 1
    # gRPC's own log lines would break the progress bar.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # click may be missing, and gRPC reads its verbosity when it is imported.
    from vsync.cli.app import run  # noqa: PLC0415 - see above
    from vsync.cli.standard_streams import run_process  # noqa: PLC0415 - see above

    return run_process(lambda: run(own_process=True), prefix="error: ")
