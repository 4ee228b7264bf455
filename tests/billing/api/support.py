"""A client of the API that knows the admin key and makes customers."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from billing.api.application import setup
from billing.api.services import Services
from billing.permissions import allowed
from billing.principals import Caller
from tests.billing.support import Billing

ADMIN_KEY = "admin-of-the-tests"

Client = TestClient[web.Request, web.Application]
Real = Callable[[str, str | None], Awaitable[Caller | None]]


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

    async def person(self, user_id: str, method: str, path: str, json: object = None, **options: Any) -> Answer:
        """A person's call below /api, with a token that names no organization; or with `token`, or `scopes`."""
        token = token_of(user_id, *options.pop("scopes", ()))
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        return await self.call(method, f"/api{path}", headers=headers, **options | ({"json": json} if json else {}))

    async def by_key(self, secret: str, method: str, path: str, json: object = None) -> Answer:
        """A call below /api with an API key."""
        options = {"json": json} if json else {}
        return await self.call(method, f"/api{path}", headers={"Authorization": f"Bearer {secret}"}, **options)

    async def customer(self, **key: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new account and a new key of it, as the API answered them."""
        account = (await self.admin("POST", "/accounts", {"name": "Acme"})).json
        made = await self.admin("POST", "/keys", {"account_id": account["id"], "name": "laptop", **key})
        assert made.status == 201, made.json
        return account, made.json


def token_of(user_id: str, *scopes: str) -> str:
    """A person's token as `person_of` reads it; without scopes it is not narrowed."""
    encoded = base64.urlsafe_b64encode(" ".join(scopes).encode()).decode().rstrip("=")
    return f"test.{user_id}.{encoded}"


async def person_of(billing: Billing, real: Real, token: str, org_id: str | None) -> Caller | None:
    """Who shows a token of the tests, as what they are in this organization, else in their first one; other tokens are
    `real`."""
    if not token.startswith("test."):
        return await real(token, org_id)
    _, user_id, encoded = token.split(".")
    row = await billing.database.row(
        "SELECT users.*, o.id AS org_id, o.account_id, m.role FROM users"
        " LEFT JOIN (memberships m JOIN organizations o ON o.id = m.org_id)"
        " ON m.user_id = users.id AND o.id = coalesce($2, o.id) WHERE users.id = $1 ORDER BY m.created_at LIMIT 1",
        user_id,
        org_id,
    )
    if row is None:
        return None
    named = frozenset(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode().split())
    return Caller(
        "person",
        user_id,
        account_id=row["account_id"],
        user_id=user_id,
        org_id=row["org_id"],
        role=row["role"],
        scopes=allowed(row["role"], named or None) if row["status"] == "active" else frozenset(),
        email=row["email"],
        verified=row["email_verified_at"] is not None,
        narrowed=named or None,
    )


@asynccontextmanager
async def serving(services: Services, billing: Billing) -> AsyncIterator[Api]:
    """The API on a port of its own."""
    app = web.Application()
    setup(app, services)
    async with TestClient(TestServer(app)) as client:
        yield Api(client, billing)
