"""The permission matrix: every endpoint by every kind of caller, with the status that each is answered.

A new endpoint without a row fails. What is called upon (a member, a key, an invitation) is made anew after each call
that may have changed it, so that none depends on those before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from billing.api.operations import OPERATIONS
from billing.api.services import Services
from billing.identity.organizations import Organization
from tests.billing.api.support import ADMIN_KEY, Api, serving, token_of
from tests.billing.identity.support import join, new_organization, new_user
from tests.billing.people_support import CHEAP, GOOD
from tests.billing.support import Billing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVICE_KEY: Final = "service-key-of-the-tests"
# `expired` shows a token that is none any more; `narrow` an API key of the organization whose only scope no endpoint
# here needs; `stranger` owns another organization; `service` has the service key, `operator` the admin key.
CALLERS: Final = (
    "nobody",
    "expired",
    "narrow",
    "viewer",
    "member",
    "admin",
    "owner",
    "stranger",
    "service",
    "operator",
)
# What has to be sent to get as far as the check of a scope; others are sent `{}`, which many refuse with 400.
NEEDS_BODY: Final[dict[str, Any]] = {
    "PATCH /api/orgs/{org_id}": {"name": "Renamed"},
    "POST /api/orgs": {"name": "Another"},
    "POST /api/orgs/{org_id}/transfer-ownership": {"user_id": "{user_id}"},
    "PATCH /api/orgs/{org_id}/members/{user_id}": {"role": "viewer"},
    "PUT /api/orgs/{org_id}/members/{user_id}/quotas": {"quotas": []},
    "POST /api/orgs/{org_id}/invitations": {"email": "new@example.com"},
    "POST /api/billing/keys": {"name": "made"},
    "PATCH /api/billing/keys/{key_id}": {"name": "renamed"},
    "POST /api/billing/keys/{key_id}/rotate": {},
    "POST /api/auth/totp": {"password": GOOD},
    "PUT /api/billing/alerts": {"low_balance_usd": "7.50"},
    "POST /api/billing/coupons/redeem": {"code": "NOSUCHCODE"},
    "POST /api/billing/budgets": {"amount_usd": "10"},
    "POST /api/admin/accounts/{account_id}/budgets": {"amount_usd": "10"},
}


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
        await join(billing, organization, people[role], role)  # type: ignore[arg-type]
    await billing.database.execute("UPDATE users SET password_hash = $1", CHEAP.hash(GOOD))
    _, narrow = await billing.keys.create(organization.account_id, "narrow", scopes=("container:read",))
    async with serving(replace(services, service_api_key=SERVICE_KEY), billing) as api:
        yield World(api, billing, organization, people, narrow)


ANYONE: Final = [200] * 10
# Whoever asks: these need no caller, and a body.
BODY_WRONG: Final = [400] * 10
# What others than the operator are answered: a key is no token, and a person may be known and no operator.
OPERATOR: Final = [401, 401, 401, 403, 403, 403, 403, 403, 401]
SERVICE: Final = [401] * 8
# Everybody reads their own account; the stranger's is another one.
ACCOUNT: Final = [401, 401, 403, 200, 200, 200, 200, 200, 401, 401]
PERSON: Final = [401, 401, 401, 200, 200, 200, 200, 200, 401, 401]
PERSON_BODY: Final = [401, 401, 401, 400, 400, 400, 400, 400, 401, 401]
NONE: Final = [401, 401, 404, 404, 404, 404, 404, 404, 401, 401]
SETUP_NONE: Final = [401, 401, 403, 403, 403, 404, 404, 404, 401, 401]
# With the scope `billing:setup`: of what there is none, or without the body.
SETUP_BODY: Final = [401, 401, 400, 400, 400, 400, 400, 400, 401, 401]
READ_ORG: Final = [401, 401, 403, 200, 200, 200, 200, 404, 401, 401]
CHANGE_ORG: Final = [401, 401, 401, 403, 403, 200, 200, 404, 401, 401]
DELETE_IN_ORG: Final = [401, 401, 401, 403, 403, 204, 204, 404, 401, 401]
# A key of another member.
CHANGE_KEY: Final = [401, 401, 403, 403, 403, 200, 200, 404, 401, 401]
# By the callers, in their order. 503 is what says that a store of the API's tests is away: somebody was let in.
MATRIX: Final[dict[str, list[int]]] = {
    "POST /api/admin/accounts": [*OPERATOR, 400],
    "POST /api/admin/login-links": [*OPERATOR, 201],
    "GET /api/admin/accounts": [*OPERATOR, 200],
    "GET /api/admin/accounts/{account_id}": [*OPERATOR, 200],
    "PATCH /api/admin/accounts/{account_id}": [*OPERATOR, 200],
    "PUT /api/admin/accounts/{account_id}/quotas": [*OPERATOR, 400],
    "GET /api/admin/accounts/{account_id}/users/quotas": [*OPERATOR, 200],
    "GET /api/admin/accounts/{account_id}/users/{user_id}/quotas": [*OPERATOR, 200],
    "PUT /api/admin/accounts/{account_id}/users/{user_id}/quotas": [*OPERATOR, 400],
    "POST /api/admin/accounts/{account_id}/grants": [*OPERATOR, 400],
    "POST /api/admin/accounts/{account_id}/refunds": [*OPERATOR, 400],
    "POST /api/admin/accounts/{account_id}/adjustments": [*OPERATOR, 400],
    "GET /api/admin/accounts/{account_id}/lots": [*OPERATOR, 200],
    "POST /api/admin/coupons": [*OPERATOR, 400],
    "GET /api/admin/coupons": [*OPERATOR, 200],
    "DELETE /api/admin/coupons/{coupon_id}": [*OPERATOR, 404],
    "POST /api/admin/reprice": [*OPERATOR, 400],
    "POST /api/admin/keys": [*OPERATOR, 400],
    "GET /api/admin/keys": [*OPERATOR, 200],
    "GET /api/admin/keys/{key_id}": [*OPERATOR, 200],
    "PATCH /api/admin/keys/{key_id}": [*OPERATOR, 200],
    "DELETE /api/admin/keys/{key_id}": [*OPERATOR, 204],
    "POST /api/admin/keys/{key_id}/rotate": [*OPERATOR, 200],
    "GET /api/admin/refusals": [*OPERATOR, 503],
    "GET /api/admin/refusals/{request_id}": [*OPERATOR, 503],
    "GET /api/admin/plans": [*OPERATOR, 200],
    "GET /api/admin/settings": [*OPERATOR, 200],
    "GET /api/admin/providers": [*OPERATOR, 200],
    "GET /api/admin/margin": [*OPERATOR, 200],
    "GET /api/admin/providers/{provider}/bill": [*OPERATOR, 404],
    "POST /api/admin/providers/{provider}/bill": [*OPERATOR, 400],
    "GET /api/admin/jobs/runs": [*OPERATOR, 503],
    "GET /api/admin/exporters/subjects": [*OPERATOR, 503],
    "POST /api/admin/exporters/subjects/assign": [*OPERATOR, 400],
    "GET /api/admin/exports": [*OPERATOR, 200],
    "GET /api/admin/exports/parked": [*OPERATOR, 200],
    "POST /api/admin/exports/retry": [*OPERATOR, 400],
    "GET /api/admin/audit": [*OPERATOR, 200],
    "POST /api/webhooks/stripe": [404] * 10,
    "GET /api/admin/payments/events": [*OPERATOR, 404],
    "POST /api/admin/payments/events/{event_id}/replay": [*OPERATOR, 404],
    "GET /api/admin/payments/reconcile": [*OPERATOR, 404],
    "POST /api/admin/payments/reconcile": [*OPERATOR, 400],
    "GET /api/admin/users": [*OPERATOR, 200],
    "GET /api/admin/users/{user_id}": [*OPERATOR, 200],
    "PATCH /api/admin/users/{user_id}": [*OPERATOR, 200],
    "PUT /api/admin/orgs/{org_id}/owners/{user_id}": [*OPERATOR, 200],
    "GET /api/service/accounts/{account_id}/balance": [*SERVICE, 200, 401],
    "POST /api/service/check": [*SERVICE, 400, 401],
    "POST /api/service/debits": [*SERVICE, 400, 401],
    "POST /api/service/usage": [*SERVICE, 400, 401],
    "POST /api/service/holds": [*SERVICE, 400, 401],
    "POST /api/service/keys/check": [*SERVICE, 400, 401],
    "GET /api/service/holds/{hold_id}": [*SERVICE, 503, 401],
    "POST /api/service/holds/{hold_id}/settle": [*SERVICE, 503, 401],
    "POST /api/service/holds/{hold_id}/void": [*SERVICE, 503, 401],
    "POST /api/webhooks/endpoints": SETUP_BODY,
    "POST /api/admin/webhooks/endpoints": [*OPERATOR, 400],
    "GET /api/webhooks/endpoints": ACCOUNT,
    "GET /api/admin/webhooks/endpoints": [*OPERATOR, 200],
    "GET /api/webhooks/endpoints/{endpoint_id}": NONE,
    "GET /api/admin/webhooks/endpoints/{endpoint_id}": [*OPERATOR, 404],
    "PATCH /api/webhooks/endpoints/{endpoint_id}": SETUP_NONE,
    "PATCH /api/admin/webhooks/endpoints/{endpoint_id}": [*OPERATOR, 404],
    "DELETE /api/webhooks/endpoints/{endpoint_id}": SETUP_NONE,
    "DELETE /api/admin/webhooks/endpoints/{endpoint_id}": [*OPERATOR, 404],
    "POST /api/webhooks/endpoints/{endpoint_id}/rotate": SETUP_NONE,
    "POST /api/admin/webhooks/endpoints/{endpoint_id}/rotate": [*OPERATOR, 404],
    "POST /api/webhooks/endpoints/{endpoint_id}/test": SETUP_NONE,
    "POST /api/admin/webhooks/endpoints/{endpoint_id}/test": [*OPERATOR, 404],
    "GET /api/webhooks/endpoints/{endpoint_id}/deliveries": NONE,
    "GET /api/admin/webhooks/endpoints/{endpoint_id}/deliveries": [*OPERATOR, 404],
    "POST /api/webhooks/endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver": SETUP_NONE,
    "POST /api/admin/webhooks/endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver": [*OPERATOR, 404],
    "GET /api/billing/status": ACCOUNT,
    "GET /api/billing/plans/{plan_id}/preview": NONE,
    "GET /api/account/usage/refusals": [401, 401, 503, 503, 503, 503, 503, 503, 401, 401],
    "GET /api/account/usage/refusals/{request_id}": [401, 401, 503, 503, 503, 503, 503, 503, 401, 401],
    "GET /api/billing/subscription": NONE,
    "PUT /api/billing/subscription": SETUP_BODY,
    "GET /api/service/accounts/{account_id}/features": [*SERVICE, 200, 401],
    "POST /api/service/features/use": [*SERVICE, 400, 401],
    "GET /api/roles": ANYONE,
    "GET /api/ping": ANYONE,
    "GET /api/hello": ANYONE,
    "GET /api/orgs": PERSON,
    "POST /api/orgs": [401, 401, 401, 201, 201, 201, 201, 201, 401, 401],
    "GET /api/orgs/{org_id}": READ_ORG,
    "PATCH /api/orgs/{org_id}": CHANGE_ORG,
    "POST /api/orgs/{org_id}/transfer-ownership": [401, 401, 401, 403, 403, 403, 200, 404, 401, 401],
    "POST /api/orgs/{org_id}/close": [401, 401, 401, 403, 403, 403, 200, 404, 401, 401],
    "GET /api/orgs/{org_id}/members": READ_ORG,
    "GET /api/orgs/{org_id}/members/{user_id}": READ_ORG,
    "PATCH /api/orgs/{org_id}/members/{user_id}": CHANGE_ORG,
    "DELETE /api/orgs/{org_id}/members/{user_id}": DELETE_IN_ORG,
    "GET /api/orgs/{org_id}/members/{user_id}/quotas": READ_ORG,
    "PUT /api/orgs/{org_id}/members/{user_id}/quotas": CHANGE_ORG,
    "GET /api/orgs/{org_id}/invitations": READ_ORG,
    "POST /api/orgs/{org_id}/invitations": [401, 401, 401, 403, 403, 201, 201, 404, 401, 401],
    "DELETE /api/orgs/{org_id}/invitations/{invitation_id}": DELETE_IN_ORG,
    "POST /api/orgs/{org_id}/invitations/{invitation_id}/resend": CHANGE_ORG,
    "POST /api/invitations/{token}/accept": [401, 401, 401, 404, 404, 404, 404, 404, 401, 401],
    "POST /api/billing/keys": [401, 401, 403, 403, 201, 201, 201, 201, 401, 401],
    "GET /api/billing/keys": ACCOUNT,
    "POST /api/billing/keys/revoke-leaked": BODY_WRONG,
    "GET /api/billing/keys/{key_id}": READ_ORG,
    "PATCH /api/billing/keys/{key_id}": CHANGE_KEY,
    "DELETE /api/billing/keys/{key_id}": [401, 401, 403, 403, 403, 204, 204, 404, 401, 401],
    "POST /api/billing/keys/{key_id}/rotate": CHANGE_KEY,
    "GET /api/billing/keys/{key_id}/usage": READ_ORG,
    "GET /api/billing/auto-recharge": ACCOUNT,
    "PUT /api/billing/auto-recharge": [401, 401, 400, 400, 400, 400, 400, 400, 401, 401],
    "GET /api/billing/alerts": ACCOUNT,
    "PUT /api/billing/alerts": [401, 401, 403, 403, 403, 200, 200, 200, 401, 401],
    "GET /api/billing/lots": ACCOUNT,
    "POST /api/billing/budgets": [401, 401, 403, 403, 403, 201, 201, 201, 401, 401],
    "GET /api/billing/budgets": ACCOUNT,
    "GET /api/billing/budgets/{budget_id}": NONE,
    "PATCH /api/billing/budgets/{budget_id}": SETUP_NONE,
    "DELETE /api/billing/budgets/{budget_id}": SETUP_NONE,
    "POST /api/admin/accounts/{account_id}/budgets": [*OPERATOR, 201],
    "GET /api/admin/accounts/{account_id}/budgets": [*OPERATOR, 200],
    "GET /api/admin/accounts/{account_id}/budgets/{budget_id}": [*OPERATOR, 404],
    "PATCH /api/admin/accounts/{account_id}/budgets/{budget_id}": [*OPERATOR, 404],
    "DELETE /api/admin/accounts/{account_id}/budgets/{budget_id}": [*OPERATOR, 404],
    "POST /api/billing/setup": SETUP_NONE,
    "POST /api/billing/portal": SETUP_NONE,
    "POST /api/billing/checkout": SETUP_NONE,
    "GET /api/billing/orders": NONE,
    "GET /api/billing/orders/{order_id}": NONE,
    "GET /api/billing/invoices": NONE,
    "GET /api/billing/plans": ACCOUNT,
    "GET /api/admin/payments/charges": [*OPERATOR, 404],
    "GET /api/admin/orders": [*OPERATOR, 404],
    "GET /api/admin/orders/{order_id}": [*OPERATOR, 404],
    "POST /api/admin/orders/{order_id}/refunds": [*OPERATOR, 400],
    "GET /api/admin/payments/parked": [*OPERATOR, 404],
    "POST /api/admin/payments/parked/{parked_id}/credit": [*OPERATOR, 404],
    "POST /api/admin/payments/parked/{parked_id}/dismiss": [*OPERATOR, 400],
    "POST /api/billing/coupons/redeem": [401, 401, 403, 403, 403, 404, 404, 404, 401, 401],
    "GET /api/account/balance": ACCOUNT,
    "GET /api/account/transactions": ACCOUNT,
    "GET /api/account/billing/summary": ACCOUNT,
    "GET /api/account/usage/buckets": ACCOUNT,
    "GET /api/account/usage/summary": ACCOUNT,
    "GET /api/account/usage/events": ACCOUNT,
    "GET /api/account/usage/events/{event_id}": NONE,
    "GET /api/billing/usage": ACCOUNT,
    "GET /api/account/audit": [401, 401, 403, 403, 403, 200, 200, 200, 401, 401],
    "POST /api/auth/register": BODY_WRONG,
    "POST /api/auth/otp": BODY_WRONG,
    "POST /api/auth/verify": BODY_WRONG,
    "POST /api/auth/login": BODY_WRONG,
    "POST /api/auth/password/forgot": BODY_WRONG,
    "POST /api/auth/password/reset": BODY_WRONG,
    "POST /api/auth/password": PERSON_BODY,
    "POST /api/auth/email": PERSON_BODY,
    "POST /api/auth/email/confirm": PERSON_BODY,
    "POST /api/auth/totp": [401, 401, 401, 201, 201, 201, 201, 201, 401, 401],
    "POST /api/auth/totp/confirm": PERSON_BODY,
    "POST /api/auth/totp/disable": [401] * 10,  # of who has no code at hand, too
    "POST /api/auth/totp/recovery-codes": [401] * 10,
    "GET /api/auth/me": PERSON,
    "GET /api/auth/oidc/{provider}": [404] * 10,
    "POST /api/auth/oidc/{provider}": [401, 401, 401, 404, 404, 404, 404, 404, 401, 401],
    "GET /api/auth/oidc/{provider}/callback": [404] * 10,
    "POST /api/auth/refresh": BODY_WRONG,
    "POST /api/auth/token": PERSON_BODY,
    "POST /api/auth/logout": [401, 401, 401, 400, 400, 400, 400, 400, 401, 401],  # tokens of tests have no id to end
    "POST /api/auth/revoke": PERSON_BODY,
    "POST /api/auth/revoke-all": PERSON,
    "GET /api/auth/sessions": PERSON,
    "DELETE /api/auth/sessions/{session_id}": [401, 401, 401, 404, 404, 404, 404, 404, 401, 401],
    "PATCH /api/auth/me": PERSON_BODY,
}


def test_every_endpoint_has_a_row() -> None:
    assert {f"{each.method} {each.path}" for each in OPERATIONS} == set(MATRIX)


async def test_the_matrix(world: World) -> None:
    found: dict[str, list[int]] = {}
    targets = await world.targets()
    for route in MATRIX:
        found[route] = []
        for caller in CALLERS:
            found[route].append(await world.status(route, caller, targets))
            if not route.startswith("GET") and found[route][-1] < 400:
                await world.forget()
                targets = await world.targets()
    assert {route: dict(zip(CALLERS, row, strict=True)) for route, row in found.items() if row != MATRIX[route]} == {}
