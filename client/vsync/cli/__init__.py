"""The `vsync` command. Imports nothing that the base install lacks before it knows that it is there."""

import os
import sys
from importlib.util import find_spec


def main() -> int:
    """Runs the command; gives its exit code: 0 done, 1 failed, 2 wrong usage, 128 + n ended by a signal n, 141 the
    reader of the records is gone."""
    if find_spec("click") is None or find_spec("rich") is None:
        sys.stderr.write("The vsync command needs more than the library: pip install 'vsyncd[cli]'\n")
        return 1
    # gRPC's own log lines would go through the progress bar.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported after the check above, and after gRPC's log was silenced.
    from vsync.cli.app import run  # noqa: PLC0415 - see above
    from vsync.cli.streams import run_process  # noqa: PLC0415 - see above

    return run_process(lambda: run(own_process=True), prefix="error: ")
