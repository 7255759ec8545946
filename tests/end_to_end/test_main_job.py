"""`make demo` on real data: it compares the server's answers with the sent data."""

import os
import subprocess
import sys

import pytest

from scripts.demo_screen import Check, Screen
from scripts.sync_day import ROOT

# Coverage is off for child processes, because 100,000 records would take three times as long.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def demonstrate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.demo", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [5_000, 100_000])
def test_a_day_is_correct_although_a_worker_is_killed(count: int) -> None:
    answer = demonstrate("--count", str(count))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"{count:,} records of" in answer.stdout
    assert "kill -9 while it held a claim" in answer.stdout
    assert "✗" not in answer.stdout
    assert "all 21 checks pass" in answer.stdout


def test_an_unreachable_server_causes_one_error_line_and_exit_code_1() -> None:
    answer = demonstrate("--target", "127.0.0.1:1")
    assert answer.returncode == 1
    assert "error: " in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr


def test_a_failed_check_fails_the_demonstration() -> None:
    screen = Screen()
    assert not screen.verdict([], 0), "nothing was checked"
    assert screen.verdict([Check("records", 1, 1)], 0)
    assert not screen.verdict([Check("records", 1, 1), Check("records", 1, 2)], 0)


def test_a_domain_without_a_demonstration_is_wrong_usage() -> None:
    answer = demonstrate("--domain", "server_info")
    assert answer.returncode == 2
    assert "the domain has no demonstration" in answer.stderr


@pytest.mark.soak
@pytest.mark.parametrize("domain", [path.stem for path in (ROOT / "scripts" / "demos").glob("*.py")])
def test_the_demonstration_of_a_domain_passes(domain: str) -> None:
    answer = demonstrate("--domain", domain)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "checks pass" in answer.stdout
