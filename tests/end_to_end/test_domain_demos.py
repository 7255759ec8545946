"""Runs the demonstration of each domain, as `make demo ARGS="--domain NAME"` does. It checks its own results."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOMAINS = sorted(path.stem for path in (ROOT / "scripts" / "demos").glob("[a-z]*.py"))


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_check_of_the_demonstration_passes(domain: str) -> None:
    command = [sys.executable, "-m", "scripts.demo", "--domain", domain]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "checks pass" in ran.stdout
