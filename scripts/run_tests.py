"""Run the tests: `python scripts/run_tests.py`, or with pytest's arguments to narrow them.

Everything but what is marked `soak`, on all cores, with the coverage of client and server, their child processes
included; less than the percentage in pyproject.toml fails. With arguments of your own coverage is left out.
"""

import os
import sys

COVERAGE = ("--cov=vsync", "--cov=vsyncd", "--cov-branch", "--cov-report=term-missing:skip-covered")


def main(arguments: list[str]) -> None:
    """Become pytest, so that its exit code and its answer to Ctrl-C are ours."""
    workers = max(2, os.cpu_count() or 2)
    command = [sys.executable, "-m", "pytest", "-m", "not soak"]
    command += arguments or ["-n", str(workers), *COVERAGE]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
