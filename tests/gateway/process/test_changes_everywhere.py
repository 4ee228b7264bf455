"""What is changed through one gateway is in force on three processes within a second: keys, roles, sessions, limits,
plans that were paid for, and leavers whom a company's directory has switched off."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from ulid import ULID

from billing.database.connection import Database
from billing.identity.sessions import Sessions
from billing.identity.tokens import SigningKeys, TokenRules
from tests.gateway.conftest import ADMIN_KEY, chat

PROCESSES = 3
JSON = ("application/json", "application/scim+json")
# SPEC's own bound.
BOUND_S = 1.0
PAUSE_S = 0.02
BOUND_OF_START_S = 120.0
REQUESTS = [{"window": "day", "metric": "requests", "limit": 1}]
# More tokens than the shipped plan `free` has for a day, and fewer than `starter` has for a minute.
BEYOND_FREE = {"n": 16, "max_tokens": 16_384}


@asynccontextmanager
async def processes(database_url: str, redis_url: str, key_prefix: str) -> AsyncIterator[list[str]]:
    """The addresses of processes that serve."""
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url, "PYTHONPATH": root}
    command = (sys.executable, "-m", "tests.support.lone_gateway", ADMIN_KEY, key_prefix, str(PROCESSES))
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env=env)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(BOUND_OF_START_S):
            urls = [(await child.stdout.readline()).decode().strip() for _ in range(PROCESSES)]
        yield urls
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), BOUND_OF_START_S)


class World:
    """Three gateways, and the requests to them."""

    def __init__(self, urls: list[str], session: aiohttp.ClientSession, database: Database) -> None:
        self.urls, self.session, self.database, self.asked = urls, session, database, 0

    async def at(self, url: str, method: str, path: str, token: str, body: Any = None) -> tuple[int, Any]:
        shown = {"X-Admin-Key": token} if token == ADMIN_KEY else {"Authorization": f"Bearer {token}"}
        async with self.session.request(method, url + path, json=body, headers=shown) as answer:
            return answer.status, await answer.json(content_type=None) if answer.content_type in JSON else None

    async def call(self, method: str, path: str, token: str, body: Any = None) -> Any:
        """A call that succeeds, through one gateway after the other."""
        self.asked += 1
        status, answer = await self.at(self.urls[self.asked % PROCESSES], method, path, token, body)
        assert status < 300, answer
        return answer

    async def chat(self, url: str, key: str, **fields: Any) -> int:
        return (await self.at(url, "POST", "/v1/chat/completions", key, chat(**fields)))[0]

    async def everywhere(self, expected: int, status: Callable[[str], Awaitable[int]]) -> None:
        """Every gateway answers with this status within BOUND_S, or sooner than it has answered as often as fits into
        that: where the machine is busy an answer takes long itself."""

        async def follows(url: str) -> None:
            ends_s, others = time.monotonic() + BOUND_S, list[int]()
            while (found := await status(url)) != expected:
                others.append(found)
                assert time.monotonic() < ends_s or len(others) < BOUND_S / PAUSE_S, (url, expected, others)
                await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*map(follows, self.urls))

    async def person(self) -> str:
        user_id = f"usr_{ULID()}"
        query = "INSERT INTO users (id, email, status, email_verified_at) VALUES ($1, $2, 'active', now())"
        await self.database.execute(query, user_id, f"{user_id.lower()}@example.com")
        return user_id

    async def sign_in(self, user_id: str) -> str:
        keys = SigningKeys(self.database, TokenRules(), lambda: str(ULID()), asyncio.get_running_loop().time)
        sessions = Sessions(self.database, keys, lambda: str(ULID()))
        async with sessions.transaction() as connection:
            return (await sessions.start(connection, user_id)).access_token


@pytest.fixture
async def world(database_url: str, redis_url: str, key_prefix: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        urls = await stack.enter_async_context(processes(database_url, redis_url, key_prefix))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        database = Database(database_url)
        yield World(urls, session, database)
        await database.close()


@pytest.mark.slow
async def test_every_change_is_in_force_on_every_process(world):
    owner_id, member_id = await world.person(), await world.person()
    owner, member = await world.sign_in(owner_id), await world.sign_in(member_id)
    org = await world.call("POST", "/api/orgs", owner, {"name": "Acme"})
    grant = {"amount_usd": "5.00", "idempotency_key": "first"}
    await world.call("POST", f"/api/admin/accounts/{org['account_id']}/grants", ADMIN_KEY, grant)
    path = f"/api/orgs/{org['id']}/members/{member_id}"

    async def joined():
        await world.database.execute(
            "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'member')", org["id"], member_id
        )

    async def made(token):
        """A key that every process knows."""
        key = await world.call("POST", "/api/billing/keys", token, {"name": "laptop"})
        await world.everywhere(200, lambda url: world.chat(url, key["key"]))
        return f"/api/billing/keys/{key['id']}", key["key"]

    await joined()
    key_path, key = await made(member)
    await world.call("PATCH", key_path, member, {"models": ["another"]})
    await world.everywhere(403, lambda url: world.chat(url, key))
    await world.call("PATCH", key_path, member, {"models": None})
    await world.everywhere(200, lambda url: world.chat(url, key))
    await world.call("PUT", f"{path}/quotas", owner, {"quotas": REQUESTS})
    await world.everywhere(429, lambda url: world.chat(url, key))
    await world.call("PUT", f"{path}/quotas", owner, {"quotas": []})
    await world.everywhere(200, lambda url: world.chat(url, key))
    await world.call("POST", f"{key_path}/rotate", member)
    await world.everywhere(401, lambda url: world.chat(url, key))
    await world.call("DELETE", key_path, member)

    _, key = await made(member)
    await world.call("PATCH", path, owner, {"role": "viewer"})
    await world.everywhere(401, lambda url: world.chat(url, key))

    async def makes_a_key(url):
        return (await world.at(url, "POST", "/api/billing/keys", member, {"name": "more"}))[0]

    await world.everywhere(403, makes_a_key)
    await world.call("PATCH", path, owner, {"role": "member"})
    _, key = await made(member)
    await world.call("DELETE", path, owner)
    await world.everywhere(401, lambda url: world.chat(url, key))

    async def status(url, token, path="/api/auth/me"):
        return (await world.at(url, "GET", path, token))[0]

    await world.everywhere(404, lambda url: status(url, member, f"/api/orgs/{org['id']}"))
    other = await world.sign_in(member_id)
    await world.call("POST", "/api/auth/logout", member)
    await world.everywhere(401, lambda url: status(url, member))
    await world.everywhere(200, lambda url: status(url, other))
    await world.call("PATCH", f"/api/admin/users/{member_id}", ADMIN_KEY, {"status": "disabled"})
    await world.everywhere(401, lambda url: status(url, other))
    _, key = await made(owner)
    await plans_are_in_force(world, owner, key)
    await world.call("PATCH", f"/api/admin/accounts/{org['account_id']}", ADMIN_KEY, {"status": "suspended"})
    await world.everywhere(402, lambda url: world.chat(url, key))


async def plans_are_in_force(world: World, owner: str, key: str) -> None:
    """A plan that is bought on a page of one gateway, and then a dearer one."""

    async def beyond_free(url: str) -> int:
        return await world.chat(url, key, **BEYOND_FREE)

    async def requests_a_minute(url: str) -> int:
        """How many the plan allows, as the key's limits say."""
        windows = (await world.at(url, "GET", "/v1/key", key))[1]["windows"]
        found = (each for each in windows if (each["window"], each["metric"]) == ("minute", "requests"))
        return int(next(found)["limit"])

    await world.everywhere(429, beyond_free)
    page = await world.call("POST", "/api/billing/checkout", owner, {"plan": "starter"})
    path = urlsplit(page["url"]).path
    async with world.session.post(world.urls[0] + path, data={"action": "approve"}, allow_redirects=False) as answer:
        assert answer.status == 303
    await world.everywhere(200, beyond_free)
    await world.everywhere(600, requests_a_minute)
    await world.call("PUT", "/api/billing/subscription", owner, {"plan": "professional"})
    await world.everywhere(3000, requests_a_minute)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Entra", "Okta", "deleted"])
async def test_a_leaver_s_keys_end_under_traffic(world, how):
    """On every process within a second of the directory's call, while they are in use."""
    owner_id, leaver_id = await world.person(), await world.person()
    owner, leaver = await world.sign_in(owner_id), await world.sign_in(leaver_id)
    org = await world.call("POST", "/api/orgs", owner, {"name": "Acme"})
    grant = {"amount_usd": "5.00", "idempotency_key": "first"}
    await world.call("POST", f"/api/admin/accounts/{org['account_id']}/grants", ADMIN_KEY, grant)
    await world.call("PATCH", f"/api/admin/accounts/{org['account_id']}", ADMIN_KEY, {"plan": "enterprise"})
    await world.database.execute(
        "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'member')", org["id"], leaver_id
    )
    in_acme = {"org_id": org["id"]}
    leaver = (await world.call("POST", "/api/auth/token", leaver, in_acme))["access_token"]
    scim = (await world.call("POST", f"/api/orgs/{org['id']}/scim/tokens", owner, {"name": how}))["token"]
    keys = [(await world.call("POST", "/api/billing/keys", leaver, {"name": f"k{n}"}))["key"] for n in range(5)]
    staying = (await world.call("POST", "/api/billing/keys", owner, {"name": "stays"}))["key"]
    person = {"userName": f"{leaver_id.lower()}@example.com", "active": True}
    status, made = await world.at(world.urls[0], "POST", "/scim/v2/Users", scim, person)
    assert status == 201, made

    served_s, stops = list[float](), asyncio.Event()

    async def uses(url: str, key: str) -> None:
        while not stops.is_set():
            asked_s = time.monotonic()
            if await world.chat(url, key) == 200:
                served_s.append(asked_s)
            await asyncio.sleep(PAUSE_S)

    for key in (*keys, staying):
        await world.everywhere(200, lambda url, key=key: world.chat(url, key))
    async with asyncio.TaskGroup() as traffic:
        for key in keys:
            for url in world.urls:
                traffic.create_task(uses(url, key))
        path, operations = f"/scim/v2/Users/{made['id']}", {"Operations": LEAVING.get(how, [])}
        method, body = ("DELETE", None) if how == "deleted" else ("PATCH", operations)
        status, answer = await world.at(world.urls[1], method, path, scim, body)
        assert status in (200, 204), answer
        left_s = time.monotonic()
        for key in keys:
            await world.everywhere(401, lambda url, key=key: world.chat(url, key))
        stops.set()
    await world.everywhere(200, lambda url: world.chat(url, staying))
    print(
        f"{how}: {len(served_s)} served, the last one asked {max(served_s) - left_s:+.3f} s after the directory's call"
    )


# How directories say that somebody has left.
LEAVING = {
    "Entra": [{"op": "Replace", "path": "active", "value": "False"}],
    "Okta": [{"op": "replace", "value": {"active": False}}],
}
