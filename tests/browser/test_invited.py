"""Two flows that begin outside of the console: a mail's invitation, before anybody has signed in, and a refusal of the
gateway, from which one pays and comes back."""

import re
from typing import TYPE_CHECKING

from tests.browser.conftest import Served, watched
from tests.browser.looking import axe, findings, ill_on_phones
from tests.browser.test_journeys import PASSWORD, make_key, pay, register
from tests.support.gateways import until

if TYPE_CHECKING:
    from playwright.async_api import Page

PHONE = {"width": 390, "height": 844}


async def invited(served: Served, address: str) -> str:
    """The link of the mail that invites an address."""

    def links() -> list[str]:
        mails = served.running.stderr.split(f"A mail to {address}: ")[1:]
        return [found[0] for mail in mails if (found := re.search(r"http\S+/invitations/\S+", mail))]

    await until(lambda: bool(links()))
    return links()[-1]


async def sound(page: "Page") -> None:
    """Nothing of a page is wrong, on a phone either."""
    assert await findings(page) == []
    assert await ill_on_phones(page) == []


async def test_an_invitation_leads_through_registering_to_its_organization(served, browser):
    owner, guest = "olga@example.com", "guest@example.com"
    async with watched(browser, served.url) as page:
        await page.add_init_script(axe())
        await register(page, served, owner)
        await page.goto(f"{served.console}/plan/starter")  # the free plan has one member
        await page.get_by_role("button", name="Continue to payment").click()
        await pay(page, "99.00")
        await page.get_by_text("the plan is yours").wait_for()
        await page.goto(f"{served.console}/members")
        await page.get_by_label("Invite by e-mail").fill(guest)
        await page.get_by_label("As", exact=True).select_option("member")
        await page.get_by_role("button", name="Send the invitation").click()
        await page.get_by_text("on its way by mail").wait_for()
    async with watched(browser, served.url, viewport=PHONE) as page:
        await page.add_init_script(axe())
        await page.goto(await invited(served, guest))
        assert f"Ada invites {guest} to Ada, as member." in await page.inner_text("main")
        await sound(page)
        await page.get_by_role("link", name="Register").click()
        assert await page.get_by_label("E-mail").input_value() == guest
        await sound(page)
        await page.get_by_label("Name").fill("Gus")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Register").click()
        await page.get_by_label("Code").fill(await served.mailed(guest))
        await page.get_by_role("button", name="Continue").click()
        await page.get_by_role("button", name="Join Ada").click()
        await page.get_by_text("these are its pages").wait_for()
        await page.goto(f"{served.console}/members")
        await page.get_by_role("heading", name="Members of Ada").wait_for()
        await sound(page)


async def test_from_a_refusal_to_payment_and_back_on_a_phone(served, browser):
    async with watched(browser, served.url, viewport=PHONE) as page:
        await page.add_init_script(axe())
        await register(page, served, "ray@example.com")
        await page.get_by_role("heading", name="Getting started").wait_for()
        await sound(page)
        key = await make_key(page, served, "phone")
        await served.answers(key, 402)
        link = page.get_by_role("link", name="Buy credit")

        async def is_listed() -> bool:  # refusals are written once a second
            await page.goto(f"{served.console}/requests/refused")
            return await link.count() > 0

        await until(is_listed)
        await page.get_by_role("link", name="Buy credit").first.click()
        await page.get_by_role("button", name="Continue to payment").click()
        await pay(page, "20.00")
        await page.get_by_text("requests are served again").wait_for()
        await sound(page)
        await page.get_by_role("link", name="Back to where you were").click()
        await page.get_by_role("heading", name="Refused requests").wait_for()
        await served.answers(key)
        await page.goto(f"{served.console}/credit/invoices")
        await page.get_by_text("What was paid").wait_for()
        await sound(page)
        await page.goto(f"{served.console}/credit/transactions")
        assert await page.get_by_role("link", name="purchase", exact=True).count() == 1
        await page.goto(f"{served.console}/")
        assert await page.get_by_role("heading", name="Getting started").count() == 0


async def test_an_authenticator_is_shown_as_a_picture(served, browser):
    async with watched(browser, served.url, viewport=PHONE) as page:
        await page.add_init_script(axe())
        await register(page, served, "quin@example.com")
        await page.goto(f"{served.console}/security")
        await page.locator("form", has_text="Add an app").get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Add an app").click()
        box = await page.locator("svg.qr").bounding_box()
        assert box is not None
        assert 150 <= box["width"] <= 390
        assert abs(box["width"] - box["height"]) < 2
        await sound(page)
