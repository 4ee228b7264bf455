"""A page of Debian's Chromium, and a gateway to open in it. What the browser says on its console, and what it asks of
any other host, fails the test."""

import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from gateway.config.source import SHIPPED_FOLDER
from tests.billing.conftest import billing
from tests.billing.web.conftest import bare_services, console, payments, people, registry, services
from tests.support.commands import Running, Shell
from tests.support.gateways import until
from tests.support.ports import free_port

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

__all__ = ["bare_services", "billing", "console", "payments", "people", "registry", "services"]

WANTED = "METERGATE_TEST_BROWSER"
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
)
# What the free plan lets through a day.
DAY_REQUESTS = 3


@dataclass
class Served:
    """A running gateway, as `metergate up` starts it."""

    shell: Shell
    running: Running
    url: str

    @property
    def console(self) -> str:
        return f"{self.url}/console"

    async def ask(self, key: str) -> tuple[int, Any]:
        """What the proxy answers to a request with a key."""
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
            session.post(f"{self.url}/v1/chat/completions", json=body) as answer,
        ):
            return answer.status, await answer.json()

    async def answers(self, key: str, status: int = 200) -> None:
        """Wait until a request with a key is answered so."""

        async def is_answered() -> bool:
            return (await self.ask(key))[0] == status

        await until(is_answered)

    async def mailed(self, address: str, before: int = 0) -> str:
        """The code of a mail to an address, after so many others."""

        def codes() -> list[str]:
            mails = self.running.stderr.split(f"A mail to {address}: ")[1:]
            return [found[0] for mail in mails if (found := re.search(r"\b\d{6}\b", mail.partition("A mail to")[0]))]

        await until(lambda: len(codes()) > before)
        return codes()[before]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One gateway for all tests; its free plan lets few requests through a day."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "config"
    config.mkdir()
    for path in SHIPPED_FOLDER.glob("*.yaml"):
        (config / path.name).write_text(path.read_text())
    plans = yaml.safe_load((config / "plans.yaml").read_text())
    plans["free"]["quotas"] = [{"window": "day", "metric": "requests", "limit": DAY_REQUESTS}]
    (config / "plans.yaml").write_text(yaml.safe_dump(plans))
    # Pages are linked to by the address that is configured: port 0 names none.
    shell = Shell(folder, {"METERGATE_CONFIG": str(config), "LISTEN_ADDR": f"127.0.0.1:{free_port()}"})
    with shell.running("up") as running:
        running.until("Ctrl-C stops it")
        found = re.search(r"serves on (http://\S+)", "\n".join(running.lines))
        yield Served(shell, running, found[1])
        running.end()


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
    """A new page of a visitor without a session; `options` are those of its context. A caller that passes `complaints`
    checks them, and removes known ones."""
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
