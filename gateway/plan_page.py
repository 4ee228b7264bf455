"""/pay/plans/{plan}: where an exhausted quota leads to. Whoever may set up billing buys the plan there.

The page has no session: it takes an API key or a token with the scope `billing:setup`, counted as wrong keys are, and
shows the way to the provider's page. It works without scripts, and nothing on it is from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Final

from aiohttp import web

from billing.api.auth import bearer_caller, require_scope
from billing.api.errors import ApiError, NotFound, of_failure
from billing.identity.permissions import BILLING_SETUP
from billing.money import format_usd
from billing.payments.flows import Wanted
from billing.payments.local.html import HEADERS, framed
from billing.payments.local.web import PAY

if TYPE_CHECKING:
    from billing.api.services import Services
    from billing.payments.assembly import Payments
    from billing.plans import Plan

PLANS: Final = f"{PAY}/plans"
MOST_KEY: Final = 8192
MOST_BODY_BYTES: Final = 16 * 1024


def plan_routes(services: Services, payments: Payments, new_id: Callable[[], str]) -> list[web.RouteDef]:
    """Return the endpoints of plans' pages."""

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
            if (request.content_length or MOST_BODY_BYTES + 1) > MOST_BODY_BYTES:
                raise NotFound("This is no form of this page.")
            key = (await request.post()).get("key", "")
            given = key.strip()[:MOST_KEY] if isinstance(key, str) else ""
            caller = await bearer_caller(request, services, given)
            require_scope(caller, BILLING_SETUP)
            if caller.account_id is None:
                raise NotFound("You belong to no organization.")
            if await payments.changes.current(caller.account_id) is not None:
                await payments.changes.change(caller.account_id, plan.id)
                return _html(framed(f"The plan is {plan.name} now", "<p>You can close this page.</p>"))
            order = await payments.flows.checkout(Wanted(caller.account_id, new_id(), plan=plan.id))
        except Exception as error:
            refusal = of_failure(error)
            if refusal is None:
                raise
            return _refused(refusal)
        link = f'<p><a href="{escape(order.url or "")}">Pay {format_usd(order.amount_nano)} USD</a></p>'
        return _html(framed(f"Plan {plan.name}", link))

    path = f"{PLANS}/{{plan}}"
    return [web.get(path, show), web.post(path, buy)]


def _offer(plan: Plan) -> str:
    price = f"{format_usd(plan.price_nano)} USD a month"
    if plan.included_credit_nano:
        price += f", with {format_usd(plan.included_credit_nano)} USD of credit"
    form = (
        '<form method="post"><label>API key with the scope <code>billing:setup</code>, or the token that '
        "<code>metergate auth token --show</code> prints "
        '<input type="password" name="key" required autocomplete="off"></label> <button>Go on</button></form>'
    )
    ended = "<p>A subscription that you have is changed: at once, if this costs more, else with the next period.</p>"
    return framed(f"Plan {plan.name}", f"<p>{escape(price)}</p>{form}{ended}")


def _refused(error: ApiError) -> web.Response:
    response = _html(framed("That was not possible", f"<p>{escape(error.message)}</p>"), error.status)
    response.headers.extend(error.headers)
    return response


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html", headers=dict(HEADERS))
