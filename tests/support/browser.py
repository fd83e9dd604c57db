"""Debian's Chromium, driven by Playwright; what people would trip over is collected while it runs."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright

from tests.support.private_servers import find_program
from tests.support.programs import Program, program_or_skip

SCREENSHOTS = Path(__file__).parents[2] / "var" / "screenshots"
"""Where they are kept; git is told to leave it alone."""
DESK, PHONE = (1100, 900), (390, 844)
TIMEOUT_MS = 30_000
_GRAVE = frozenset({"serious", "critical"})


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium: none is ever downloaded."""
    return program_or_skip(Program.CHROMIUM, is_ci=bool(os.environ.get("CI")), find=_find)


def _find(name: str) -> str | None:
    """Chrome will do where there is no Chromium, as on GitHub's machines."""
    return find_program(name) or find_program("google-chrome")


@asynccontextmanager
async def launched(chromium: str) -> AsyncIterator[Browser]:
    """The browser between its start and its end."""
    # its sandbox does not start for root, as whom the tests may run
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """A Streamlit page as somebody sees it; ``errors``: what the browser's console said was wrong."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._note(str(error)))

    def _note(self, error: str) -> None:
        # Chromium breaks off what it loads when an interface of the machine comes or goes, as those of containers do.
        if "ERR_NETWORK_CHANGED" not in error:
            self.errors.append(error)

    async def settled(self) -> None:
        """Return once the script has run to its end and nothing that it drew is grey any more."""
        await self.page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        await self.page.wait_for_selector("h1")
        await self.page.wait_for_function("document.querySelectorAll('[data-stale=\"true\"]').length === 0")

    async def follow(self, name: str, title: str) -> None:
        """Go to another page as people do, and see that it is the one of that title."""
        await self.page.get_by_test_id("stPageLink").get_by_role("link", name=name).click()
        await self.page.get_by_role("heading", name=title, level=1, exact=True).wait_for()
        await self.settled()

    async def keep(self, name: str) -> Path:
        """A screenshot of the whole page, as tall as it is."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        size = self.page.viewport_size or {"width": DESK[0], "height": DESK[1]}
        tall = await self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        await self.page.set_viewport_size({"width": size["width"], "height": max(size["height"], tall + 20)})
        path = SCREENSHOTS / f"{name}.png"
        await self.page.screenshot(path=path)
        await self.page.set_viewport_size(size)
        return path

    async def overhang(self) -> int:
        """Pixels by which the page is wider than the screen."""
        widths = "[document.documentElement, document.querySelector('[data-testid=stMain]')]"
        found: int = await self.page.evaluate(f"Math.max(...{widths}.map(e => e.scrollWidth - e.clientWidth))")
        return found

    async def barriers(self) -> list[str]:
        """Serious and critical findings of axe, each with where it is."""
        found: dict[str, Any] = (await Axe().run(self.page)).response
        return [
            f"{each['impact']}: {each['id']}: {[node['target'] for node in each['nodes']][:3]}"
            for each in found["violations"]
            if each["impact"] in _GRAVE
        ]


@asynccontextmanager
async def visit(browser: Browser, url: str, size: tuple[int, int]) -> AsyncIterator[Visit]:
    """A visit to ``url`` in a browser of its own memory."""
    context = await browser.new_context(viewport={"width": size[0], "height": size[1]})
    try:
        visited = Visit(await context.new_page())
        await visited.page.goto(url)
        await visited.settled()
        yield visited
    finally:
        await context.close()
