"""The console from its first page on, at a gateway that `metergate up` has started: as a customer with scripts and
without them, and as the operator who comes by a link."""

import json
import re
import time
from typing import TYPE_CHECKING

from billing.identity.codes import TOTP_STEP_S, totp_code
from tests.browser.conftest import Served, watched

if TYPE_CHECKING:
    from playwright.async_api import Page

PASSWORD = "four words nobody knows"
# What Chromium says of every page that refuses something.
REFUSED = "Failed to load resource: the server responded with a status of "


async def register(page: "Page", served: Served, email: str) -> None:
    """From the gateway's first page to the overview of an organization of one's own."""
    await page.goto(served.url)
    await page.get_by_role("link", name="Register").click()
    await page.get_by_label("Name").fill("Ada")
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Register").click()
    await page.get_by_label("Code").fill(await served.mailed(email))
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_role("heading", name="Overview").wait_for()


async def sign_in(page: "Page", served: Served, email: str, factor: str = "") -> None:
    """By a password, and a second factor."""
    await page.goto(f"{served.console}/sign-in")
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_label("authenticator").fill(factor)
    await page.get_by_role("button", name="Sign in").click()


async def make_key(page: "Page", served: Served, name: str) -> str:
    """Create a key on its page; its secret, as the page shows it."""
    await page.goto(f"{served.console}/keys/new")
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_role("button", name="Create key").click()
    return await page.locator(".copyable code").first.inner_text()


async def pay(page: "Page", amount: str) -> None:
    """From the page of an order to the provider's, and back."""
    await page.get_by_role("link", name=f"Pay ${amount}").click()
    await page.get_by_role("button", name=f"Pay {amount}").click()
    await page.get_by_role("link", name="Go back").click()


async def test_from_registering_to_a_paid_request_a_plan_and_a_key_that_is_revoked(served, browser):
    email = "ada@example.com"
    clipboard = ["clipboard-read", "clipboard-write"]
    async with watched(browser, served.url, permissions=clipboard) as page:
        await register(page, served, email)
        await page.get_by_role("button", name="Sign out").click()
        await sign_in(page, served, email)
        await page.get_by_role("link", name="Create your first key").click()
        key = await make_key(page, served, "laptop")
        await page.get_by_role("button", name="Copy the secret").click()
        await page.get_by_text("Copied").wait_for()
        assert await page.evaluate("navigator.clipboard.readText()") == key
        assert key in await page.get_by_text("curl http").inner_text()
        await page.get_by_role("link", name="Done: I have saved it").click()
        assert key not in await page.content()

        status, refused = await served.ask(key)
        assert (status, refused["error"]["code"]) == (402, "billing_required")
        await page.goto(refused["error"]["billing"]["setup_url"])
        await page.get_by_role("button", name="Continue to payment").click()
        await pay(page, "20.00")
        await page.get_by_text("It is paid and credited").wait_for()
        await page.goto(f"{served.console}/")
        await page.get_by_text("No requests yet").wait_for()
        await served.answers(key)
        await page.get_by_role("cell", name="laptop").wait_for()  # by itself
        await page.goto(f"{served.console}/requests")
        assert await page.get_by_role("cell", name="laptop").count() == 1
        await served.answers(key)
        await page.get_by_role("cell", name="laptop").nth(1).wait_for()
        await page.get_by_role("cell", name="laptop").first.locator("..").get_by_role("link").click()
        await page.get_by_text("How the charge was calculated").wait_for()
        await page.goto(f"{served.console}/usage")
        assert await page.get_by_role("row", name=re.compile("demo 2 ")).count() == 1

        await page.goto(f"{served.console}/plan")
        await page.get_by_role("link", name="Choose Starter").click()
        await page.get_by_role("button", name="Continue to payment").click()
        await pay(page, "99.00")
        await page.goto(f"{served.console}/plan")
        await page.get_by_role("heading", name="Plan: Starter").wait_for()
        page.on("dialog", lambda asked: asked.accept())
        await page.goto(f"{served.console}/keys")
        await page.get_by_role("link", name="laptop").click()
        await page.get_by_role("button", name="Revoke this key").click()
        await page.get_by_text("The key is revoked").wait_for()
        await served.answers(key, 401)


async def test_signing_in_paying_and_revoking_need_no_scripts(served, browser):
    email, complaints = "bob@example.com", list[str]()
    async with watched(browser, served.url, complaints, java_script_enabled=False) as page:
        await register(page, served, email)
        await page.goto(f"{served.console}/security")
        await page.locator("form", has_text="Add an app").get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Add an app").click()
        secret, step = await page.locator(".copyable code").first.inner_text(), int(time.time()) // TOTP_STEP_S
        await page.get_by_label("The code").fill(totp_code(secret, step))
        await page.get_by_role("button", name="Confirm").click()
        recovery = (await page.locator(".copyable code").inner_text()).split()
        await page.get_by_role("button", name="Sign out").click()

        await sign_in(page, served, email)
        assert "authenticator" in await page.get_by_role("alert").inner_text()
        await sign_in(page, served, email, totp_code(secret, step + 1))
        await page.get_by_role("heading", name="Overview").wait_for()
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_role("link", name="Send me a code by mail").click()
        await page.get_by_label("E-mail").fill(email)
        await page.get_by_role("button", name="Send me a code").click()
        await page.get_by_label("Code", exact=True).fill(await served.mailed(email, before=1))
        await page.get_by_label("authenticator").fill(recovery[0])
        await page.get_by_role("button", name="Continue").click()
        await page.get_by_role("heading", name="Overview").wait_for()

        key = await make_key(page, served, "server")
        await page.goto(f"{served.console}/credit")
        await page.get_by_role("button", name="Continue to payment").click()
        await pay(page, "20.00")
        await served.answers(key)
        await page.goto(f"{served.console}/keys")
        await page.get_by_role("link", name="server").click()
        await page.get_by_role("button", name="Revoke this key").click()
        assert "The key is revoked" in await page.inner_text("main")
        await served.answers(key, 401)
        assert all(REFUSED in each for each in complaints), complaints
        complaints.clear()


async def test_an_operator_s_link_is_good_once_and_says_so(served, browser):
    # Where its output is read by a program, `up` shows no link.
    assert re.search(r"/enter/", "\n".join(served.running.lines)) is None
    made = [served.shell.run("operator", "login-link", "--json") for _ in range(2)]
    for link in (json.loads(each.stdout)["url"] for each in made):
        complaints = []
        async with (
            watched(browser, served.url) as page,
            watched(browser, served.url, complaints, java_script_enabled=False) as late,
        ):
            await late.goto(link)  # which uses nothing up
            await page.goto(link)
            await page.get_by_role("button", name="Sign in").click()
            await page.get_by_role("heading", name="Home").wait_for()
            assert page.url == f"{served.console}/operator"
            await late.get_by_role("button", name="Sign in").click()
            assert "`metergate operator login-link` makes another" in await late.inner_text("main")
            await late.goto(link)
            assert "`metergate operator login-link` makes another" in await late.inner_text("main")
            assert await late.context.cookies() == []
            assert len(complaints) == 2, complaints
            assert all(REFUSED in each for each in complaints), complaints
            complaints.clear()
