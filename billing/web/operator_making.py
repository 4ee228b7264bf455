"""Operators: what they make by hand (accounts, keys, coupons, webhooks), coupons, a plan with its price list, and pages
seen as a customer sees them.

What a customer sees is looked at as by a viewer of the organization: nothing can be changed, and both ends are in the
audit log. Which account that is stands in the operator's session: nothing that a browser sends chooses one unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from billing.api.accounts import create_account, get_account
from billing.api.credit import create_coupon, disable_coupon, list_coupons
from billing.api.keys import create_key
from billing.api.requests import NotFound
from billing.errors import AccountNotFound
from billing.permissions import ROLES
from billing.principals import Caller
from billing.quotas import names_model
from billing.schemas.accounts import NewAccount
from billing.schemas.base import PageQuery
from billing.schemas.credit import NewCouponBody
from billing.schemas.keys import NewKey
from billing.web.forms import count_typed, texts
from billing.web.lists import Act, Column, Field, Figure, Form, Listed, detailed, listed, once
from billing.web.pages import NOTICES, Page, View, Visit, Who

if TYPE_CHECKING:
    from aiohttp import web

    from billing.schemas.system import PricingShape

NOTICES.update(
    {
        "account-made": "The account is created, with no credit yet.",
        "coupon-ended": "The coupon can no longer be redeemed; what was redeemed stays.",
        "seen-ended": "These are the operators' pages again.",
    }
)
_COUPONS: Final = (
    Column("Created", "created_at", "time"),
    Column("Coupon", "name"),
    Column("Credit", "amount_usd", "money"),
    Column("Redeemed", "redemptions", "count"),
    Column("At most", "max_redemptions", "count"),
    Column("Until", "expires_at", "time"),
    Column("Its credit lasts (days)", "credit_days", "count"),
    Column("Disabled", "disabled_at", "time"),
)

# What a plan's own page has, of `billing.plans.Plan`.
PLAN_FACTS: Final = (
    Column("Id", "id", "code"),
    Column("A month", "price_nano", "money"),
    Column("Included credit", "included_credit_nano", "money"),
    Column("Users", "users"),
    Column("At once", "max_parallel_requests"),
    Column("Upgrade", "upgrade_to"),
    Column("Price at Stripe", "stripe_price", "code"),
)


async def new_account(visit: Visit) -> View:
    """Show the form of a new account."""
    plans = tuple((each, visit.services.plans[each].name) for each in visit.services.plans)
    fields = (
        Field("name", "Name", required=True),
        Field("plan", "Plan", value=visit.services.default_plan, options=plans),
        Field("credit_limit_usd", "Credit limit (USD)", value="0", hint="how far below zero its balance may go"),
        Field("tz", "Time zone", hint="such as Europe/Berlin; empty: UTC"),
    )
    form = Form("Create an account", "/operator/accounts/new", "Create", fields, "It has no organization, no members.")
    return listed("Create an account", forms=(form,))


async def make_account(visit: Visit) -> web.Response:
    """Make an account."""
    limit = visit.field("credit_limit_usd")
    body = visit.body(
        NewAccount, name=visit.field("name"), plan=visit.field("plan"), credit_limit_usd=limit, tz=visit.field("tz")
    )
    return visit.see(f"/operator/accounts/{(await create_account(visit.call, body)).id}", "account-made")


async def new_key(visit: Visit) -> View:
    """Show the form of a new key."""
    asked = visit.request.query.get("account_id", "")
    fields = (
        Field("account_id", "Account", value=asked, required=True, picks="account", hint="a name, or an id"),
        Field("name", "Name", required=True),
        Field("models", "Models", hint="separated by commas, such as gpt-*; empty: every model of its plan"),
        Field("scopes", "Scopes", hint="separated by commas; empty: llm:proxy, billing:read"),
        Field("expires_at", "Expires", "datetime-local", hint="UTC; empty: never"),
    )
    form = Form("Create a key", "/operator/keys/new", "Create", fields, "Its secret is shown once, on the next page.")
    return listed("Create a key", forms=(form,))


async def make_key(visit: Visit) -> View:
    """Make a key, and show its secret, this once."""
    expires = visit.field("expires_at")
    given = {"models": texts(visit.typed("models")) or None, "scopes": texts(visit.typed("scopes")) or None}
    ends = None if expires is None else expires if expires.endswith("Z") else f"{expires}Z"
    account_id, name = visit.field("account_id"), visit.field("name")
    body = visit.body(NewKey, account_id=account_id, name=name, expires_at=ends, **given)
    made = await create_key(visit.call, body)
    return once(f"Key {made.name}", made.key, "/operator/keys", "Keys")


async def coupons(visit: Visit) -> View:
    """Show coupons, and have them made and ended."""
    found = await list_coupons(visit.call, visit.query(PageQuery))
    end = Act("Disable", "/operator/coupons/{id}/end", danger=True, only="disabled_at", among=(None,))
    fields = (
        Field("name", "Name", required=True, hint="for you; customers see the code"),
        Field("amount_usd", "Credit (USD)", required=True),
        Field("code", "Code", hint="6 to 64 letters and digits; empty: one is generated"),
        Field("max_redemptions", "Accounts at most", hint="empty: any number"),
        Field("credit_days", "Its credit lasts (days)", hint="empty: for good"),
        Field("expires_at", "Redeemed until", "date", hint="empty: no end"),
    )
    form = Form("Create a coupon", "/operator/coupons", "Create", fields, "Its code is shown once, on the next page.")
    table = Listed("Newest first", _COUPONS, found.data, found.next_cursor, (end,), empty="There are no coupons.")
    return listed("Coupons", table, forms=(form,))


async def make_coupon(visit: Visit) -> View:
    """Make a coupon, and show its code, this once."""
    numbers = {name: _number(visit, name) for name in ("max_redemptions", "credit_days")}
    given = {name: visit.field(name) for name in ("name", "amount_usd", "code", "expires_at")}
    made = await create_coupon(visit.call, visit.body(NewCouponBody, **given, **numbers))
    return once(f"Coupon {made.name}", made.code, "/operator/coupons", "Coupons")


def _number(visit: Visit, name: str) -> int | str | None:
    typed = visit.field(name)
    return None if typed is None else typed if (number := count_typed(typed)) is None else number


async def end_coupon(visit: Visit) -> web.Response:
    """Let a coupon be redeemed no more."""
    await disable_coupon(visit.call)
    return visit.see("/operator/coupons", "coupon-ended")


@dataclass(frozen=True, slots=True)
class _Priced:
    """A model in a plan's price list: what customers pay, and what the provider charges."""

    model: str
    provider: str
    pays: PricingShape
    costs: PricingShape | None


_PRICED: Final = (
    Column("Model", "model", "code"),
    Column("From", "provider"),
    Column("Customers pay", "pays", "prices"),
    Column("Provider", "costs", "prices"),
)


async def plan(visit: Visit) -> View:
    """Show a plan with its price list: what its customers pay for each model, beside what the provider charges."""
    services, plan_id = visit.services, visit.request.match_info["plan_id"]
    found = services.plans.get(plan_id)
    if found is None:
        raise NotFound("There is no such plan.")
    costs = {each.id: each.pricing for each in services.models(None)}
    rows = [
        _Priced(each.id, each.owned_by, each.pricing, costs.get(each.id))
        for each in services.models(found)
        if names_model(found.models, each.id)
    ]
    table = Listed(
        "Price list, in dollars for a million tokens", _PRICED, rows, empty="No model of this plan has a price."
    )
    paid = Figure("Subscriptions", "those that are paid for", path=f"/operator/payments/subscriptions?plan={plan_id}")
    return detailed(f"Plan {found.name}", found, PLAN_FACTS, table, figures=(paid,))


async def see(visit: Visit) -> web.Response:
    """Have the pages be those of an account, as its viewers see them."""
    shown = await get_account(visit.call)
    if visit.caller.session_id is not None:
        await visit.services.browsers.see(visit.caller.session_id, shown.id, visit.call.actor)
    return visit.see("/")


async def unsee(visit: Visit) -> web.Response:
    """Leave the pages of an account."""
    seen = None
    if visit.caller.session_id is not None:
        seen = await visit.services.browsers.see(visit.caller.session_id, None, visit.call.actor)
    return visit.see("/operator" if seen is None else f"/operator/accounts/{seen}", "seen-ended")


async def as_customer(visit: Visit) -> Caller | None:
    """Return whom an operator sees a page as: a viewer of the account that they look at. None: as themself."""
    session_id = visit.caller.session_id
    if session_id is None or not visit.operator or visit.operating or visit.page.who is Who.person:
        return None
    account_id = await visit.services.browsers.seen(session_id)
    if account_id is None:
        return None
    try:
        account = await visit.services.accounts.get(account_id)
    except AccountNotFound:
        return None
    organization = await visit.services.organizations.of_account(account.id)
    org_id = None if organization is None else organization.id
    return replace(
        Caller("person", visit.caller.id, account.id, org_id=org_id, role="viewer", scopes=ROLES["viewer"]),
        email=visit.caller.email,
        verified=True,
    )


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/accounts/new", new_account, Who.operator),
    Page("POST", "/operator/accounts/new", make_account, Who.operator, again=new_account),
    Page("POST", "/operator/accounts/{account_id}/see", see, Who.operator),
    Page("POST", "/operator/seen/end", unsee, Who.operator),
    Page("GET", "/operator/keys/new", new_key, Who.operator),
    Page("POST", "/operator/keys/new", make_key, Who.operator, again=new_key),
    Page("GET", "/operator/coupons", coupons, Who.operator),
    Page("POST", "/operator/coupons", make_coupon, Who.operator, again=coupons),
    Page("POST", "/operator/coupons/{coupon_id}/end", end_coupon, Who.operator, again=coupons),
    Page("GET", "/operator/plans/{plan_id}", plan, Who.operator),
)
