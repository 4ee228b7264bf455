"""No sequence of calls as one organization changes or reveals anything of another's."""

import re
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from billing.api.operation import Access, Operation
from billing.api.operations import (
    AccountOperations,
    BudgetOperations,
    CreditOperations,
    OrganizationOperations,
    OversightOperations,
    OwnKeyOperations,
    ReportOperations,
    UsageOperations,
    WebhookOperations,
)
from billing.identity.organizations import Organization
from billing.permissions import ROLES, SCOPES
from billing.schemas.accounts import NewQuotas
from billing.schemas.credit import AlertBody, BudgetPatch, CouponCodeBody, NewBudget, RechargeBody
from billing.schemas.keys import KeyPatch, NewOwnKey, Rotation
from billing.schemas.people import Closing, NewInvitation, NewOrganization, OrganizationPatch, RolePatch, Transfer
from billing.schemas.webhooks import EndpointPatch, NewEndpoint
from billing.usage import Usage
from tests.billing.api.support import Answer, Api, token_of
from tests.billing.identity.support import join, new_organization, new_user, token_sent
from tests.billing.support import Billing

# In every name and address of the organization that is to be left alone, and in nothing else.
MARK = "xyzzy"
QUOTA = {"window": "day", "metric": "tokens", "limit": 9}
GROUPS = (
    OrganizationOperations,
    OwnKeyOperations,
    OversightOperations,
    AccountOperations,
    BudgetOperations,
    CreditOperations,
    ReportOperations,
    UsageOperations,
    WebhookOperations,
)
OWN = tuple(
    each
    for group in GROUPS
    for each in vars(group).values()
    if isinstance(each, Operation)
    and each.who in (Access.caller, Access.person, Access.key)
    and "/refusals" not in each.path  # which Redis has, and none is here: tests/gateway/commands/test_money.py
)
EITHER = st.sampled_from(["own", "other", "none"])
ROLE = st.sampled_from(sorted(ROLES))
# What each body may be; `own`, `other` and `none` stand for a user's id.
BODIES = {
    NewOrganization: st.just({"name": "New"}),
    OrganizationPatch: st.sampled_from([{"name": "Changed"}, {"slug": "changed"}]),
    RolePatch: st.fixed_dictionaries({"role": ROLE}),
    Transfer: st.fixed_dictionaries({"user_id": EITHER, "become": ROLE}),
    NewInvitation: st.fixed_dictionaries({"email": st.just("new@example.com"), "role": ROLE}),
    NewQuotas: st.just({"quotas": [QUOTA]}),
    NewOwnKey: st.fixed_dictionaries(
        {"name": st.just("new")},
        optional={"user_id": EITHER, "scopes": st.sampled_from(["llm:proxy", "keys:admin keys:read"])},
    ),
    KeyPatch: st.sampled_from([{"name": "changed"}, {"quotas": [QUOTA]}, {"scopes": "llm:proxy billing:read"}]),
    Rotation: st.sampled_from([{}, {"grace_seconds": 60}]),
    NewBudget: st.fixed_dictionaries(
        {"amount_usd": st.just("1"), "subject": st.sampled_from(["user", "key"]), "subject_id": EITHER}
    ),
    BudgetPatch: st.just({"amount_usd": "2"}),
    AlertBody: st.just({"low_balance_usd": "3"}),
    CouponCodeBody: st.just({"code": "NOSUCHCODE"}),
    RechargeBody: st.just({"enabled": False, "threshold_usd": "1", "amount_usd": "5", "monthly_cap_usd": "9"}),
    Closing: st.just({}),
    NewEndpoint: st.just({"url": "https://hooks.example.com/"}),
    EndpointPatch: st.just({"description": "changed"}),
}


@dataclass(frozen=True)
class Side:
    """An organization with its people, keys and ids, by the names that paths and queries have for them."""

    organization: Organization
    people: list[str]
    secrets: list[str]
    ids: dict[str, str]


async def side(billing: Billing, mark: str) -> Side:
    """An organization with somebody of each role, a key, an invitation and a metered request."""
    unique = f"{mark}-{billing.new_id().lower()}"
    people = {role: await new_user(billing, f"{role}-{unique}@example.com") for role in ROLES}
    organization = await new_organization(billing, f"Org {unique}", people["owner"], plan="starter")
    for role in ROLES:
        if role != "owner":
            await join(billing, organization, people[role], role)
    user, account_id = people["member"], organization.account_id
    key, secret = await billing.keys.create(
        account_id, f"key {unique}", user_id=user, scopes=tuple(SCOPES), tags={"of": unique}
    )
    _, machine = await billing.keys.create(account_id, f"machine {unique}", scopes=tuple(SCOPES))
    await billing.grants.grant(account_id, 10**9, unique, unique)
    event_id = await billing.debit(account_id, key.id, Usage(input_tokens=1), model=f"model-{unique}")
    ids = {"org_id": organization.id, "user_id": user, "key_id": key.id, "event_id": event_id, "account_id": account_id}
    return Side(organization, list(people.values()), [secret, machine], ids)


async def invited(api: Api, billing: Billing, of: Side, email: str) -> Side:
    """The same with an open invitation, a webhook's endpoint and a budget."""
    made = {"delivery_id": "whd_none"}
    for name, path, body in (
        ("invitation_id", f"/orgs/{of.organization.id}/invitations", {"email": email}),
        ("endpoint_id", "/webhooks/endpoints", {"url": "https://hooks.example.com/", "description": email}),
        ("budget_id", "/billing/budgets", {"amount_usd": "1", "tag": f"of={email}", "subject": "tag"}),
    ):
        sent = await api.person(of.people[0], "POST", path, body)
        assert sent.status == 201, sent.json
        made[name] = sent.json["id"]
    return Side(of.organization, of.people, of.secrets, of.ids | made | {"token": await token_sent(billing, email)})


async def everything(billing: Billing, of: Side) -> list[str]:
    """All rows that are an organization's."""
    found = []
    for table, where in (
        ("organizations", "id = $1"),
        ("memberships", "org_id = $1"),
        ("invitations", "org_id = $1"),
        ("users", "id IN (SELECT user_id FROM memberships WHERE org_id = $1)"),
        ("accounts", "id = (SELECT account_id FROM organizations WHERE id = $1)"),
        ("api_keys", "account_id = (SELECT account_id FROM organizations WHERE id = $1)"),
        ("member_limits", "account_id = (SELECT account_id FROM organizations WHERE id = $1)"),
        *((table, "account_id = (SELECT account_id FROM organizations WHERE id = $1)") for table in FURTHER),
        ("audit_log", "account_id = (SELECT account_id FROM organizations WHERE id = $1)"),
    ):
        query = f"SELECT to_jsonb({table})::text AS said FROM {table} WHERE {where} ORDER BY 1"  # noqa: S608
        rows = await billing.database.rows(query, of.organization.id)
        assert rows or table == "member_limits", table
        found += [row["said"] for row in rows]
    return found


FURTHER = ("budgets", "webhook_endpoints", "lots")


@dataclass(frozen=True)
class Step:
    """One call: `places` says for each name in path, query and body which account's id it takes."""

    operation: Operation[..., Any]
    who: int
    header: str | None
    places: dict[str, str]
    body: dict[str, Any] | None


NAMES = (
    "org_id",
    "user_id",
    "key_id",
    "event_id",
    "account_id",
    "invitation_id",
    "token",
    "endpoint_id",
    "budget_id",
    "delivery_id",
)
STEPS = st.sampled_from(OWN).flatmap(
    lambda operation: st.builds(
        Step,
        st.just(operation),
        st.integers(0, 5),
        st.sampled_from([None, None, "own", "other"]),
        st.fixed_dictionaries(dict.fromkeys(NAMES, EITHER)),
        st.none() if operation.body is None else BODIES[operation.body],
    )
)


async def call(api: Api, step: Step, own: Side, other: Side) -> Answer:
    """Make a call as one of the organization's people or keys."""
    ids = {"own": own.ids, "other": other.ids, "none": dict.fromkeys(NAMES, "nothing")}
    named = {name: ids[place][name] for name, place in step.places.items()}
    callers = [*(token_of(user_id) for user_id in own.people), *own.secrets]
    headers = {"Authorization": f"Bearer {callers[step.who]}"}
    if step.header is not None:
        headers["X-Organization-Id"] = ids[step.header]["org_id"]
    body = step.body
    if body is not None and "user_id" in body:
        body = {**body, "user_id": ids[body["user_id"]]["user_id"]}
    if body is not None and "subject_id" in body:
        body = {**body, "subject_id": ids[body["subject_id"]][f"{body['subject']}_id"]}
    asked = () if step.operation.query is None else step.operation.query.__struct_fields__
    params = {name: named[name] for name in asked if name in named}
    options = {} if body is None else {"json": body}
    path = re.sub(r"\{(\w+)[^}]*\}", lambda part: named[part[1]], step.operation.path)
    return await api.call(step.operation.method, path, headers=headers, params=params, **options)


@settings(
    max_examples=12,
    phases=(Phase.explicit, Phase.generate),  # a shorter example would take minutes to find
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(STEPS, min_size=20, max_size=30))
async def test_one_organization_neither_sees_nor_changes_another(api, billing, steps):
    other = await invited(
        api, billing, await side(billing, MARK), f"friend-{MARK}-{billing.new_id().lower()}@example.com"
    )
    own = await invited(
        api, billing, await side(billing, "mine"), f"friend-mine-{billing.new_id().lower()}@example.com"
    )
    before = await everything(billing, other)
    for step in steps:
        answer = await call(api, step, own, other)
        assert answer.status < 500, (step, answer.json)
        assert MARK not in str(answer.json), (step, answer.json)
        in_path = [name for name in NAMES if f"{{{name}" in step.operation.path]
        if any(step.places[name] != "own" for name in in_path):
            assert answer.status in (400, 401, 403, 404), (step, answer.json)
    assert await everything(billing, other) == before
