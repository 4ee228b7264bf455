"""Notices on their way, to a real receiver: signed, tried again, parked, by hand, and mails to owners and admins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from billing.audit import SYSTEM
from billing.notices.delivery import Poster
from billing.notices.emit import emit
from billing.notices.endpoints import EndpointRefused, Endpoints
from billing.notices.mail_templates import NoticeType
from billing.notices.worker import NoticeRules, NoticeWorker, OperatorHook
from billing.settings import WebhookSettings
from tests.billing.identity.support import join, mails, new_organization, new_user
from tests.billing.notices.support import receiving
from tests.billing.support import Billing

RULES = NoticeRules(attempts=3)
ADDRESSES = ("owner@example.com", "admin@example.com", "member@example.com")


@asynccontextmanager
async def working(billing: Billing, hook_url: str | None = None) -> AsyncIterator[NoticeWorker]:
    poster = Poster(private=True, timeout_s=10)
    hook = None if hook_url is None else OperatorHook(hook_url, poster)
    yield NoticeWorker(billing.database, poster, hook, RULES, billing.new_id, "this")
    await poster.close()


async def told(billing: Billing, account_id: str, type_: NoticeType, **data: Any) -> None:
    async with billing.database.transaction() as connection:
        await emit(connection, account_id, type_, data)


async def due(billing: Billing) -> None:
    await billing.database.execute("UPDATE webhook_deliveries SET next_attempt_at = now()")


async def test_a_delivery_is_not_missed_whose_endpoint_becomes_free_while_another_lane_asks(
    billing, account, monkeypatch
):
    endpoints = Endpoints(billing.database, billing.new_id, WebhookSettings(webhook_private_addresses=True))
    async with receiving() as receiver, working(billing) as worker:
        await endpoints.create(account.id, f"{receiver.url}/own", None, actor=SYSTEM)
        for key_id in ("key_1", "key_2"):
            await told(billing, account.id, "key.revoked", key_id=key_id)
        ask = billing.database.row

        async def late(query, *given):
            found, busy = await ask(query, *given), set(worker._busy)
            while found is None and busy and worker._busy == busy:
                await asyncio.sleep(0.001)
            return found

        monkeypatch.setattr(billing.database, "row", late)
        assert await worker.round() == 2
    assert len(receiver.bodies("/own")) == 2


async def test_endpoints_get_the_form_that_they_take(billing, account):
    endpoints = Endpoints(billing.database, billing.new_id, WebhookSettings(webhook_private_addresses=True))
    key = "0123456789abcdef0123456789abcdef"
    async with receiving() as receiver, working(billing) as worker:
        slack = await endpoints.create(account.id, f"{receiver.url}/slack", None, format="slack", actor=SYSTEM)
        duty = await endpoints.create(
            account.id, f"{receiver.url}/duty", None, format="pagerduty", routing_key=key, actor=SYSTEM
        )
        assert key not in repr(duty)
        with pytest.raises(EndpointRefused, match="routing_key"):
            await endpoints.create(account.id, f"{receiver.url}/duty", None, format="pagerduty", actor=SYSTEM)
        with pytest.raises(EndpointRefused, match="goes with the format pagerduty"):
            await endpoints.update(slack.id, account.id, {"routing_key": key}, actor=SYSTEM)
        await told(billing, account.id, "balance.low", balance_usd="0.50")
        assert await worker.round() == 2
        await endpoints.update(duty.id, account.id, {"format": "teams"}, actor=SYSTEM)  # and the key is forgotten
        await told(billing, account.id, "balance.low", balance_usd="0.40")
        assert await worker.round() == 2
    assert "Balance in USD: 0.50" in receiver.bodies("/slack")[0]["text"]
    incident, card = receiver.bodies("/duty")
    assert incident["routing_key"] == key
    assert card["attachments"]


async def test_a_notice_is_mailed_and_delivered_to_who_wants_it(billing, monkeypatch):
    owner, admin, member = [await new_user(billing, address) for address in ADDRESSES]
    organization = await new_organization(billing, "Acme", owner)
    await join(billing, organization, admin, "admin")
    await join(billing, organization, member, "member")
    account_id = organization.account_id
    other = await billing.accounts.create("Other")
    endpoints = Endpoints(billing.database, billing.new_id, WebhookSettings(webhook_private_addresses=True))
    async with receiving() as receiver, working(billing, f"{receiver.url}/hook") as worker:
        own = await endpoints.create(account_id, f"{receiver.url}/own", None, actor=SYSTEM)
        await endpoints.create(account_id, f"{receiver.url}/keys", ["key.created"], actor=SYSTEM)
        await endpoints.create(other.id, f"{receiver.url}/other", None, actor=SYSTEM)
        await endpoints.create(None, f"{receiver.url}/operator", ["balance.low"], actor=SYSTEM)
        await told(billing, account_id, "balance.low", balance_usd="0.50", note="<b>written by somebody</b>")
        await told(billing, account_id, "key.revoked", key_id="key_1")
        assert await worker.round() == 5  # own twice, the operators' one, and the hook twice
        with monkeypatch.context() as patch:
            questions, ask = [], billing.database.row

            async def asked(query, *given):
                questions.append(query)
                return await ask(query, *given)

            patch.setattr(billing.database, "row", asked)
            assert await worker.round() == 0
        assert len(questions) == 1  # one lane asks for all
        rotated = await endpoints.rotate(own.id, account_id, actor=SYSTEM)
        await endpoints.test(own.id, account_id)
        assert await worker.round() == 1
    assert {notice["type"] for notice in receiver.bodies("/own")} == {"balance.low", "key.revoked", "test"}
    assert len(receiver.bodies("/own")) == 3
    assert [notice["data"]["balance_usd"] for notice in receiver.bodies("/operator")] == ["0.50"]
    assert len(receiver.bodies("/hook")) == 2
    assert not receiver.bodies("/keys")
    assert not receiver.bodies("/other")
    assert receiver.signed_by(-1, rotated.secret)
    assert receiver.signed_by(-1, own.secret)  # for a day
    assert rotated.secret not in repr(rotated)
    first = next(place for place, (path, _, _) in enumerate(receiver.came) if path == "/own")
    assert receiver.signed_by(first, own.secret)
    assert not receiver.signed_by(first, rotated.secret)
    notice = receiver.bodies("/own")[0]
    assert notice["id"] == receiver.came[first][1]["webhook-id"]
    assert notice["account_id"] == account_id
    for address in ADDRESSES[:2]:
        (body,) = await mails(billing, address)
        assert "Balance in USD: 0.50" in body
        assert "somebody" not in body
    assert await mails(billing, ADDRESSES[2]) == []


async def test_a_delivery_that_fails_is_tried_again_parked_and_sent_by_hand(billing, account):
    endpoints = Endpoints(billing.database, billing.new_id, WebhookSettings(webhook_private_addresses=True))
    async with receiving() as receiver, working(billing) as worker:
        receiver.answers = {"/failing": 500, "/moved": 302, "/gone": 410}
        made = {
            path: await endpoints.create(account.id, receiver.url + path, ["key.created"], actor=SYSTEM)
            for path in ("/failing", "/moved", "/gone")
        }
        await told(billing, account.id, "key.created", key_id="key_1")
        assert await worker.round() == 3
        assert await worker.round() == 0  # not due yet
        gone = await endpoints.get(made["/gone"].id, account.id)
        assert (gone.disabled_reason, gone.failing_since is not None) == ("it answered 410 Gone", True)
        for _ in range(2):
            await due(billing)
            assert await worker.round() == 2
        await due(billing)
        assert await worker.round() == 0
        assert not receiver.bodies("/elsewhere")
        page = await endpoints.deliveries(made["/failing"].id, account.id, 10)
        (failed,) = page.items
        assert (failed.attempts, failed.status, failed.error, failed.type) == (3, 500, "status 500", "key.created")
        assert failed.parked_at is not None
        (moved,) = (await endpoints.deliveries(made["/moved"].id, account.id, 10)).items
        assert moved.error == "status 302: redirects are not followed"

        receiver.answers = {}
        await endpoints.redeliver(made["/failing"].id, failed.id, account.id)
        assert await worker.round() == 1
        assert (await endpoints.delivery(made["/failing"].id, failed.id, account.id)).delivered_at is not None
        assert (await endpoints.get(made["/failing"].id, account.id)).failing_since is None

        # Failing for days: disabled at the next failure, and its owner is told at other endpoints.
        await endpoints.create(account.id, f"{receiver.url}/other", ["endpoint.disabled"], actor=SYSTEM)
        receiver.answers = {"/moved": 503}
        await billing.database.execute(
            "UPDATE webhook_endpoints SET failing_since = now() - interval '6 days' WHERE id = $1", made["/moved"].id
        )
        await endpoints.redeliver(made["/moved"].id, moved.id, account.id)
        assert await worker.round() == 1
        assert (await endpoints.get(made["/moved"].id, account.id)).disabled_at is not None
        await worker.round()
        assert [notice["data"]["endpoint_id"] for notice in receiver.bodies("/other")][-1] == made["/moved"].id
        enabled = await endpoints.update(made["/moved"].id, account.id, {"enabled": True}, actor=SYSTEM)
        assert (enabled.disabled_at, enabled.failing_since) == (None, None)


async def test_old_notices_go_with_their_deliveries(billing, account):
    endpoints = Endpoints(billing.database, billing.new_id, WebhookSettings())
    endpoint = await endpoints.create(account.id, "https://hooks.example.com/", None, actor=SYSTEM)
    await endpoints.test(endpoint.id, account.id)
    await billing.database.execute("UPDATE notices SET created_at = now() - interval '31 days'")
    async with working(billing) as worker:
        await worker.tidy()
    assert (await endpoints.deliveries(endpoint.id, account.id, 10)).items == ()
