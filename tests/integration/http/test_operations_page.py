"""The operations page: its files, and the page itself in headless Chromium.

The tests in Chromium need the packages of requirements-browser.lock. `make test` installs them if it finds Chromium,
and `make soak` always.
"""

import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest
from vsync.v1 import status_pb2 as pb
from vsyncd.app import Application
from vsyncd.config.endpoints import HostPort
from vsyncd.http.operations import OperationsPage
from vsyncd.http.server import HttpServer

from tests.harness.http import get
from tests.harness.statuses import STATES, status_in

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A page of a busy machine may take long.
TIMEOUT_MS = 120_000
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
# A phone, a laptop and a large screen.
SIZES = ((390, 844, "light"), (390, 844, "dark"), (1280, 800, "dark"), (1920, 1080, "light"))

WITH_BROWSER = CHROMIUM is not None and find_spec("playwright") is not None


async def test_the_page_is_served_with_a_strict_policy(application: Application) -> None:
    for path, kind in (("/", "text/html"), ("/operations.js", "text/javascript"), ("/operations.css", "text/css")):
        answer = await get(application.http.admin_port, path)
        assert (answer.status, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        text = answer.body.decode()
        assert not [word for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in text]
        # Only the namespace of SVG is an address.
        assert text.replace("http://www.w3.org/2000/svg", "").count("://") == 0
    status = await get(application.http.admin_port, "/status")
    assert {"health", "calls", "batches", "vsyncs", "findings"} <= status.json.keys()


@dataclass
class Site:
    """The page of a server whose status the test sets. Every text of the console and every error is collected."""

    page: Any = None
    url: str = ""
    status: pb.ServerStatus = field(default_factory=pb.ServerStatus)
    available: bool = True
    complaints: list[str] = field(default_factory=list)

    async def answer(self) -> pb.ServerStatus:
        if not self.available:
            raise RuntimeError("the status is not available")
        return self.status

    async def open(self, status: pb.ServerStatus, *, width: int, height: int, scheme: str) -> None:
        """Loads the page, and waits until it shows the status."""
        self.status = status
        await self.page.set_viewport_size({"width": width, "height": height})
        await self.page.emulate_media(color_scheme=scheme)
        await self.page.goto(self.url)
        # Not by a function: the page's policy forbids eval, which playwright needs for that.
        await self.page.locator("#state", has_text=re.compile("[Hh]ealthy|Degraded")).wait_for()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A page in headless Chromium."""
    from playwright.async_api import async_playwright  # an optional package

    site = Site()
    server = HttpServer(OperationsPage(site.answer).routes)
    site.url = f"http://127.0.0.1:{await server.start(HostPort('127.0.0.1', 0))}/"
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=TIMEOUT_MS
            )
            site.page = await browser.new_page()
            site.page.set_default_timeout(TIMEOUT_MS)
            site.page.on("console", lambda message: site.complaints.append(message.text))
            site.page.on("pageerror", lambda error: site.complaints.append(str(error)))
            yield site
            await browser.close()
    finally:
        await server.stop()


async def violations(page: Any) -> list[str]:
    """Returns what axe complains about."""
    from axe_playwright_python.async_playwright import Axe  # an optional package

    results = await Axe().run(page, options=RULES)
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in results.response["violations"]]


async def overflow(page: Any) -> int:
    """Returns by how many pixels the page is wider than the screen."""
    pixels: int = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return pixels


@pytest.mark.skipif(not WITH_BROWSER, reason="needs Chromium")
@pytest.mark.timeout(600)
async def test_the_page_shows_the_state_and_is_accessible(site: Site) -> None:
    status = status_in("degraded")
    await site.open(status, width=390, height=844, scheme="dark")
    assert await violations(site.page) == []
    assert await overflow(site.page) <= 0
    text = await site.page.inner_text("main")
    assert all(finding.message in text for finding in status.findings)
    # Text of the server is not parsed as HTML.
    assert status.failures[0].reason in text
    assert await site.page.title() == "! Degraded · vsyncd"
    # While the server does not answer, the last status remains, and a button tries again.
    site.available = False
    await site.page.wait_for_selector("#connection:not([hidden])")
    site.available = True
    site.status = status_in("healthy")
    await site.page.click("#retry")
    await site.page.locator("#state", has_text="Healthy").wait_for()
    assert await site.page.is_hidden("#connection")
    assert [each for each in site.complaints if "500" not in each] == []


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("state", STATES)
async def test_every_state_is_accessible_on_every_screen(site: Site, state: str) -> None:
    status = status_in(state)
    for width, height, scheme in SIZES:
        await site.open(status, width=width, height=height, scheme=scheme)
        assert await violations(site.page) == []
        assert await overflow(site.page) <= 0
    assert site.complaints == []


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_the_page_is_used_by_keyboard(site: Site) -> None:
    await site.open(status_in("200 participants"), width=1280, height=800, scheme="light")
    await site.page.keyboard.press("Tab")
    await site.page.keyboard.press("Enter")
    assert await site.page.evaluate("document.activeElement.id") == "main"
    await site.page.focus("#vsync-filter")
    await site.page.keyboard.type("20000097")
    rows = site.page.locator("#vsync-list tbody tr")
    assert await rows.count() == 1
    await site.page.fill("#vsync-filter", "")
    assert await rows.count() == 25
    await site.page.focus("#vsync-list-more")
    await site.page.keyboard.press("Enter")
    assert await rows.count() == 200
    assert await site.page.evaluate("document.activeElement.id") == "vsync-list-more"
    assert site.complaints == []
