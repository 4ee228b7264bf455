"""The permission matrix: every endpoint by every kind of caller, with the status that each is answered.

A new endpoint without a row fails. What is called upon (a member, a key, an invitation) is made anew after each call
that may have changed it, so that none depends on those before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from billing.api.operations import OPERATIONS
from billing.api.services import Services
from billing.identity.organizations import Organization
from tests.billing.api.support import ADMIN_KEY, Api, serving, token_of
from tests.billing.identity.support import join, new_organization, new_user
from tests.billing.people_support import CHEAP, GOOD
from tests.billing.support import Billing
from tests.support.tables import Tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVICE_KEY = "service-key-of-the-tests"
TABLES = Tables(__file__).content
CALLERS = TABLES["callers"]
NEEDS_BODY = TABLES["bodies"]
MATRIX = TABLES["statuses"]


@dataclass(frozen=True)
class World:
    """The API, an organization with one person of each role, and an organization of somebody else."""

    api: Api
    billing: Billing
    organization: Organization
    people: dict[str, str]
    narrow_key: str

    def headers(self, caller: str) -> dict[str, str]:
        match caller:
            case "nobody":
                return {}
            case "service":
                return {"X-API-Key": SERVICE_KEY, "X-Service-Name": "tests"}
            case "operator":
                return {"X-Admin-Key": ADMIN_KEY}
            case "narrow":
                return {"Authorization": f"Bearer {self.narrow_key}"}
        return {"Authorization": f"Bearer {token_of(self.people.get(caller, 'usr_gone'))}"}

    async def targets(self) -> dict[str, str]:
        """A member of the lowest role with a key of their own, and an invitation: for calls until one changes them."""
        billing, organization = self.billing, self.organization
        user_id = await new_user(billing, f"{billing.new_id()}@example.com".lower())
        await join(billing, organization, user_id, "viewer")
        key, _ = await billing.keys.create(organization.account_id, "target", user_id=user_id)
        invitation_id = f"inv_{billing.new_id()}"
        await billing.database.execute(
            "INSERT INTO invitations (id, org_id, email, role, digest, expires_at)"
            " VALUES ($1, $2, $3, 'viewer', sha256($4), now() + interval '1 day')",
            invitation_id,
            organization.id,
            f"{invitation_id}@example.com".lower(),
            invitation_id.encode(),
        )
        return {
            "org_id": organization.id,
            "account_id": organization.account_id,
            "user_id": user_id,
            "key_id": key.id,
            "invitation_id": invitation_id,
            "event_id": "req_none",
            "request_id": "req_none",
            "plan_id": "starter",
            "session_id": "ses_none",
            "hold_id": "hold_none",
            "coupon_id": "cpn_none",
            "budget_id": "bdg_none",
            "endpoint_id": "whe_none",
            "delivery_id": "whd_none",
            "order_id": "ord_none",
            "parked_id": "prk_none",
            "provider": "none",
            "token": "no-such-token",
            "token_id": "sct_none",
        }

    async def forget(self) -> None:
        """Take the targets out of the organization, whose members are bounded, and bring its owner back."""
        execute, organization = self.billing.database.execute, self.organization
        people = list(self.people.values())
        await execute("DELETE FROM memberships WHERE org_id = $1 AND user_id <> ALL($2)", organization.id, people)
        await execute("UPDATE memberships SET role = 'owner' WHERE user_id = $1", self.people["owner"])
        await execute("DELETE FROM invitations WHERE org_id = $1", organization.id)

    async def status(self, route: str, caller: str, targets: dict[str, str]) -> int:
        """Return the status of a call."""
        method, path = route.split(" ")
        options: dict[str, Any] = {}
        if method != "GET":
            body = NEEDS_BODY.get(route, {})
            options["json"] = {name: _filled(value, targets) for name, value in body.items()}
        url = path.format_map(targets)
        async with self.api.client.request(
            method, url, headers=self.headers(caller), allow_redirects=False, **options
        ) as answer:
            await answer.read()
            return answer.status


def _filled(value: Any, targets: dict[str, str]) -> Any:
    return value.format_map(targets) if isinstance(value, str) else value


@pytest.fixture
async def world(services: Services, billing: Billing) -> AsyncIterator[World]:
    people = {name: await new_user(billing, f"{name}@example.com") for name in ("owner", "stranger")}
    organization = await new_organization(billing, "Acme", people["owner"], plan="enterprise")
    await new_organization(billing, "Other", people["stranger"])
    for role in ("viewer", "member", "admin"):
        people[role] = await new_user(billing, f"{role}@example.com")
        await join(billing, organization, people[role], role)
    await billing.database.execute("UPDATE users SET password_hash = $1", CHEAP.hash(GOOD))
    _, narrow = await billing.keys.create(organization.account_id, "narrow", scopes=("container:read",))
    async with serving(replace(services, service_api_key=SERVICE_KEY), billing) as api:
        yield World(api, billing, organization, people, narrow)


def test_every_endpoint_has_a_row():
    assert {f"{each.method} {each.path}" for each in OPERATIONS} == set(MATRIX)


async def test_the_matrix(world):
    found = {}
    targets = await world.targets()
    for route in MATRIX:
        found[route] = []
        for caller in CALLERS:
            found[route].append(await world.status(route, caller, targets))
            if not route.startswith("GET") and found[route][-1] < 400:
                await world.forget()
                targets = await world.targets()
    assert {route: dict(zip(CALLERS, row, strict=True)) for route, row in found.items() if row != MATRIX[route]} == {}
