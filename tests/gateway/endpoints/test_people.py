"""A person's way through a gateway, from registering to being refused, as two gateways serve it."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from billing.settings import OrganizationSettings
from gateway.config.settings import IdentityConfig, Settings
from tests.billing.people_support import ADA, CHEAP, GOOD, OTHER
from tests.gateway.conftest import Gateway, MakeGateway, chat
from tests.support.mail import Mailbox, mail_server


async def call(
    gateway: Gateway, method: str, path: str, body: Any = None, bearer: str | None = None
) -> tuple[int, Any]:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    async with gateway.session.request(method, gateway.url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.json() if answer.content_length else None


def mailing(port: int, **identity: Any) -> Callable[[Settings], Settings]:
    def change(settings: Settings) -> Settings:
        mail = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_from": "billing@example.com"}
        return replace(settings, **mail, identity=IdentityConfig(**identity))

    return change


async def made(make_gateway: MakeGateway, change: Callable[[Settings], Settings]) -> Gateway:
    gateway = await make_gateway(change=change)
    gateway.runtime.people.passwords._hasher = CHEAP
    return gateway


@pytest.fixture(autouse=True)
def mails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.identity.mailer.EVERY_S", 0.05)


async def mailed(mailbox: Mailbox) -> str:
    """The code of the next mail."""
    async with asyncio.timeout(60):
        while not mailbox.taken:
            await asyncio.sleep(0.02)
    text = mailbox.message().get_content()
    mailbox.taken.clear()
    return re.findall(r"\b[0-9]{6}\b", text)[0]


async def test_from_registering_to_being_refused(make_gateway):
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        here, there = await made(make_gateway, mailing(port)), await made(make_gateway, mailing(port))
        registered = {"email": ADA, "password": GOOD, "name": "Ada"}
        assert (await call(here, "POST", "/api/auth/register", registered))[0] == 202
        code = {"email": ADA, "code": await mailed(mailbox)}
        status, tokens = await call(there, "POST", "/api/auth/verify", code)
        assert status == 200, tokens
        token = tokens["access_token"]
        _, me = await call(here, "GET", "/api/auth/me", bearer=token)
        account_id = me["organizations"][0]["account_id"]
        await here.admin(
            "POST", f"/accounts/{account_id}/grants", {"amount_usd": "5", "idempotency_key": "a gift of the tests"}
        )
        status, key = await call(here, "POST", "/api/billing/keys", {"name": "laptop"}, token)
        assert status == 201, key
        assert (await call(there, "POST", "/v1/chat/completions", chat(), key["key"]))[0] == 200
        changed = {"current_password": GOOD, "password": OTHER, "revoke_keys": True}
        assert await call(here, "POST", "/api/auth/password", changed, token) == (
            200,
            {"status": "changed", "keys_revoked": 1},
        )
        async with asyncio.timeout(60):
            while (await call(there, "POST", "/v1/chat/completions", chat(), key["key"]))[0] != 401:
                await asyncio.sleep(0.02)
        assert (await call(there, "GET", "/api/auth/me", bearer=token))[0] == 200
        assert (await call(there, "POST", "/api/auth/login", {"email": ADA, "password": GOOD}))[0] == 401


async def test_who_waits_for_an_operator(make_gateway):
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        gateway = await made(make_gateway, mailing(port, approval="approved"))
        await call(gateway, "POST", "/api/auth/register", {"email": ADA, "password": GOOD})
        code = {"email": ADA, "code": await mailed(mailbox)}
        _, tokens = await call(gateway, "POST", "/api/auth/verify", code)
        token = tokens["access_token"]
        assert tokens["scope"] == ""
        status, refused = await call(gateway, "GET", "/api/account/balance", bearer=token)
        assert status == 403
        assert "an operator has let you in" in refused["error"]["message"]
        user_id = (await call(gateway, "GET", "/api/auth/me", bearer=token))[1]["id"]
        await gateway.admin("PATCH", f"/users/{user_id}", {"status": "active"})
        assert (await call(gateway, "GET", "/api/account/balance", bearer=token))[0] == 200


async def test_who_begins_without_an_organization_founds_one_and_is_welcomed_with_credit(make_gateway):
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        own = OrganizationSettings(personal_organizations=False, welcome_credit_usd="5.00")

        def change(settings: Settings) -> Settings:
            mailed = mailing(port)(settings)
            return replace(mailed, defaults=structs.replace(mailed.defaults, organizations=own))

        gateway = await made(make_gateway, change)
        await call(gateway, "POST", "/api/auth/register", {"email": ADA, "password": GOOD, "name": "Ada"})
        _, tokens = await call(gateway, "POST", "/api/auth/verify", {"email": ADA, "code": await mailed(mailbox)})
        token = tokens["access_token"]
        _, me = await call(gateway, "GET", "/api/auth/me", bearer=token)
        assert (me["organizations"], me["org_id"]) == ([], None)
        status, _ = await call(gateway, "POST", "/api/orgs", {"name": "Acme"}, token)
        assert status == 201
        _, tokens = await call(gateway, "POST", "/api/auth/login", {"email": ADA, "password": GOOD})
        _, balance = await call(gateway, "GET", "/api/account/balance", bearer=tokens["access_token"])
        assert balance["balance_usd"] == "5.00"
