"""Browsers of people, as far as pages without scripts need one."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from html import unescape
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from billing.api.application import setup as setup_api
from billing.api.services import Services
from billing.audit import ADMIN
from billing.identity.credentials import Visitor
from billing.identity.organizations import Organization
from billing.payments.assembly import Payments
from billing.web.application import setup
from tests.billing.api.support import Client, token_of
from tests.billing.identity.sessions_support import People
from tests.billing.support import Billing

# What a browser says of a form that a page of ours has sent.
OWN = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Answer:
    """A page as it came."""

    status: int
    headers: dict[str, str]
    text: str
    cookie: str | None = None

    @property
    def location(self) -> str:
        return self.headers["Location"]

    @property
    def words(self) -> str:
        """What somebody reads: the text without tags, its white space as one space."""
        shown = re.sub(r"<(script|style|title)\b.*?</\1>", " ", self.text, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", shown)).split())

    @property
    def values(self) -> list[str]:
        """The exact values of amounts and counts, in their order."""
        return re.findall(r'<data [^>]*?value="([^"]*)"', self.text)


@dataclass
class Console:
    """The pages, and whoever looks at them, by their role."""

    client: Client
    billing: Billing
    services: Services
    people: People
    organization: Organization
    persons: dict[str, str]
    cookies: dict[str, str] = field(default_factory=dict)

    async def cookie(self, who: str) -> str | None:
        """The cookie of a signed-in user; `nobody` has none, `gone` has one that is no longer valid, `link` is an
        operator who used a link."""
        if who == "nobody":
            return None
        if who not in self.cookies:
            self.cookies[who] = await self._begin(who)
        return self.cookies[who]

    async def _begin(self, who: str) -> str:
        browsers = self.services.browsers
        if who == "gone":
            return "gone"
        if who == "link":
            link = await browsers.make_link(ADMIN)
            secret = await browsers.enter(link.url.rpartition("/")[2], Visitor(ADMIN, "192.0.2.1", "tests"))
        else:
            pair = await self.people.sign_in(self.persons[who])
            secret = await browsers.bind(pair.session_id)
        assert secret is not None
        return secret

    async def ask(self, method: str, path: str, who: str = "nobody", **options: Any) -> Answer:
        """What somebody's browser is answered; `headers` are added to a browser's own."""
        cookie = await self.cookie(who)
        headers = {"Accept": "text/html", **(OWN if method != "GET" else {}), **options.pop("headers", {})}
        if cookie is not None:
            headers["Cookie"] = f"{self.services.browsers.rules.cookie}={cookie}"
        self.client.session.cookie_jar.clear()
        url = f"/console{path}" if path.startswith("/") or not path else f"/console/{path}"
        async with self.client.request(method, url, headers=headers, allow_redirects=False, **options) as answer:
            found = answer.cookies.get(self.services.browsers.rules.cookie)
            text = await answer.text()
            return Answer(answer.status, dict(answer.headers), text, found.value if found is not None else None)

    async def get(self, path: str, who: str = "nobody", **options: Any) -> Answer:
        return await self.ask("GET", path, who, **options)

    async def api(self, path: str, who: str, **params: str) -> Any:
        """What the API answers the same person."""
        headers = {"Authorization": f"Bearer {token_of(self.persons[who])}"}
        async with self.client.get(f"/api{path}", headers=headers, params=params) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, who: str = "nobody", form: Any = None, **options: Any) -> Answer:
        return await self.ask("POST", path, who, data=form or {}, **options)


@asynccontextmanager
async def serving(services: Services, known: Console) -> AsyncIterator[Console]:
    """The pages and the API beside them on a port of their own, for those whom another console knows."""
    app = web.Application()
    setup_api(app, services)
    setup(app, services)
    async with TestClient(TestServer(app)) as client:
        yield replace(known, client=client, services=services)


def fields(page: Answer, action: str) -> list[tuple[str, str]]:
    """Return the fields that a browser sends of an unchanged form."""
    form = re.search(rf'<form[^>]*action="[^"]*{re.escape(action)}"[^>]*>(.*?)</form>', page.text, re.DOTALL)
    assert form is not None, page.words
    found: list[tuple[str, str]] = []
    area, select = (rf'<{tag}[^>]*name="([^"]*)"[^>]*>(.*?)</{tag}>' for tag in ("textarea", "select"))
    pattern = rf"<input([^>]*)>|{area}|{select}"
    for match in re.finditer(pattern, form[1], re.DOTALL):
        given, area, text, select, options = match.groups()
        if area is not None:
            found.append((area, unescape(text)))
        elif select is not None:
            chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
            found.append((select, unescape(chosen[1])))
        else:
            named = dict(re.findall(r'(\w+)="([^"]*)"', given))
            if "name" in named and (named.get("type") != "checkbox" or " checked" in given):
                found.append((named["name"], unescape(named.get("value", ""))))
    return found


def changed(form: list[tuple[str, str]], **values: str) -> list[tuple[str, str]]:
    """A form with some fields changed, the first of each name."""
    left = dict(values)
    made = [(name, left.pop(name) if name in left else value) for name, value in form]
    assert not left, left
    return made


async def press(payments: Payments, url: str, action: str) -> None:
    """Press a button of the provider's page, and have what it did applied."""
    await payments.acts.act(url.rpartition("/")[2], action)
    await payments.events.round()
