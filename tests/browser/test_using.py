"""The console as it is used: from registering to a paid request and to a plan, by keys alone, and without scripts."""

import re
from typing import TYPE_CHECKING

from tests.browser.visiting import visiting

if TYPE_CHECKING:
    pass


async def test_the_keyboard_is_enough(console, browser):
    base = str(console.client.make_url("/console"))
    async with visiting(browser, console, "owner") as page:
        await page.goto(f"{base}/")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        await page.get_by_role("link", name="Requests", exact=True).focus()
        await page.keyboard.press("?")
        assert await page.get_by_role("dialog").is_visible()
        await page.keyboard.press("Escape")
        assert not await page.get_by_role("dialog").is_visible()
        assert await page.evaluate("document.activeElement.textContent") == "Requests"
        for keys, path in (("gu", "/usage"), ("gk", "/keys"), ("gr", "/requests")):
            for key in keys:
                await page.keyboard.press(key)
            await page.wait_for_url(f"{base}{path}")
        await page.keyboard.press("/")
        assert await page.evaluate("'search' in document.activeElement.dataset")
        await page.keyboard.type("gu")
        assert await page.evaluate("document.activeElement.value") == "gu"
        assert page.url == f"{base}/requests"


async def test_a_key_is_made_and_revoked_and_credit_bought_without_scripts(console, browser):
    base = str(console.client.make_url("/console"))
    async with visiting(browser, console, "owner", java_script_enabled=False) as page:
        await page.goto(f"{base}/keys/new")
        await page.get_by_label("Name", exact=True).fill("laptop")
        await page.get_by_role("button", name="Create key").click()
        assert re.search(r"mg_\w{20}", await page.inner_text("main"))
        await page.get_by_role("link", name="Done: I have saved it").click()
        await page.get_by_role("button", name="Revoke", exact=False).last.click()
        assert "revoked" in await page.inner_text("main")
        await page.goto(f"{base}/credit")
        await page.get_by_role("button", name="Continue to payment").click()
        assert await page.get_by_role("link", name="Pay $20.00").is_visible()
