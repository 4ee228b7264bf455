"""/api/billing/status and subscription: where an account stands, and another plan for it; /api/service/features."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.api.errors import NotFound, QuotaExceeded
from billing.api.operations import PlanOperations
from billing.api.payments import list_plans
from billing.api.route import REPLAYED_HEADER, Call, serves
from billing.api.usage import balance_of
from billing.errors import StoreError
from billing.money import format_usd
from billing.payments.outlook import outlook
from billing.quotas import parse_limit
from billing.schemas.payments import (
    FeatureShape,
    FeaturesShape,
    NewFeatureUse,
    PlanChange,
    PlanPreviewShape,
    PlanShown,
    State,
    StatusShape,
    SubscriptionShape,
    UpgradeShape,
)

if TYPE_CHECKING:
    from billing.api.services import Services
    from billing.payments.assembly import Payments
    from billing.plans import Plan
    from billing.quotas import Quota
    from billing.schemas.payments import PlansShape
    from billing.schemas.quotas import WindowShape
    from billing.schemas.usage import BalanceShape

SETUP: Final = "metergate billing setup"
PORTAL: Final = "metergate billing portal"
CHECKOUT: Final = "metergate billing checkout --plan"
CHANGE_PLAN: Final = "metergate billing change-plan"
NO_SUBSCRIPTION: Final = "There is no subscription."
NO_SUBSCRIPTION_YET: Final = f"There is no subscription: begin one with `{CHECKOUT} PLAN`, or in the console."
NO_PAYMENTS: Final = "This gateway sells nothing: ask whoever runs it for another plan."


@serves(PlanOperations.billing_status)
async def get_billing_status(call: Call) -> StatusShape:
    """Return where the account stands: its state, plan, features, what is left of its quotas, its subscription, and
    what to do next."""
    services, account_id = call.services, call.account_id
    balance = await balance_of(services, account_id)
    plan = services.plans.get(balance.plan) or services.plans[services.default_plan]
    windows = await _windows(call)
    organization = await services.organizations.of_account(account_id)
    payments = services.payments
    in_force = None if payments is None else await payments.changes.in_force(account_id)
    subscription = None if in_force is None else SubscriptionShape.in_force(in_force)
    state, upgrade = _state(balance, windows), _upgrade(call, plan)
    guidance, command = _guidance(call, state, windows, upgrade, subscribed=subscription is not None)
    return StatusShape(
        account_id=account_id,
        organization=None if organization is None else organization.name,
        state=state,
        status=balance.status,
        balance_usd=balance.balance_usd,
        available_usd=balance.available_usd,
        plan=PlanShown(id=plan.id, name=plan.name, price_usd=format_usd(plan.price_nano)),
        features=[FeatureShape.of_state(each) for each in await services.features.of_account(account_id)],
        windows=windows,
        subscription=subscription,
        upgrade=upgrade,
        guidance=guidance,
        next=command,
    )


async def _windows(call: Call) -> list[WindowShape]:
    """Return what is left of the quotas; none while Redis, which counts them, is away."""
    try:
        return await call.services.windows(call.account_id)
    except StoreError:
        return []


def _state(balance: BalanceShape, windows: list[WindowShape]) -> State:
    if balance.status in ("suspended", "closed", "past_due"):
        return balance.status
    if balance.available_usd.startswith("-") or not balance.available_usd.strip("0."):
        return "billing_required"
    return "quota_exhausted" if any(map(_is_used_up, windows)) else "ready"


def _is_used_up(window: WindowShape) -> bool:
    left = str(window.remaining)
    return left.startswith("-") or not left.strip("0.")


def _upgrade(call: Call, plan: Plan) -> UpgradeShape | None:
    better = call.services.plans.get(plan.upgrade_to or "")
    if better is None:
        return None
    url = call.services.upgrade_url(better)
    return UpgradeShape(plan=better.id, name=better.name, price_usd=format_usd(better.price_nano), url=url)


def _guidance(
    call: Call, state: State, windows: list[WindowShape], upgrade: UpgradeShape | None, *, subscribed: bool
) -> tuple[str | None, str | None]:
    """Return what to do about a state, and the command for it."""
    setup_url, sells = call.services.setup_url, call.services.payments is not None
    at = "" if setup_url is None else f" at {setup_url}"
    house = "whoever runs this gateway" + (f" ({url})" if (url := call.services.operator_url) else "")
    match state:
        case "ready":
            return None, None
        case "billing_required" if sells:
            return f"There is no credit: buy some{at}.", SETUP
        case "billing_required":
            return f"There is no credit: ask {house} for some.", None
        case "quota_exhausted":
            return _of_exhausted(call, [each for each in windows if _is_used_up(each)], upgrade, subscribed=subscribed)
        case "past_due":
            guidance = "A payment has failed: the plan ends unless it is paid. Mend the means of payment."
            return guidance, PORTAL if sells else None
        case "suspended":
            return f"The account is suspended: ask {house} to make it active again.", None
        case "closed":
            return f"The account is closed: ask {house} to make it active again.", None


def _of_exhausted(
    call: Call, used_up: list[WindowShape], upgrade: UpgradeShape | None, *, subscribed: bool
) -> tuple[str, str | None]:
    """Return what to do about quotas that are used up, and the command that gets the plan that has more: what a plan
    has not limited it can't raise."""
    resets = [each.resets_at for each in used_up]
    wait = "" if None in resets else f": wait until it resets, at {max(filter(None, resets))}"
    better = None if upgrade is None else call.services.plans[upgrade.plan]
    raised = better is not None and any(each.subject == "plan" and _raises(better, each) for each in used_up)
    if upgrade is None or not raised:
        return f"A quota is used up{wait or ', and never resets'}. Whoever runs this gateway can raise it.", None
    where = "" if upgrade.url is None else f": {upgrade.url}"
    more = f"The plan {upgrade.name} has more, for {upgrade.price_usd} USD a month{where}."
    command = CHANGE_PLAN if subscribed else CHECKOUT
    sells = call.services.payments is not None
    return f"A quota is used up{wait}. {more}", f"{command} {upgrade.plan}" if sells else None


def _raises(plan: Plan, window: WindowShape) -> bool:
    """Return whether a plan has a higher limit than this one of another plan, or none."""

    def limit(quota: Quota) -> int:
        return parse_limit(quota.metric, window.limit)

    names = (window.window, window.metric, window.model)
    alike = [each for each in plan.quotas if (each.window.name, each.metric.name, each.model) == names]
    return all(each.limit > limit(each) for each in alike)


@serves(PlanOperations.subscription)
async def get_subscription(call: Call) -> SubscriptionShape:
    """Return the subscription that gives the account its plan."""
    payments = call.services.payments
    found = None if payments is None else SubscriptionShape.in_force(await payments.changes.in_force(call.account_id))
    if found is None:
        raise NotFound(NO_SUBSCRIPTION if payments is None else NO_SUBSCRIPTION_YET)
    return found


@serves(PlanOperations.preview_plan)
async def preview_plan(call: Call) -> PlanPreviewShape:
    """Return what choosing a plan would do: what is charged today and by which means, and at each renewal."""
    services, payments = call.services, call.services.payments
    if payments is None:
        raise NotFound(NO_PAYMENTS)
    plan_id = call.id("plan_id")
    plan = services.plans.get(plan_id)
    if plan is None:
        raise NotFound(f"There is no plan {plan_id!r}: `metergate billing plans` lists them.")
    return await preview_of(services, payments, call.account_id, plan)


async def preview_of(services: Services, payments: Payments, account_id: str, plan: Plan) -> PlanPreviewShape:
    """Return what choosing a plan would do to this account."""
    current = await payments.changes.current(account_id)
    mine, now = (await services.accounts.get(account_id)).plan, datetime.fromtimestamp(services.clock(), UTC)
    method = await payments.customers.method(account_id)
    return PlanPreviewShape.of_outlook(outlook(plan, current, mine, dict(services.plans), now), method)


@serves(PlanOperations.change_subscription)
async def change_subscription(call: Call, body: PlanChange) -> SubscriptionShape:
    """Change the subscription to another plan: to a dearer one at once, to a cheaper one with the next period, to a
    free one by ending it with its period. Its own plan takes back what waits."""
    payments = call.services.payments
    if payments is None:
        raise NotFound(NO_PAYMENTS)
    await payments.changes.change(call.account_id, body.plan, call.actor)
    return await get_subscription(call)


@serves(PlanOperations.plans_in_force)
async def list_plans_in_force(call: Call) -> PlansShape:
    """List the plans in force, the cheapest first."""
    return await list_plans(call)


@serves(PlanOperations.features)
async def list_features(call: Call) -> FeaturesShape:
    """Return the features that an account's plan names, and what is left of each."""
    found = await call.services.features.of_account(call.id("account_id"))
    return FeaturesShape(data=[FeatureShape.of_state(each) for each in found])


@serves(PlanOperations.use_feature)
async def use_feature(call: Call, body: NewFeatureUse) -> FeatureShape:
    """Count units of a feature, if the account's plan allows it and as many are left in this period; once for an
    event_id."""
    done = await call.services.features.use(body.account_id, body.feature, body.units, body.event_id)
    shape = FeatureShape.of_state(done.state)
    if done.replayed:
        call.headers[REPLAYED_HEADER] = "true"
    if done.state.allowed:
        return shape
    account = await call.services.accounts.get(body.account_id)
    plan = call.services.plans.get(account.plan) or call.services.plans[call.services.default_plan]
    upgrade = _upgrade(call, plan)
    quota = {
        "subject": "plan",
        "window": "period",
        "metric": "units",
        "feature": body.feature,
        "limit": shape.limit,
        "used": shape.used,
        "requested": body.units,
        "remaining": shape.remaining,
        "resets_at": shape.resets_at,
    }
    has = f"has {shape.remaining} of {shape.limit} units of {body.feature} left" if shape.limit else "does not have it"
    raise QuotaExceeded(f"The plan {plan.name} {has}{_more(upgrade)}.", quota=quota, upgrade=upgrade)


def _more(upgrade: UpgradeShape | None) -> str:
    """Return which plan to get in place of one that does not do; nothing where there is none."""
    if upgrade is None:
        return ""
    where = "" if upgrade.url is None else f" at {upgrade.url}"
    return f": upgrade to {upgrade.name}{where}"
