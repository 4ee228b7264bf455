"""The API with SCIM on a real server, and an organization with a directory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from billing.api.services import Services
from billing.identity.directories import GroupRule
from billing.identity.organizations import Organization
from billing.keys.keys import ApiKeys
from tests.billing.api.conftest import people, registry, services
from tests.billing.api.support import Api, serving
from tests.billing.identity.support import acting, join, new_organization, new_user, roles
from tests.billing.people_support import Registry
from tests.billing.support import Billing

__all__ = ["people", "registry", "services"]
DOMAIN = "example.com"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"


@dataclass
class Company:
    """An organization, and its directory that calls SCIM with a token. Paths are below /scim/v2."""

    api: Api
    registry: Registry
    services: Services
    organization: Organization
    owner: str
    token: str

    @property
    def billing(self) -> Billing:
        return self.registry.billing

    @property
    def keys(self) -> ApiKeys:
        return self.services.keys

    async def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        status: int | None = None,
        token: str | None = None,
        **more: Any,
    ) -> Any:
        headers = {"Authorization": f"Bearer {token or self.token}", **more.pop("headers", {})}
        given = {"json": json} if json is not None else {}
        async with self.api.client.request(method, f"/scim/v2{path}", headers=headers, **given, **more) as response:
            body = await response.json(content_type=None) if await response.read() else None
            if status is not None:
                assert response.status == status, (response.status, body)
            if body is not None:
                assert response.content_type == "application/scim+json"
                if response.status >= 400:
                    assert body["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
                    assert body["status"] == str(response.status)
            return body

    async def add(self, email: str, **more: Any) -> str:
        """A person of the directory; their id there."""
        made = await self.call("POST", "/Users", {"userName": email, **more}, status=201)
        return str(made["id"])

    async def group(self, name: str, *members: str, **more: Any) -> str:
        body = {"displayName": name, "members": [{"value": each} for each in members], **more}
        return str((await self.call("POST", "/Groups", body, status=201))["id"])

    async def patch(self, path: str, *operations: dict[str, Any], status: int = 200, **more: Any) -> Any:
        return await self.call(
            "PATCH", path, {"schemas": [PATCH], "Operations": list(operations)}, status=status, **more
        )

    async def found(self, path: str, text: str, **params: Any) -> list[str]:
        """The ids of what a filter holds for."""
        answer = await self.call("GET", path, params={"filter": text, **params}, status=200)
        assert answer["totalResults"] >= len(answer["Resources"])
        return [each["id"] for each in answer["Resources"]]

    async def person(self, email: str, **columns: Any) -> str:
        """A user who has proven this address."""
        return await new_user(self.billing, email, **columns)

    async def sign_in(self, user_id: str) -> None:
        """What directories are told of who signs in."""
        await self.registry.directories.signed_in(user_id, acting(user_id).actor)

    async def member(self, email: str) -> tuple[str, str]:
        """A person of the directory who has signed in: their ids there and here."""
        scim_id, user_id = await self.add(email), await self.person(email)
        await self.sign_in(user_id)
        return scim_id, user_id

    async def roles(self) -> dict[str, str]:
        return await roles(self.billing, self.organization)

    async def role(self, user_id: str) -> str | None:
        return (await self.roles()).get(user_id)

    async def invited(self, email: str, role: Any = "member") -> str:
        """A member by hand."""
        user_id = await self.person(email)
        await join(self.billing, self.organization, user_id, role)
        return user_id

    async def key(self, user_id: str) -> str:
        made, _ = await self.keys.create(self.organization.account_id, "k", user_id=user_id)
        return made.id

    async def works(self, key_id: str) -> bool:
        return (await self.keys.get(key_id)).revoked_at is None

    async def rules(self, *rules: tuple[Any, ...] | dict[str, Any]) -> None:
        made = [
            GroupRule(**each) if isinstance(each, dict) else GroupRule(group=each[0], role=each[1]) for each in rules
        ]
        await self.registry.directories.set_rules(self.organization.id, made, acting(self.owner))

    async def audited(self, action: str) -> list[dict[str, Any]]:
        return await self.registry.audited(action)


async def company_of(
    api: Api, registry: Registry, services: Services, name: str = "Acme", domain: str = DOMAIN
) -> Company:
    billing = registry.billing
    owner = await new_user(billing, f"boss@{domain}")
    organization = await new_organization(billing, name, owner, plan="enterprise")
    await registry.directories.set_domains(organization.id, [domain], acting(owner).actor)
    _, token = await services.scim.tokens.create(organization.id, "Okta", acting(owner))
    return Company(api, registry, services, organization, owner, token)


@pytest.fixture
async def api(services: Services, billing: Billing) -> AsyncIterator[Api]:
    async with serving(services, billing) as client:
        yield client


@pytest.fixture
async def company(api: Api, registry: Registry, services: Services) -> Company:
    return await company_of(api, registry, services)
