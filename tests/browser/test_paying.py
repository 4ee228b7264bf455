"""From a refused request to a page where somebody pays, and back: credit, and a plan, in a real browser."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml

from gateway.config.files import SHIPPED_FOLDER
from tests.browser.conftest import watched
from tests.support.answering import until
from tests.support.commands import Shell
from tests.support.ports import free_port

if TYPE_CHECKING:
    from playwright.async_api import Browser

DAY_REQUESTS = 3


@dataclass
class Payer:
    """Whoever has a key without credit, at a running gateway."""

    shell: Shell
    url: str
    key: str
    session: aiohttp.ClientSession

    async def ask(self) -> tuple[int, Any]:
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def served(self) -> None:
        async def is_served() -> bool:
            return (await self.ask())[0] == 200

        await until(is_served)

    def run(self, *arguments: str) -> str:
        result = self.shell.run(*arguments, env={"METERGATE_API_URL": self.url, "METERGATE_API_TOKEN": self.key})
        assert result.code == 0, result
        return result.stdout


@pytest.fixture
async def payer(tmp_path: Path) -> AsyncIterator[Payer]:
    """Of the free plan, which lets few requests through a day here."""
    config = tmp_path / "config"
    config.mkdir()
    for path in SHIPPED_FOLDER.glob("*.yaml"):
        (config / path.name).write_text(path.read_text())
    plans = yaml.safe_load((config / "plans.yaml").read_text())
    plans["free"]["quotas"] = [{"window": "day", "metric": "requests", "limit": DAY_REQUESTS}]
    (config / "plans.yaml").write_text(yaml.safe_dump(plans))
    # Pages are linked to by the address that is configured: port 0 names none.
    shell = Shell(tmp_path, {"METERGATE_CONFIG": str(config), "LISTEN_ADDR": f"127.0.0.1:{free_port()}"})
    with shell.running("up") as running:
        found = re.search(r"serves on (http://\S+)", running.until("serves on"))
        assert found is not None
        account = shell.run("operator", "account", "create", "Poor", "--json").json
        key = shell.run(
            "operator",
            "key",
            "create",
            account["id"],
            "laptop",
            "--scope",
            "llm:proxy",
            "--scope",
            "billing:read",
            "--scope",
            "billing:setup",
            "--json",
        ).json["key"]
        async with aiohttp.ClientSession() as session:
            yield Payer(shell, found[1], key, session)
        running.end()


async def test_who_is_refused_pays_on_a_page_and_is_served(payer: Payer, browser: "Browser") -> None:
    status, refused = await payer.ask()
    assert (status, refused["error"]["code"]) == (402, "billing_required")
    billing = refused["error"]["billing"]
    assert billing["next"] == "metergate billing setup"
    async with watched(browser, payer.url) as page:
        await page.goto(billing["setup_url"])
        assert billing["next"] in await page.inner_text("body")

    url = json.loads(payer.run("billing", "setup", "--json"))["url"]
    async with watched(browser, payer.url, java_script_enabled=False, viewport={"width": 390, "height": 844}) as page:
        await page.goto(url)
        await page.get_by_role("button", name="without funds").click()
        assert "Declined" in await page.get_by_role("alert").inner_text()
        assert (await payer.ask())[0] == 402
        await page.get_by_role("button", name="3-D Secure").click()
        await page.get_by_role("button", name="Confirm").click()
        assert await page.get_by_role("heading", name="Paid").is_visible()
        await payer.served()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "balance" in payer.run("billing", "status")


async def test_who_has_used_a_day_s_quota_buys_a_plan_and_is_served(payer: Payer, browser: "Browser") -> None:
    url = json.loads(payer.run("billing", "setup", "--json"))["url"]
    async with watched(browser, payer.url) as page:
        await page.goto(url)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Paid").wait_for()
    await payer.served()
    for _ in range(DAY_REQUESTS - 1):
        assert (await payer.ask())[0] == 200
    status, refused = await payer.ask()
    assert (status, refused["error"]["code"], refused["error"]["upgrade"]["plan"]) == (429, "quota_exceeded", "starter")
    async with watched(browser, payer.url, color_scheme="dark") as page:
        await page.goto(refused["error"]["upgrade"]["url"])
        assert "Starter" in await page.inner_text("body")
        headers = {"Authorization": f"Bearer {payer.key}"}
        body = {"plan": "starter"}
        async with payer.session.post(f"{payer.url}/api/billing/checkout", json=body, headers=headers) as answer:
            opened = await answer.json()
        await page.goto(opened["url"])
        await page.get_by_role("button", name="Pay 99.00").click()
        await page.get_by_role("heading", name="Paid").wait_for()
    await payer.served()
