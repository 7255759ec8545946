"""Runs the tests: `python scripts/run_tests.py [PYTEST ARGUMENTS]`.

Without arguments it runs all tests that are not marked `soak`, on all cores, with the coverage of client and server,
including child processes. Coverage below the limit in pyproject.toml fails. With arguments coverage is not measured.
"""

import os
import sys

COVERAGE = ("--cov=vsync", "--cov=vsyncd", "--cov-branch", "--cov-report=term-missing:skip-covered")


def main(arguments: list[str]) -> None:
    """Replace this process by pytest, which keeps its exit code and its reaction to Ctrl-C."""
    workers = max(2, os.cpu_count() or 2)
    command = [sys.executable, "-m", "pytest", "-m", "not soak"]
    command += arguments or ["-n", str(workers), *COVERAGE]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
