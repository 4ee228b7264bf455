"""/api/admin/accounts: accounts, their quotas and those of their users, grants, refunds and adjustments. Behind the
admin key. And /api/orgs/{org_id}/close: an owner ends what an organization pays for.

This file owns that nothing is closed which still owes or is owed: no debt, no plan that goes on being paid, no request
that runs, and credit only where its owner says that it may be left.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, cast

from msgspec import UNSET

from billing.accounts.accounts import AccountChanges
from billing.accounts.grants import REVENUE, WRITE_OFF, Terms
from billing.accounts.repricing import Period
from billing.api.operations import AccountOperations
from billing.api.requests import (
    BadRequest,
    encode_cursor,
    in_future,
    listing,
    moment,
    money,
    page_asked,
    positive_money,
    signed_money,
    zone,
)
from billing.api.route import REPLAYED_HEADER, Call, serves
from billing.identity.organizations import Acting, OrganizationConflict
from billing.money import format_usd
from billing.pricing import ANY_MODEL
from billing.quotas import parse_quotas
from billing.schemas.accounts import (
    AccountPatch,
    AccountShape,
    AccountsQuery,
    GrantShape,
    NewAccount,
    NewAdjustment,
    NewCredit,
    NewGrant,
    NewQuotas,
    NewRepricing,
    RepricingShape,
    UserQuotasShape,
)
from billing.schemas.people import Closing, OrganizationShape

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from billing.accounts.accounts import Account
    from billing.accounts.grants import GrantResult
    from billing.api.services import Services
    from billing.change_notifier import LiveBalance
    from billing.plans import Plans
    from billing.schemas.base import Listing, PageQuery


@serves(AccountOperations.create_account)
async def create_account(call: Call, body: NewAccount) -> AccountShape:
    """Create an account, active and with nothing on it."""
    services = call.services
    account = await services.accounts.create(
        body.name,
        services.default_plan if body.plan is None else body.plan,
        money("credit_limit_usd", body.credit_limit_usd),
        parse_quotas(body.quotas),
        tz=None if body.tz is None else zone("tz", body.tz).key,
        actor=call.actor,
    )
    return _shape(account, services)


@serves(AccountOperations.accounts)
async def list_accounts(call: Call, query: AccountsQuery) -> Listing[AccountShape]:
    """List accounts, newest first."""
    page = await call.services.accounts.page(*page_asked(query), search=query.search, status=query.status)
    return listing(page, lambda account: _shape(account, call.services))


@serves(AccountOperations.account)
async def get_account(call: Call) -> AccountShape:
    """Return an account."""
    return _shape(await call.services.accounts.get(call.id("account_id")), call.services)


@serves(AccountOperations.update_account)
async def update_account(call: Call, body: AccountPatch) -> AccountShape:
    """Change an account: what is absent stays as it is. One that is closed is not charged for its plan again: where
    the payment provider could not be told, the answer is an error, and the same call tells it."""
    limit = body.credit_limit_usd
    changes = AccountChanges(
        name=body.name or None,
        plan=None if body.plan is UNSET else body.plan,
        status=body.status or None,
        credit_limit_nano=None if limit is UNSET else money("credit_limit_usd", limit),
        quotas=None if body.quotas is UNSET else parse_quotas(body.quotas),
    )
    if body.tz is not UNSET:
        changes["tz"] = None if body.tz is None else zone("tz", body.tz).key
    account = await call.services.accounts.update(
        call.id("account_id"), reason=body.reason or None, actor=call.actor, **changes
    )
    if account.status == CLOSED and call.services.payments is not None:
        await call.services.payments.changes.end(account.id, call.actor)  # who is closed goes on paying for nothing
    return _shape(account, call.services)


@serves(AccountOperations.set_account_quotas)
async def set_account_quotas(call: Call, body: NewQuotas) -> AccountShape:
    """Replace all quotas of the account's own."""
    quotas = parse_quotas(body.quotas)
    account = await call.services.accounts.set_quotas(call.id("account_id"), quotas, actor=call.actor)
    return _shape(account, call.services)


@serves(AccountOperations.user_quotas)
async def get_user_quotas(call: Call) -> UserQuotasShape:
    """Return the quotas of a user in the account, which all of the user's keys in it share."""
    return UserQuotasShape.of(await call.services.member_limits.get(call.id("account_id"), _user_id(call)))


@serves(AccountOperations.set_user_quotas)
async def set_user_quotas(call: Call, body: NewQuotas) -> UserQuotasShape:
    """Replace all quotas of a user in the account, which all of the user's keys in it share; none: no limit."""
    quotas = parse_quotas(body.quotas)
    limits = call.services.member_limits
    return UserQuotasShape.of(await limits.set(call.id("account_id"), _user_id(call), quotas, actor=call.actor))


@serves(AccountOperations.users_quotas)
async def list_user_quotas(call: Call, query: PageQuery) -> Listing[UserQuotasShape]:
    """List the users of the account that have quotas there, by id."""
    page = await call.services.member_limits.page(call.id("account_id"), *page_asked(query))
    return listing(page, UserQuotasShape.of)


def _user_id(call: Call) -> str:
    return call.request.match_info["user_id"]


@serves(AccountOperations.grant)
async def create_grant(call: Call, body: NewCredit) -> GrantShape:
    """Give credit, once for an idempotency key: the same again gets the first answer."""
    expires_at = in_future("expires_at", moment("expires_at", body.expires_at), call.services.clock())
    terms = Terms(body.priority, body.promotional, expires_at)
    return await _credit(call, body, partial(call.services.grants.grant, terms=terms))


@serves(AccountOperations.refund)
async def create_refund(call: Call, body: NewGrant) -> GrantShape:
    """Give back what was charged, once for an idempotency key, which is none of a grant's."""
    return await _credit(call, body, call.services.grants.refund)


async def _credit(call: Call, body: NewGrant, give: Callable[..., Awaitable[GrantResult]]) -> GrantShape:
    amount_nano = positive_money("amount_usd", body.amount_usd)
    result = await give(call.id("account_id"), amount_nano, body.idempotency_key, body.note, actor=call.actor)
    return _given(call, result)


@serves(AccountOperations.adjust)
async def create_adjustment(call: Call, body: NewAdjustment) -> GrantShape:
    """Change a balance up or down, with a reason, once for an idempotency key, which is none of a grant's or refund's:
    a balance may fall below zero by it."""
    delta_nano = signed_money("amount_usd", body.amount_usd)
    source = WRITE_OFF if body.against == "write_off" else REVENUE
    given = call.id("account_id"), delta_nano, body.idempotency_key, body.reason
    return _given(call, await call.services.grants.adjust(*given, source=source, actor=call.actor))


@serves(AccountOperations.reprice)
async def reprice(call: Call, query: PageQuery, body: NewRepricing) -> RepricingShape:
    """Compare what requests of a period were charged with another price, a batch of them; without `dry_run` correct it
    by transfers. The same again changes nothing."""
    since, until = (cast("datetime", moment(*each)) for each in (("since", body.since), ("until", body.until)))
    if since >= until:
        raise BadRequest("until must be after since.", "until")
    if body.model.endswith(ANY_MODEL):
        raise BadRequest("model is one model, as it served requests: `provider_model` of their events.", "model")
    period = Period(body.provider, body.model, since, until, body.account_id, body.price_id)
    limit, after = page_asked(query)
    repricing = call.services.repricing
    if body.dry_run:
        batch = await repricing.compare(period, limit, after)
    else:
        batch = await repricing.correct(period, limit, after, reason=body.reason, actor=call.actor)
    return RepricingShape.of_lines(batch.lines, encode_cursor(batch.next_after), dry_run=body.dry_run)


def _given(call: Call, result: GrantResult) -> GrantShape:
    if result.replayed:
        call.headers[REPLAYED_HEADER] = "true"
    return GrantShape.of(result)


def _shape(account: Account, services: Services) -> AccountShape:
    return AccountShape.of_account(account, services.plans.get(account.plan), services.credits_per_usd)


CLOSED: Final = "closed"


@serves(AccountOperations.close_organization)
async def close_organization(call: Call, body: Closing) -> OrganizationShape:
    """Close an organization's account: nothing is spent there any more, and its open invitations end. Its members may
    read it as before."""
    services, caller = call.services, call.caller
    organization = await services.organizations.get(call.id("org_id"))
    account = await services.accounts.get(organization.account_id)
    if account.status != CLOSED:
        refuse_closing(account, await services.live_balance(account), services.plans, forfeit=body.forfeit)
        await services.members.end_invitations(organization.id, Acting(caller.id, caller.scopes, call.actor))
        await services.accounts.update(account.id, status=CLOSED, reason="closed by its owner", actor=call.actor)
    return OrganizationShape.of(organization, role=caller.role)


def refuse_closing(account: Account, live: LiveBalance, plans: Plans, *, forfeit: bool) -> None:
    """Reject an account that can't be closed now. Raises `OrganizationConflict`, with a message that says what to
    do."""
    if account.status != "active":
        raise OrganizationConflict(
            f"This account is {account.status}: resolve that first, see `metergate billing status`."
        )
    if live.balance_nano < 0:
        owed = format_usd(-live.balance_nano)
        raise OrganizationConflict(f"This account owes {owed} USD: pay it first, `metergate billing setup`.")
    plan = plans.get(account.plan)
    if plan is not None and plan.price_nano > 0:
        raise OrganizationConflict(
            f"The plan {plan.name} is paid each month: end it first, `metergate billing portal`."
        )
    if live.held_nano > 0:
        raise OrganizationConflict("Requests of this account are running: close it when they have ended.")
    if live.balance_nano > 0 and not forfeit:
        left = format_usd(live.balance_nano)
        raise OrganizationConflict(f'{left} USD are left: use them, ask for a refund, or send {{"forfeit": true}}.')
