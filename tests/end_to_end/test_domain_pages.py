"""Runs the commands in docs/<domain>.md against a server with the domain, and compares their output."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from vsyncd.domains.registry import DOMAINS

from scripts.own_server import own_server
from tests.end_to_end.test_readme import Example, examples, normal, run

DOCS = Path(__file__).parents[2] / "docs"
# The examples are shown as if it were the first of these days.
SHOWN_DAYS = ("2026-11-29", "2026-11-30")
# The page on reconciliation shows commands that need a day's data.
PAGES = [name for name in DOMAINS if name != "reconciliation" and (DOCS / f"{name}.md").is_file()]


def of_today(example: Example) -> Example:
    """Returns an example with a range around now in place of the shown days."""
    first, second = (f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" for days in (-1, 2))
    command = example.command[-1].replace(SHOWN_DAYS[0], first).replace(SHOWN_DAYS[1], second)
    return example._replace(command=[*example.command[:-1], command])


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="needs grpcurl")
@pytest.mark.parametrize("domain", PAGES)
async def test_the_page_of_a_domain_shows_the_real_output(domain: str, tmp_path: Path) -> None:
    shown = [of_today(example) for example in examples((DOCS / f"{domain}.md").read_text())]
    assert shown
    async with own_server(DOMAINS=domain) as target:
        for example in shown:
            assert normal(run(example, target, tmp_path)) == normal(example.shown), example.command[-1]
