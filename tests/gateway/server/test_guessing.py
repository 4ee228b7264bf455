"""Wrong keys at a whole gateway: 429 above the bound, without further look-ups; clients with a valid key are not
affected."""

import asyncio
import secrets
import time
from dataclasses import replace
from typing import Any

import pytest

from billing.addresses import parse_networks
from billing.api.attempts import LOOK_EVERY_S
from billing.keys.secrets import new_secret
from gateway.config.settings import Secret
from tests.gateway.conftest import ADMIN_KEY, Gateway, chat

pytestmark = pytest.mark.slow


def another_key() -> str:
    """A key that is well formed and that nobody has."""
    return new_secret(secrets.choice)


async def shown(gateway: Gateway, path: str, **headers: str) -> tuple[int, Any]:
    """Send a GET; return its status and body."""
    async with gateway.session.get(gateway.url + path, headers=headers) as answer:
        return answer.status, (answer.headers.get("Retry-After"), (await answer.json()).get("error", {}).get("code"))


async def test_random_keys_are_refused_after_so_many_and_looked_up_no_more(make_gateway):
    gateway = await make_gateway(failed_attempts=5)
    customer = await gateway.customer()
    assert (await (await customer.post(body=chat())).json())["usage"]
    cache, looked_up = gateway.runtime.engine.cache, list[bytes]()
    load = cache._load

    async def counted(digest):
        looked_up.append(digest)
        return await load(digest)

    cache._load = counted
    statuses, started_s = [], time.monotonic()
    for _ in range(40):
        async with gateway.session.post(
            f"{gateway.url}/v1/chat/completions", json=chat(), headers={"Authorization": f"Bearer {another_key()}"}
        ) as answer:
            statuses.append(answer.status)
            error = (await answer.json())["error"]
    assert statuses == [401] * 5 + [429] * 35
    assert error["code"] == "too_many_attempts"
    assert "wait" in error["message"]
    seconds = time.monotonic() - started_s
    assert 6 <= len(looked_up) <= 6 + 1 + seconds / LOOK_EVERY_S  # the sixth was one too many; then one a second
    async with customer.post(body=chat()) as answer:  # whose key is known is not stopped by a neighbour
        assert answer.status == 200
    await gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"name": "Another"})
    for _ in range(3):  # nor while it is read anew
        assert await customer.balance()


async def test_a_neighbour_with_a_wrong_key_shuts_nobody_out(make_gateway):
    gateway = await make_gateway(failed_attempts=3)
    wrong, starter = another_key(), await gateway.customer()
    for status in [401] * 3 + [429] * 5:
        assert (await shown(gateway, "/v1/key", Authorization=f"Bearer {wrong}"))[0] == status
    async with asyncio.timeout(60):
        while True:
            async with starter.get("/v1/key") as answer:
                if answer.status == 200:
                    break
                assert answer.status == 429
            assert (await shown(gateway, "/v1/key", Authorization=f"Bearer {wrong}"))[0] in (401, 429)
            await asyncio.sleep(0.05)


async def test_every_door_that_takes_a_key_counts(make_gateway):
    for path in ("/v1/models", "/v1/key", "/api/account/balance"):
        gateway = await make_gateway(failed_attempts=3)
        await gateway.runtime.redis_client.command("DEL", gateway.runtime.engine.keyspace.attempts)
        seen = [await shown(gateway, path, Authorization=f"Bearer {another_key()}") for _ in range(5)]
        assert [status for status, _ in seen] == [401] * 3 + [429] * 2, path
        retry_after, code = seen[-1][1]
        assert code == "too_many_attempts"
        assert 1 <= int(retry_after) <= 60


async def test_the_admin_key_can_not_be_guessed(make_gateway):
    for path in ("/api/admin/accounts", "/v1/status"):
        gateway = await make_gateway(failed_attempts=3)
        await gateway.runtime.redis_client.command("DEL", gateway.runtime.engine.keyspace.attempts)
        assert (await shown(gateway, path))[0] == 401  # without a key nothing is guessed
        for _ in range(5):
            assert (await shown(gateway, path, **{"X-Admin-Key": ADMIN_KEY}))[0] == 200
        statuses = [(await shown(gateway, path, **{"X-Admin-Key": f"{ADMIN_KEY}{n}"}))[0] for n in range(5)]
        assert statuses == [401] * 3 + [429] * 2
        status, (_, code) = await shown(gateway, path, **{"X-Admin-Key": ADMIN_KEY})
        assert (status, code) == (429, "too_many_attempts")  # or a guess that hits would be told from one that does not


async def test_the_right_admin_key_works_after_wrong_ones_of_its_address(make_gateway):
    """One that was typed, too: wrong ones that begin otherwise, and wrong keys of other kinds, count elsewhere."""
    for path in ("/api/admin/accounts", "/v1/status"):
        gateway = await make_gateway()
        await gateway.runtime.redis_client.command("DEL", gateway.runtime.engine.keyspace.attempts)
        wrong = [(await shown(gateway, path, **{"X-Admin-Key": secrets.token_hex(16)}))[0] for _ in range(25)]
        assert wrong == [401] * 20 + [429] * 5
        for _ in range(25):
            assert (await shown(gateway, "/v1/key", Authorization=f"Bearer {another_key()}"))[0] in (401, 429)
        assert (await shown(gateway, path, **{"X-Admin-Key": ADMIN_KEY}))[0] == 200
        assert (await shown(gateway, path, **{"X-Admin-Key": secrets.token_hex(16)}))[0] == 429


@pytest.mark.parametrize("key", [secrets.token_hex(32), f"mga_{secrets.token_urlsafe(32)}"], ids=["hex", "up"])
async def test_an_admin_key_that_was_made_at_random_passes_beside_who_guesses(make_gateway, key):
    """Who guesses has no more attempts for that, and learns of no other key that it is right (above)."""

    def with_key(settings):
        return replace(settings, admin_api_key=Secret(key))

    for path in ("/api/admin/accounts", "/v1/status", "/metrics"):
        gateway = await make_gateway(failed_attempts=3, change=with_key)
        await gateway.runtime.redis_client.command("DEL", gateway.runtime.engine.keyspace.attempts)
        wrong = [{"X-Admin-Key": f"{key[:-5]}{number:05}"} for number in range(6)]
        statuses = [(await shown(gateway, path, **headers))[0] for headers in wrong]
        assert statuses == [401] * 3 + [429] * 3
        for headers in wrong:
            async with gateway.session.get(gateway.url + path, headers={"X-Admin-Key": key}) as answer:
                assert answer.status == 200
            assert (await shown(gateway, path, **headers))[0] == 429


async def test_gateways_count_together_and_each_client_of_a_proxy_alone(make_gateway):
    def behind_a_proxy(settings):
        return replace(settings, trusted_proxies=parse_networks("127.0.0.1") or ())

    gateways = [await make_gateway(failed_attempts=3, change=behind_a_proxy) for _ in range(2)]

    async def guess(gateway, client):
        headers = {"Authorization": f"Bearer {another_key()}", "X-Forwarded-For": f"127.0.0.9, {client}"}
        return (await shown(gateway, "/v1/key", **headers))[0]

    seen = [await guess(gateways[number % 2], "203.0.113.9") for number in range(6)]
    assert seen == [401, 401, 401, 429, 429, 429]
    assert await guess(gateways[0], "203.0.113.10") == 401


async def test_a_request_that_is_known_asks_nothing_more_of_redis(gateway):
    customer = await gateway.customer()
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    assert await gateway.runtime.redis_client.command("EXISTS", gateway.runtime.engine.keyspace.attempts) == 0
