"""Payments by the settings: which provider, within which bounds, and their work beside the requests. And the providers'
bills: which providers are asked with which key, and the rounds of fetching, in one gateway at a time.

And /pay/plans/{plan}, where an exhausted quota leads to: whoever may set up billing buys the plan there.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from aiohttp import web

from billing.api.auth import bearer_caller, require_scope
from billing.api.payments import preview_of
from billing.api.requests import ApiError, NotFound, Unauthorized, of_failure
from billing.api.route import Call
from billing.api.services import PaymentOversight
from billing.identity.providers import CONSOLE
from billing.money import format_usd
from billing.payments.assembly import PaymentParts, PaymentRules, local_provider, make_payments, stripe_provider
from billing.payments.balances import Expiry
from billing.payments.flows import FlowRules, Wanted
from billing.payments.local.web import HEADERS, PAY, framed, pay_routes
from billing.payments.port import origins_of
from billing.permissions import BILLING_SETUP
from billing.provider_bills.bills import BillAccount, Bills, fetch
from billing.provider_bills.lines import Tolerance
from billing.schemas.payments import preview_sentences
from billing.work import Lease, Periodic
from gateway.config.settings import public_url
from gateway.server.limit_refusals import Links

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.api.services import Services
    from billing.database.connection import Database
    from billing.payments.assembly import Payments
    from billing.payments.port import PaymentProvider
    from billing.plans import Plan, Plans
    from billing.schemas.payments import PlanPreviewShape
    from gateway.config.settings import ProviderConfig, Settings
    from gateway.metrics.registry import Metrics
    from gateway.runtime.runtime import Runtime

BILLS: Final = "provider_bills"
# Four times a day: what failed is tried again before the day is over.
BILLS_EVERY_S: Final = 6 * 3600.0
# How often a gateway learns what the last comparison in any of them came to.
BILLS_LOOK_S: Final = 60.0


def make_bills(settings: Settings, database: Database) -> Bills:
    """Return what reads and compares the bills of the configuration's providers."""
    accounts = {name: _account(each) for name, each in settings.providers.items()}
    return Bills(database, accounts, fetch, time.time)


def _account(provider: ProviderConfig) -> BillAccount:
    billing = provider.billing
    if billing is None:
        return BillAccount((provider.name,))
    tolerance = Tolerance(billing.tolerance_nano, round(billing.tolerance_percent * 100))
    providers = tuple(dict.fromkeys((provider.name, *billing.providers)))
    if billing.key is None:
        return BillAccount(providers, keys=billing.keys, tolerance=tolerance)
    return BillAccount(providers, billing.source, billing.base_url, billing.key.reveal(), billing.keys, tolerance)


def start_bills(runtime: Runtime, metrics: Metrics) -> None:
    """Start comparing, where a provider's bill can be fetched, and show the differences."""
    bills = runtime.services.bills
    if bills is None or not bills.asked:
        return
    for provider in bills.asked:
        told = "USD by which a provider's bill and the ledger differ, in the days that were compared last."
        metrics.gauge(
            "provider_difference_usd", told, partial(bills.difference_usd, provider), "max", provider=provider
        )
    lease = Lease(runtime.database, BILLS, runtime.services.new_id())

    async def compare() -> None:
        await bills.round()
        await bills.refresh()

    runtime.start(
        Periodic(name=BILLS, every_s=BILLS_EVERY_S, round=compare, lease=lease),
        Periodic(name=f"{BILLS}_look", every_s=BILLS_LOOK_S, round=bills.refresh),
    )


EXPIRY: Final = "credit_expiry"
ALERTS: Final = "balance_alerts"
BUDGETS: Final = "budgets"
EXPIRY_EVERY_S: Final = 60.0
ALERTS_EVERY_S: Final = 5.0
BUDGETS_EVERY_S: Final = 15.0


def links_of(settings: Settings, plans: Plans) -> Links:
    """Return where refusals lead."""
    pay_url = None if settings.payment_provider is None else f"{public_url(settings)}{PAY}"
    return Links(settings.frontend_url, plans, pay_url, f"{public_url(settings)}{CONSOLE}")


def payment_rules(settings: Settings) -> PaymentRules:
    """Return what the settings say of payments."""
    payments, own = settings.payments, public_url(settings)
    named = (own, settings.frontend_url, *settings.cors_origins, *payments.allowed_origins)
    home = settings.frontend_url or f"{own}{PAY}"
    bounds = payments.min_cents, payments.max_cents, payments.sold_cents
    flows = FlowRules(*bounds, origins_of(named), home, payments.open_pages)
    return PaymentRules(
        flows,
        settings.defaults.accounts.default_plan,
        timedelta(seconds=settings.payment_grace_s),
        own,
        declines=payments.auto_recharge_declines,
        credit_days=payments.credit_expires_days,
    )


def open_payments(settings: Settings, parts: PaymentParts) -> Payments | None:
    """Return payments on the provider that the settings name; None: payments are off."""
    rules = payment_rules(settings)
    provider = _provider(settings, parts, rules)
    return None if provider is None else make_payments(parts, rules, provider)


def _provider(settings: Settings, parts: PaymentParts, rules: PaymentRules) -> PaymentProvider | None:
    if settings.payment_provider == "local":
        return local_provider(parts, rules.base_url)
    if settings.payment_provider == "stripe":
        key, secret = settings.stripe_api_key, settings.stripe_webhook_secret
        secrets = () if secret is None else tuple(each.strip() for each in secret.reveal().split(",") if each.strip())
        given = "" if key is None else key.reveal()
        return stripe_provider(parts, given, settings.stripe_api_base, secrets, settings.payments.checkout)
    return None


def payment_services(payments: Payments | None) -> dict[str, Any]:
    """Return what the billing API works on that is about payments."""
    if payments is None:
        return {}
    return {"payments": payments, "payment_oversight": PaymentOversight(payments.events, payments.comparisons)}


def serve_payments(app: web.Application, runtime: Runtime) -> None:
    """Mount the pages under /pay."""
    payments, frontend_url = runtime.services.payments, runtime.settings.frontend_url
    if payments is not None:
        app.router.add_routes(plan_routes(runtime.services, payments, runtime.services.new_id))
        app.router.add_routes(pay_routes(payments.acts, frontend_url))


def start_payments(runtime: Runtime, metrics: Metrics) -> None:
    """Start what goes on beside requests: looking into events, the local provider's own work; expiry and alerts in any
    case."""
    _start_credit(runtime)
    start_bills(runtime, metrics)
    payments = runtime.services.payments
    if payments is None:
        return
    standing = payments.events.standing
    told = "Events of payments that are to be looked into."
    metrics.gauge("payment_events_waiting", told, lambda: standing.waiting, "max")
    metrics.gauge("payment_events_parked", "Events of payments that were given up.", lambda: standing.parked, "max")
    metrics.gauge("payment_event_lag_seconds", "How long the oldest has waited.", lambda: standing.lag_s, "max")
    told = "Objects that still differed from the payment provider's at the last comparison."
    metrics.gauge("payment_differences", told, lambda: payments.comparisons.differences, "max")
    told = "Payments that could not be credited and wait for an operator (`metergate operator order list --parked`)."
    metrics.gauge("payments_parked", told, lambda: payments.orders.waiting, "max")
    told = "Automatic charges that the payment provider has not decided about in a day."
    metrics.gauge("payments_undecided", told, lambda: payments.orders.undecided, "max")
    runtime.start(*payments.events.work(runtime.engine.pending), *payments.work)


def _start_credit(runtime: Runtime) -> None:
    """Start what lets credit expire and tells of low balances and budgets, in one gateway of all."""
    services, database, owner = runtime.services, runtime.database, runtime.services.new_id()
    expiry = Expiry(database, services.grants, services.effects, lambda: datetime.now(UTC))
    for name, every_s, round_ in (
        (EXPIRY, EXPIRY_EVERY_S, expiry.round),
        (ALERTS, ALERTS_EVERY_S, services.alerts.round),
        (BUDGETS, BUDGETS_EVERY_S, services.budgets.round),
    ):
        runtime.start(Periodic(name=name, every_s=every_s, round=round_, lease=Lease(database, name, owner)))


PLANS: Final = f"{PAY}/plans"
MOST_KEY: Final = 8192
# What a change has done, by how it comes.
_DONE: Final = {
    "now": "<p>You have this plan now. You can close this page.</p>",
    "period_end": "<p>You get this plan with the next period. You can close this page.</p>",
    "resume": "<p>Your plan goes on. You can close this page.</p>",
}
MOST_BODY_BYTES: Final = 16 * 1024


def plan_routes(services: Services, payments: Payments, new_id: Callable[[], str]) -> list[web.RouteDef]:
    """Return the endpoints of plans' pages.

    A page has no session: it takes an API key or a token with the scope `billing:setup`, counted as wrong keys are, and
    shows the way to the provider's page. It works without scripts, and nothing on it is from elsewhere.
    """

    def plan_of(request: web.Request) -> Plan:
        plan = services.plans.get(request.match_info["plan"])
        if plan is None or not plan.price_nano:
            raise NotFound("There is no such plan to buy.")
        return plan

    async def show(request: web.Request) -> web.StreamResponse:
        try:
            return _html(_offer(plan_of(request)))
        except ApiError as error:
            return _refused(error)

    async def buy(request: web.Request) -> web.StreamResponse:
        try:
            plan = plan_of(request)
            form = await _form_of(request)
            caller = await bearer_caller(request, services, form["key"])
            require_scope(caller, BILLING_SETUP)
            if caller.account_id is None:
                raise NotFound("You belong to no organization.")
            if await payments.changes.current(caller.account_id) is not None:
                preview = await preview_of(services, payments, caller.account_id, plan)
                done = _DONE.get(preview.how)
                if done is None or preview.how != form["confirmed"]:  # it has not been shown, or is not what was shown
                    return _html(_change(preview, form["key"]))
                await payments.changes.change(caller.account_id, plan.id, Call(request, services, caller).actor)
                return _html(framed(f"Plan {plan.name}", done))
            order = await payments.flows.checkout(Wanted(caller.account_id, new_id(), plan=plan.id))
        except Unauthorized:
            return _refused(Unauthorized("This key or token is wrong, revoked or expired: go back and check it."))
        except Exception as error:
            refusal = of_failure(error)
            if refusal is None:
                raise
            return _refused(refusal)
        link = f'<p><a href="{escape(order.url or "")}">Pay {format_usd(order.amount_nano)} USD</a></p>'
        return _html(framed(f"Plan {plan.name}", link))

    path = f"{PLANS}/{{plan}}"
    return [web.get(path, show), web.post(path, buy)]


async def _form_of(request: web.Request) -> dict[str, str]:
    """Return the fields of this page's form. Raises `NotFound` for what is none."""
    if (request.content_length or MOST_BODY_BYTES + 1) > MOST_BODY_BYTES:
        raise NotFound("This is no form of this page.")
    posted = await request.post()
    given = {name: posted.get(name, "") for name in ("key", "confirmed")}
    return {name: value.strip()[:MOST_KEY] if isinstance(value, str) else "" for name, value in given.items()}


def _change(preview: PlanPreviewShape, key: str) -> str:
    """Return what a change of a subscription charges, and by which means, with the button that makes it. The key comes
    back with it: there is no session, and the page, which is not stored, goes to nobody but who has just typed it."""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in preview_sentences(preview))
    if preview.how == "nothing":
        return framed(f"Plan {preview.plan.name}", said)
    verb = f"Pay about {preview.today_usd} USD and change" if preview.how == "now" else "Confirm"
    form = (
        f'<form method="post"><input type="hidden" name="key" value="{escape(key)}"><button class="main" '
        f'name="confirmed" value="{preview.how}">{escape(verb)}</button></form>'
    )
    return framed(f"Plan {preview.plan.name}", f"{said}{form}<p>Nothing has changed yet.</p>")


def _offer(plan: Plan) -> str:
    price = f"{format_usd(plan.price_nano)} USD a month"
    if plan.included_credit_nano:
        price += f", with {format_usd(plan.included_credit_nano)} USD of credit"
    form = (
        '<form method="post"><label>API key with the scope <code>billing:setup</code>, or the token that '
        "<code>metergate auth token --show</code> prints "
        '<input type="password" name="key" required autocomplete="off"></label> <button>Go on</button></form>'
    )
    there = f'<p>Whoever has signed in: <a href="../../console/plan/{quote(plan.id)}">Choose it there</a>.</p>'
    ended = "<p>Next, you see what is charged and by which means, and confirm it.</p>"
    return framed(f"Plan {plan.name}", f"<p>{escape(price)}</p>{there}{form}{ended}")


def _refused(error: ApiError) -> web.Response:
    response = _html(framed("That was not possible", f"<p>{escape(error.message)}</p>"), error.status)
    response.headers.extend(error.headers)
    return response


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html", headers=dict(HEADERS))
