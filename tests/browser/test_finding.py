"""Finding things by what they are called, by keys alone."""

from typing import TYPE_CHECKING

from tests.browser.looking import axe, findings
from tests.browser.visiting import visiting

if TYPE_CHECKING:
    pass


async def test_ctrl_k_finds_and_a_filter_suggests_names(console, browser):
    await console.billing.keys.create(console.organization.account_id, "laptop")
    async with visiting(browser, console, "operator") as page:
        await page.add_init_script(axe())
        await page.goto(f"{console.client.make_url('/console')}/operator/keys")
        await page.keyboard.press("Control+k")
        await page.keyboard.type("lap")
        await page.wait_for_selector("#find-found a")
        assert await findings(page) == []
        await page.keyboard.press("Escape")
        await page.focus("#q-account_id")
        await page.keyboard.type("acm")
        await page.wait_for_selector("#l-account_id option[value=Acme]", state="attached")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/operator/keys?account_id=acm*")
        assert await page.input_value("#q-account_id") == "Acme"
        await page.keyboard.press("Control+k")
        await page.keyboard.type("acme")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/operator/search?q=acme")
        await page.click("#found a")
        await page.wait_for_url("**/operator/accounts/acc_*")
