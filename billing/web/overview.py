"""The first page: what an account has, how long that lasts, what comes next, and its last requests, live."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from billing.amounts import usd_text
from billing.api.credit import get_auto_recharge
from billing.api.payments import get_billing_status
from billing.api.remaining import balance_of
from billing.api.usage import get_billing_summary, list_events
from billing.errors import StoreError
from billing.ledger.sums import total
from billing.money import parse_usd
from billing.permissions import BILLING_READ, KEYS_READ, KEYS_WRITE
from billing.schemas.system import RefusedShape
from billing.schemas.usage import EventQuery
from billing.web.pages import Page, View, Visit, Who, key_names

if TYPE_CHECKING:
    from aiohttp import web

    from billing.accounts.accounts import Account
    from billing.schemas.base import Listing
    from billing.schemas.credit import RechargeShape
    from billing.schemas.payments import StatusShape
    from billing.schemas.usage import BalanceShape, BillingSummaryShape, EventShape

# Requests that the first page has.
LAST: Final = 10
# The time before now of which a day's spending is the mean.
BURN: Final = timedelta(days=7)
DAY: Final = timedelta(days=1)
# Keys that are asked for what was refused, and how long ago that is told.
ASKED: Final = 20
RECENT: Final = timedelta(minutes=15)
DAY_S: Final = 86_400


async def first(visit: Visit) -> View | web.Response:
    """Show the overview of the caller's organization. Without one an operator is led to their own pages; others are
    told that they have none."""
    if visit.account is None or BILLING_READ not in visit.caller.scopes:
        if visit.operator:
            return visit.see("/operator")
        return View("no_organization.html")
    call, account = visit.call, visit.account
    balance, month = await balance_of(visit.services, account.id), await get_billing_summary(call)
    status, recharge = await get_billing_status(call), await get_auto_recharge(call)
    now = datetime.fromtimestamp(visit.services.clock(), UTC)
    burn_nano = await _burn_nano(visit, account, now)
    left_nano = parse_usd(balance.available_usd)
    events = cast("Listing[EventShape]", await list_events(call, EventQuery(limit=LAST)))
    keys = [each.key_id for each in events.data] + [each.subject_id for each in month.budgets or ()]
    values = {
        "begun": await _begun(visit, has_requests=bool(events.data), has_credit=left_nano > 0),
        "balance": balance,
        "month": month,
        "status": status,
        "recharge": recharge,
        "refusal": await _refusal(visit),
        "next": _next(balance, month, status, recharge),
        "burn_nano": burn_nano,
        "days_left": None if burn_nano <= 0 else max(0, left_nano // burn_nano),
        "events": events,
        "names": await key_names(visit, keys),
        "url": visit.services.browsers.rules.url,
    }
    return View("overview.html", values)


async def _refusal(visit: Visit) -> RefusedShape | None:
    """Return what was refused last, of what newer keys have asked for lately."""
    keys, refused = await visit.services.keys.page(visit.account_id, ASKED), visit.services.refused
    try:
        found = await asyncio.gather(*(refused.newest(1, key_id=key.id) for key in keys.items))
    except StoreError:
        return None
    since_ms = int((visit.now - RECENT).timestamp() * 1000)
    last = max((each for some in found for each in some), key=lambda each: each.at_ms, default=None)
    return None if last is None or last.at_ms < since_ms else RefusedShape.of_refused(last, with_hint=False)


@dataclass(frozen=True, slots=True)
class Beginning:
    """A step of beginning, whether it is done, and the page where it is."""

    said: str
    done: bool
    path: str


async def _begun(visit: Visit, *, has_requests: bool, has_credit: bool) -> list[Beginning]:
    """Return the steps of beginning, as they stand; none once a request was served: somebody who has begun needs no
    list."""
    if has_requests or visit.seeing:
        return []
    services, account_id = visit.services, visit.account_id
    keys = (await services.keys.page(account_id, 1)).items if visit.may(KEYS_READ) else ()
    steps = []
    if visit.may(KEYS_READ):
        steps.append(Beginning("Create a key", bool(keys), "/keys/new" if visit.may(KEYS_WRITE) else "/keys"))
    steps.append(Beginning("Get credit", has_credit, "/credit"))
    steps.append(Beginning("Send the first request", False, "/quickstart"))
    factor = (await services.users.get(visit.caller.id)).second_factor
    return [*steps, Beginning("Protect your sign-in by an authenticator app", factor, "/security")]


def _next(
    balance: BalanceShape, month: BillingSummaryShape, status: StatusShape, recharge: RechargeShape
) -> list[tuple[str, str]]:
    """Return what comes next, in words, and when, the soonest first."""
    found = []
    if forecast_nano := parse_usd(month.forecast_usd):
        found.append((month.period_end, f"the month ends; about {usd_text(forecast_nano)} will have been spent"))
    if balance.next_expiry is not None:
        found.append(
            (balance.next_expiry.at, f"{usd_text(parse_usd(balance.next_expiry.amount_usd))} of credit expires")
        )
    subscription = status.subscription
    if subscription is not None and subscription.ends_at is not None:
        found.append((subscription.ends_at, f"the plan {status.plan.name} ends"))
    elif subscription is not None:
        after = f"becomes {subscription.next_plan}" if subscription.next_plan else "is renewed"
        found.append((subscription.period_end, f"the plan {status.plan.name} {after}"))
    if recharge.next_attempt_at is not None:
        amount = usd_text(parse_usd(recharge.amount_usd))
        found.append((recharge.next_attempt_at, f"auto-recharge tries again to buy {amount}"))
    if month.budget is not None:
        found.append((month.budget.resets_at, "the monthly spending quota resets"))
    return sorted(found)


async def _burn_nano(visit: Visit, account: Account, now: datetime) -> int:
    """Return what is spent in a day, by the mean of the last ones that the account was there."""
    since = max(now - BURN, min(account.created_at, now - DAY)).replace(second=0, microsecond=0)
    (span,) = await visit.services.reports.sums.spans(account.id, (since, now + DAY))
    return total(span).charged_nano * DAY_S // int((now - since).total_seconds())


ROUTES: Final[tuple[Page, ...]] = (Page("GET", "/", first, Who.signed_in),)
