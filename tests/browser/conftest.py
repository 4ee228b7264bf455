"""A page of Debian's Chromium. What it says on its console, and what it asks of any other host, fails the test."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

from tests.billing.conftest import billing
from tests.billing.web.conftest import bare_services, console, payments, people, registry, services

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

__all__ = ["bare_services", "billing", "console", "payments", "people", "registry", "services"]

WANTED: Final = "METERGATE_TEST_BROWSER"
CHROMIUM: Final = shutil.which("chromium")
FLAGS: Final = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
)


def why_not() -> str | None:
    """Return why there is no browser to test with; None: there is."""
    if os.environ.get(WANTED) != "1":
        return "make test-browser runs it"
    return None if CHROMIUM else "there is no chromium here: apt-get install chromium"


@pytest.fixture(autouse=True)
def _browser_is_here() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
async def browser() -> AsyncIterator["Browser"]:
    from playwright.async_api import async_playwright  # noqa: PLC0415 - an extra that make test-browser alone installs

    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def watched(
    browser: "Browser", url: str, complaints: list[str] | None = None, **options: Any
) -> AsyncIterator["Page"]:
    """A new page of a visitor nobody knows; `options` are those of its context. Whoever gives `complaints` looks at
    them, and takes out what is known."""
    complaints = [] if complaints is None else complaints
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.on("console", lambda message: complaints.append(f"console: {message.text} {message.location['url']}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    host = urlsplit(url).netloc
    page.on("request", lambda asked: None if urlsplit(asked.url).netloc == host else complaints.append(asked.url))
    try:
        yield page
        assert complaints == [], "\n".join(complaints)
    finally:
        await context.close()
