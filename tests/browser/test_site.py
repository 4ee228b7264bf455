"""The documentation in a browser: every page at each width, in both colours; its search, and an endpoint that is
tried."""

import re

import pytest

from gateway.endpoints.site import site
from tests.browser.conftest import watched
from tests.browser.looking import axe, findings, ill_on_phones, said, too_wide
from tests.browser.test_journeys import make_key, register


async def test_every_page_of_the_documentation_is_sound(served, browser):
    wrong = {}
    names = ("", "/why", "/limits", "/clients", "/configuration", "/console", "/reference", "/reference/account")
    assert {name.removeprefix("/") for name in names[1:-2]} <= site().pages.keys()
    async with watched(browser, served.url) as page:
        await page.add_init_script(axe())
        for at, name in enumerate(names):
            await page.emulate_media(color_scheme="dark" if at % 2 else "light")
            await page.set_viewport_size({"width": 1280, "height": 860})
            await page.goto(f"{served.url}/docs{name}")
            found = await findings(page) + await too_wide(page) + await ill_on_phones(page)
            if found:
                wrong[name] = found
    assert wrong == {}, said(wrong)


@pytest.mark.parametrize("scripts", [True, False])
async def test_the_documentation_is_searched(served, browser, scripts):
    async with watched(browser, served.url, java_script_enabled=scripts) as page:
        await page.goto(f"{served.url}/docs")
        await page.get_by_role("searchbox").fill("capacity_held")
        if not scripts:
            await page.keyboard.press("Enter")
        await page.locator(".results a").first.wait_for()
        await page.locator(".results a").first.click()
        await page.wait_for_url(re.compile(re.escape(served.url) + "/docs/[^#]*#."))


async def test_an_endpoint_is_tried_on_its_page(served, browser):
    async with watched(browser, served.url) as page:
        await register(page, served, "tries@example.com")
        key = await make_key(page, served, "tries")
        await page.goto(f"{served.url}/docs/reference/account")
        await page.get_by_label("API key or access token").fill(key)
        tried = page.locator(".endpoint").filter(has_text="/api/account/balance").first
        await tried.get_by_text("Try it").click()
        await tried.get_by_role("button", name="Send").click()
        await tried.get_by_text("200 OK").wait_for()
        assert "available_usd" in await tried.locator("output").inner_text()
        kept = await page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
        assert key not in kept
