"""From a refused request to a page where somebody pays, and back: credit, and a plan, in a real browser."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.browser.conftest import DAY_REQUESTS, Served, watched

if TYPE_CHECKING:
    pass


@dataclass
class Payer:
    """Whoever has a key without credit, at a running gateway."""

    served: Served
    key: str

    def run(self, *arguments: str) -> str:
        env = {"METERGATE_API_URL": self.served.url, "METERGATE_API_TOKEN": self.key}
        result = self.served.shell.run(*arguments, env=env)
        assert result.code == 0, result
        return result.stdout


@pytest.fixture
def payer(served: Served) -> Payer:
    account = served.shell.run("operator", "account", "create", "Poor", "--json").json
    scopes = [word for each in ("llm:proxy", "billing:read", "billing:setup") for word in ("--scope", each)]
    made = served.shell.run("operator", "key", "create", account["id"], "laptop", *scopes, "--json").json
    return Payer(served, made["key"])


async def test_who_is_refused_pays_on_a_page_and_is_served(payer, browser):
    status, refused = await payer.served.ask(payer.key)
    assert (status, refused["error"]["code"]) == (402, "billing_required")
    billing = refused["error"]["billing"]
    assert billing["next"] == "metergate billing setup"
    async with watched(browser, payer.served.url) as page:
        await page.goto(billing["setup_url"])
        await page.get_by_role("heading", name="Sign in").wait_for()  # of somebody with a key alone
        assert billing["next"] in await page.inner_text("body")

    url = json.loads(payer.run("billing", "setup", "--json"))["url"]
    phone = {"width": 390, "height": 844}
    async with watched(browser, payer.served.url, java_script_enabled=False, viewport=phone) as page:
        await page.goto(url)
        await page.get_by_role("button", name="without funds").click()
        assert "Declined" in await page.get_by_role("alert").inner_text()
        assert (await payer.served.ask(payer.key))[0] == 402
        await page.get_by_role("button", name="3-D Secure").click()
        await page.get_by_role("button", name="Confirm").click()
        assert await page.get_by_role("heading", name="Paid").is_visible()
        await payer.served.answers(payer.key)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "balance" in payer.run("billing", "status")


async def test_who_has_used_a_day_s_quota_buys_a_plan_and_is_served(payer, browser):
    url = json.loads(payer.run("billing", "setup", "--json"))["url"]
    async with watched(browser, payer.served.url) as page:
        await page.goto(url)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Paid").wait_for()
    await payer.served.answers(payer.key)
    for _ in range(DAY_REQUESTS - 1):
        assert (await payer.served.ask(payer.key))[0] == 200
    status, refused = await payer.served.ask(payer.key)
    assert (status, refused["error"]["code"], refused["error"]["upgrade"]["plan"]) == (429, "quota_exceeded", "starter")
    async with watched(browser, payer.served.url, color_scheme="dark") as page:
        await page.goto(refused["error"]["upgrade"]["url"])
        assert "Starter" in await page.inner_text("body")
        headers = {"Authorization": f"Bearer {payer.key}"}
        body = {"plan": "starter"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{payer.served.url}/api/billing/checkout", json=body) as answer,
        ):
            opened = await answer.json()
        await page.goto(opened["url"])
        await page.get_by_role("button", name="Pay 99.00").click()
        await page.get_by_role("heading", name="Paid").wait_for()
    await payer.served.answers(payer.key)
