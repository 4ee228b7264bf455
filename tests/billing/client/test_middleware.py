"""The middleware: whose key a request shows, how often that is asked, and what happens where it can't be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from billing.client.middleware import PRINCIPAL, Development, metergate_auth, require_principal
from billing.keys.secrets import new_secret
from tests.billing.client.support import Answer, Scripted, refused, scripted, service

RIGHT, WRONG = (new_secret(lambda _, letter=letter: letter) for letter in "ab")
HOLDER = {"key_id": "key_1", "key_name": "laptop", "account_id": "acc_1", "account_status": "active", "plan": "free",
          "user_id": "ana", "scopes": ["container:run"], "models": None, "tags": {}, "expires_at": None}  # fmt: skip
DEVELOPMENT = Development("acc_dev", ("container:run",))


class Served:
    """An application behind the middleware, and what stands for Metergate."""

    def __init__(self, metergate: Scripted, stack: AsyncExitStack, url: str) -> None:
        self.metergate, self._stack, self._url = metergate, stack, url

    async def app(self, **options: Any) -> Any:
        async def whoami(request: web.Request) -> web.Response:
            found = request.get(PRINCIPAL)
            return web.json_response({"user": None if found is None else found.user_id})

        async def run(request: web.Request) -> web.Response:
            return web.json_response({"account": require_principal(request, "container:run").account_id})

        async def delete(request: web.Request) -> web.Response:
            return web.json_response({"account": require_principal(request, "container:delete").account_id})

        client = await self._stack.enter_async_context(service(self._url))
        app = web.Application(middlewares=[metergate_auth(client, **options)])
        app.add_routes([web.get("/", whoami), web.get("/run", run), web.get("/delete", delete)])
        return await self._stack.enter_async_context(TestClient(TestServer(app)))


def asked(path: str, body: Any) -> Answer:
    right = body["key"] == RIGHT
    return 200, {"active": right, "holder": HOLDER if right else None}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        metergate, url = await stack.enter_async_context(scripted(asked))
        yield Served(metergate, stack, url)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def told(client: Any, path: str = "/", **headers: str) -> tuple[int, Any]:
    async with client.get(path, headers=headers) as answer:
        found = await answer.json()
        return answer.status, found.get("error", {}).get("code") if answer.status >= 400 else found


async def test_the_handler_decides(served):
    client = await served.app(environ={})
    assert await told(client) == (200, {"user": None})
    assert await told(client, **bearer(RIGHT)) == (200, {"user": "ana"})
    assert await told(client, **{"x-api-key": RIGHT}) == (200, {"user": "ana"})
    assert await told(client, **bearer(WRONG)) == (200, {"user": None})
    assert await told(client, "/run", **bearer(RIGHT)) == (200, {"account": "acc_1"})
    assert await told(client, "/run") == (401, "invalid_api_key")
    assert await told(client, "/run", **bearer(WRONG)) == (401, "invalid_api_key")
    assert await told(client, "/run", **bearer(RIGHT), **{"x-api-key": WRONG}) == (401, "invalid_api_key")
    assert await told(client, "/delete", **bearer(RIGHT)) == (403, "insufficient_scope")
    looked_up = len(served.metergate.calls)
    assert await told(client, "/run", **bearer(RIGHT[:-1] + "x")) == (401, "invalid_api_key")
    assert len(served.metergate.calls) == looked_up  # its checksum says that it is none
    assert "X-API-Key" in served.metergate.headers[0]


async def test_one_look_up_for_those_who_come_together(served):
    client = await served.app(environ={}, kept_s=0, kept_keys=1)
    gate = asyncio.Event()
    served.metergate.gate = gate.wait
    work = [asyncio.create_task(told(client, **bearer(RIGHT))) for _ in range(10)]
    work.append(asyncio.create_task(told(client, **bearer(WRONG))))
    async with asyncio.timeout(60):
        while len(served.metergate.calls) < 2:
            await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*work) == [(200, {"user": "ana"})] * 10 + [(200, {"user": None})]
    assert len(served.metergate.calls) == 2
    served.metergate.answer = lambda path, body: (200, {"active": False, "holder": None})  # revoked
    assert await told(client, "/run", **bearer(RIGHT)) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "answer", [None, refused(503, "temporarily_unavailable"), refused(401, "invalid_api_key"), (200, "<html>")]
)
async def test_nobody_is_told_that_a_right_key_is_wrong(served, answer):
    client = await served.app(environ={})
    served.metergate.answer = lambda path, body: answer
    async with client.get("/run", headers=bearer(RIGHT)) as away:
        assert (away.status, away.headers["Retry-After"]) == (503, "1")
    assert await told(client) == (200, {"user": None})
    served.metergate.answer = asked
    assert await told(client, **bearer(RIGHT)) == (200, {"user": "ana"})  # a failure is not kept


async def test_names_stand_for_keys_in_development_alone(served, caplog):
    for environ in ({}, {"METERGATE_DEVELOPMENT": "0"}, {"METERGATE_DEVELOPMENT": "true"}):
        client = await served.app(environ=environ, development=DEVELOPMENT)
        assert await told(client, "/?user_id=eve", **{"X-User-Id": "eve"}) == (200, {"user": None})
    assert caplog.text == ""
    client = await served.app(environ={"METERGATE_DEVELOPMENT": "1"}, development=DEVELOPMENT)
    assert "METERGATE_DEVELOPMENT" in caplog.text
    assert await told(client, **{"X-User-Id": "bob"}) == (200, {"user": "bob"})
    assert await told(client, "/?user_id=bob") == (200, {"user": "bob"})
    assert await told(client, "/run?user_id=bob") == (200, {"account": "acc_dev"})
    assert await told(client, "/?user_id=bob", **bearer(WRONG)) == (
        200,
        {"user": None},
    )  # who shows a key is its holder
    with pytest.raises(ValueError, match="kept_s"):
        metergate_auth(service("http://x"), kept_s=2.0)
