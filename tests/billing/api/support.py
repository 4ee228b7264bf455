"""A client of the API that knows the admin key and makes customers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from billing.api.application import setup
from billing.api.services import Services
from tests.billing.support import Billing

ADMIN_KEY = "admin-of-the-tests"

Client = TestClient[web.Request, web.Application]


@dataclass(frozen=True)
class Answer:
    """Status, headers and decoded body; None for an empty one."""

    status: int
    headers: dict[str, str]
    json: Any

    @property
    def error(self) -> dict[str, Any]:
        """What stands inside the envelope, which has all of OpenAI's names."""
        assert set(self.json) == {"error"}
        error: dict[str, Any] = self.json["error"]
        assert {"message", "type", "param", "code"} <= set(error)
        return error

    def refused(self, status: int, code: str, param: str | None = None) -> str:
        """Asserts the refusal and gives its message."""
        assert (self.status, self.error["code"], self.error["param"]) == (status, code, param), self.json
        return str(self.error["message"])


@dataclass(frozen=True)
class Api:
    client: Client
    billing: Billing

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.client.request(method, path, **options) as response:
            body = await response.json() if response.content_length else None
            if body is not None:
                assert response.content_type == "application/json"
            return Answer(response.status, dict(response.headers), body)

    async def admin(self, method: str, path: str, json: object = None, **options: Any) -> Answer:
        """A call below /api/admin with the admin key."""
        if json is not None:
            options["json"] = json
        return await self.call(method, f"/api/admin{path}", headers={"X-Admin-Key": ADMIN_KEY}, **options)

    async def get(self, secret: str, path: str, **params: str) -> Answer:
        """A customer's read below /api."""
        return await self.call("GET", f"/api{path}", headers={"Authorization": f"Bearer {secret}"}, params=params)

    async def customer(self, **key: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new account and a new key of it, as the API answered them."""
        account = (await self.admin("POST", "/accounts", {"name": "Acme"})).json
        made = await self.admin("POST", "/keys", {"account_id": account["id"], "name": "laptop", **key})
        assert made.status == 201, made.json
        return account, made.json


@asynccontextmanager
async def serving(services: Services, billing: Billing) -> AsyncIterator[Api]:
    """The API on a port of its own."""
    app = web.Application()
    setup(app, services)
    async with TestClient(TestServer(app)) as client:
        yield Api(client, billing)
