"""Runs the tests: `python scripts/run_tests.py [--coverage] [PYTEST ARGUMENTS]`.

Without pytest's arguments it runs all tests that are not marked `soak`, with two workers per core, because tests wait
for a third of their time. --coverage also measures the coverage of client and server, including child processes, which
doubles the CPU time; less than the limit in pyproject.toml fails.
"""

import os
import sys

# Each worker has PostgreSQL servers of its own.
MAX_WORKERS = 8
COVERAGE = ("--cov=vsync", "--cov=vsyncd", "--cov-branch", "--cov-report=term-missing:skip-covered")


def main(arguments: list[str]) -> None:
    """Replace this process by pytest, which keeps its exit code and its reaction to Ctrl-C."""
    own = [argument for argument in arguments if argument != "--coverage"]
    command = [sys.executable, "-m", "pytest", "-m", "not soak"]
    command += own or ["-n", str(min(MAX_WORKERS, 2 * (os.cpu_count() or 1))), "--dist", "worksteal"]
    command += COVERAGE if len(own) < len(arguments) else ()
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
