"""Visiting the pages of a console in a browser."""

import os
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from billing.principals import NOBODY
from billing.web.application import ROUTES
from billing.web.pages import Page as Declared
from billing.web.pages import Who
from tests.billing.web.support import Console
from tests.browser.conftest import watched
from tests.browser.looking import findings, ill_on_phones, too_wide

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page
# Pages that no page links to, and where they are.
BY_HAND = {
    "/enter/{secret}": "a command prints its link: test_journeys opens it",
    "/sign-in/with/{provider}": "it leads to a provider's own pages",
    "/operator/picks": "a field's suggestions, no page: test_finding types into one",
    "/invitations/{token}": "a mail has its link: test_answers opens it",
    "/credit/orders/newest": "payers are sent back there: it leads on",
}
# Where pages are that are linked to only where a choice would change something.
KNOWN = {"/plan/{plan_id}": "/plan/starter"}
DESKTOP = {"width": 1200, "height": 860}
# CSS pixels from the top that a screenshot shows at most.
MOST_SHOWN = 1500
LINKS = "[...document.links].map(each => each.getAttribute('href') && each.href)"


@dataclass
class Walk:
    """What one visitor finds on the pages: what is wrong by address, and where links lead."""

    console: Console
    who: str
    wrong: dict[str, list[str]] = field(default_factory=dict)
    linked: set[str] = field(default_factory=set)
    heard: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return str(self.console.client.make_url("/console"))

    async def pages(self) -> list[Declared]:
        """The pages that the visitor may see."""
        cookie = await self.console.cookie(self.who)
        caller = NOBODY if cookie is None else await self.console.services.browsers.caller(cookie, used=True)
        assert caller is not None
        return [each for each in ROUTES if each.method == "GET" and self._wanted(each) and each.admits(caller)]

    def _wanted(self, page: Declared) -> bool:
        return page.path not in BY_HAND and (self.who == "nobody") == (page.who is Who.anyone)

    async def look(self, page: "Page", path: str) -> None:
        """Open one page, and look at it with all that there is to look with."""
        await as_on_desktops(page)
        answer = await page.goto(f"{self.base}{path}")
        if not answer.ok:
            self.wrong[path] = [f"HTTP {answer.status}"]
        await self.judge(page, path, thorough=self.who in THOROUGH, shot=name_of(self.who, path))

    async def judge(self, page: "Page", what: str, *, thorough: bool, shot: str = "") -> None:
        """Look at a page as it stands. A `thorough` look is one in dark and on phones, too; and is kept as `shot`."""
        wrong = await findings(page)
        self.linked |= {
            urlsplit(each).path.removeprefix("/console")
            for each in await page.evaluate(LINKS)
            if each.startswith(f"{self.base}/")
        }
        if thorough:
            wrong += await too_wide(page)
            await shoot(page, shot, "light")
            await page.emulate_media(color_scheme="dark")
            wrong += [f"dark: {each}" for each in await findings(page, colours=True)]
            await shoot(page, shot, "dark")
            wrong += await ill_on_phones(page)
        self.note(what, wrong)

    async def glance(self, page: "Page", what: str) -> None:
        """Look at a page as it stands but once: in dark, on a phone."""
        await page.emulate_media(color_scheme="dark")
        wrong = await ill_on_phones(page)
        self.note(what, wrong + await findings(page))

    def note(self, what: str, wrong: list[str]) -> None:
        """Record faults of a page, and messages on the browser's console."""
        wrong = wrong + self.heard
        self.heard.clear()
        if wrong:
            self.wrong.setdefault(what, []).extend(wrong)


async def as_on_desktops(page: "Page") -> None:
    """Begin a look: what comes after it changes the width and the colours."""
    await page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    await page.emulate_media(color_scheme="light")


@asynccontextmanager
async def visiting(browser: "Browser", console: Console, who: str, **options: Any) -> AsyncIterator["Page"]:
    """A page of somebody who has signed in."""
    base, cookie = str(console.client.make_url("/")), await console.cookie(who)
    async with watched(browser, base, **options) as page:
        if cookie is not None:
            name = console.services.browsers.rules.cookie
            await page.context.add_cookies([{"name": name, "value": cookie, "url": base}])
        yield page


def address(page: Declared, linked: set[str]) -> str | None:
    """Where a page is: one with an id is found by a link to it."""
    if "{" not in page.path or page.path in KNOWN:
        return KNOWN.get(page.path, page.path)
    pattern, fixed = re.compile(re.sub(r"\{\w+\}", "[^/]+", page.path)), {each.path for each in ROUTES}
    return next((each for each in sorted(linked - fixed) if pattern.fullmatch(each)), None)


def by_need(pages: Iterable[Declared]) -> list[Declared]:
    """Pages in an order in which those with ids come after those that link to them."""
    return sorted(pages, key=lambda each: (each.path.count("{"), each.path.count("/")))


# Who sees the most: their pages are looked at in dark, and on phones. What others see are parts of these.
THOROUGH = ("owner", "operator", "nobody")
SHOTS = Path(__file__).parents[2] / "docs" / "console"


def name_of(who: str, path: str) -> str:
    """The name of a page's screenshot; none where another visitor's page is kept."""
    if (who == "operator") != path.startswith("/operator"):
        return ""
    parts = [part for part in path.split("/") if part]
    return "-".join("one" if re.search(r"\d{4}|[A-Z0-9]{8}", part) else part for part in parts) or "overview"


async def shoot(page: "Page", name: str, scheme: str) -> None:
    """Keep what a page looks like, where that is asked for."""
    if os.environ.get("METERGATE_SCREENSHOTS") != "1" or not name:
        return
    height = min(MOST_SHOWN, int(await page.evaluate("document.documentElement.scrollHeight")))
    clip: Any = {"x": 0, "y": 0, "width": DESKTOP["width"], "height": height}
    await page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    SHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SHOTS / f"{name}.{scheme}.png", full_page=True, clip=clip)
