"""Runs the commands of the page of each domain in order against a real server and compares their output."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from vsyncd.domains.registry import DOMAINS

from scripts.own_server import own_server
from tests.harness.documented_commands import Example, examples, normal, run

DOCS = Path(__file__).parents[2] / "docs"
# The examples are shown as if it were the first of these days.
_DAYS = ("2026-11-29", "2026-11-30")
_PAGES = {name: (DOCS / f"{name}.md").read_text() for name in DOMAINS if (DOCS / f"{name}.md").exists()}


def of_today(example: Example) -> Example:
    """Returns an example with the time around now in place of the shown days."""
    first, second = (f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" for days in (-1, 2))
    command = example.command[-1].replace(_DAYS[0], first).replace(_DAYS[1], second)
    return example._replace(command=[*example.command[:-1], command])


@pytest.mark.parametrize("domain", [name for name, page in _PAGES.items() if "console\n$ grpcurl" in page])
async def test_the_page_shows_the_real_output(domain: str, tmp_path: Path) -> None:
    runnable = [of_today(example) for example in examples(_PAGES[domain]) if example.can_run]
    async with own_server(DOMAINS=domain) as target:
        for example in runnable:
            assert normal(run(example, target, tmp_path)) == normal(example.shown), example.command[-1]
