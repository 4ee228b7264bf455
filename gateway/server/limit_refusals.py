"""Refusals of what balance, windows or concurrency do not admit (docs/limits.md). This file owns their wording,
and where they lead (`Links`).

What was used is distinguished from what running requests hold and may give back: 402 and `quota_exceeded` say that a
request would not fit even if nothing ran, `capacity_held` that it would. Of `quota_exceeded`, a request above a whole
limit is one that no waiting helps.

A message is for the customer, who is told no command or setting of an operator's; these stand in `Refusal.hint`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.holds.model import Exhausted, InsufficientBalance, QuotaExceeded, Refused, TooManyRunning
from billing.money import format_usd
from billing.plans import API_ACCESS
from billing.quotas import Metric, Window, window_end_s
from gateway.server import refusals
from gateway.server.ids import BALANCE
from gateway.server.refusals import FinalQuota, Refusal

if TYPE_CHECKING:
    from billing.plans import Plan
    from billing.principals import Principal
    from billing.quotas import Quota

RETRY_WITHIN_S: Final = 60
# What a customer runs to get to the page where credit is bought.
SETUP_COMMAND: Final = "metergate billing setup"
# Stands for the field that limits it where the client gave none.
OUTPUT: Final = "the output"


@dataclass(frozen=True, slots=True)
class Links:
    """Where a refusal leads: the operator's own page (FRONTEND_URL), None where there is none; the plans to upgrade to;
    the gateway's own pages to pay on (`pay_url`), None where payments are off; and the console."""

    frontend_url: str | None
    plans: Mapping[str, Plan]
    pay_url: str | None = None
    console_url: str | None = None

    @property
    def setup_url(self) -> str | None:
        """Return the page where an account gets credit: the console's, where whoever has an address here signs in and
        buys it at once."""
        return self.frontend_url or (None if self.pay_url is None else self._page("credit") or self.pay_url)

    @property
    def next(self) -> str | None:
        """Return the command that buys credit; None where payments are off."""
        return None if self.pay_url is None else SETUP_COMMAND

    @property
    def keys_url(self) -> str | None:
        """Return the page where keys are made and changed."""
        return self._page("keys")

    @property
    def plans_url(self) -> str | None:
        """Return the page where another plan is chosen; None where none is sold."""
        return self.frontend_url or (None if self.pay_url is None else self._page("plan"))

    def credit(self) -> str:
        """Return how an account gets credit."""
        if self.pay_url is None:
            return f"ask for credit at {self.frontend_url}" if self.frontend_url else f"ask {self.house} for credit"
        return f"buy credit at {self.setup_url} (`{SETUP_COMMAND}` opens a page for it, too)"

    def activation(self) -> str:
        """Return how an account that may not spend gets active again."""
        return f"ask {self.house} to make it active again"

    @property
    def house(self) -> str:
        """Return who is asked for what can't be bought, and where."""
        return "whoever runs this gateway" + (f" ({self.frontend_url})" if self.frontend_url else "")

    def _page(self, path: str) -> str | None:
        return None if self.console_url is None else f"{self.console_url}/{path}"

    def upgrade(self, plan: Plan, quota: Quota, requested: int = 0) -> dict[str, object] | None:
        """Return the next plan that raises this quota of the plan's, to what is requested at least; None where there is
        none."""
        least, seen = max(quota.limit + 1, requested), {plan.id}
        better = self.plans.get(plan.upgrade_to or "")
        while better is not None and better.id not in seen:
            if all(each.tag != quota.tag or each.limit >= least for each in better.quotas):
                price_usd, url = format_usd(better.price_nano), self.upgrade_url(better)
                return {"plan": better.id, "name": better.name, "price_usd": price_usd, "url": url}
            seen.add(better.id)
            better = self.plans.get(better.upgrade_to or "")
        return None

    def upgrade_url(self, plan: Plan) -> str | None:
        """Return the page where a plan is bought: the operator's own, else the gateway's, where payments are on."""
        return self.frontend_url or (None if self.pay_url is None else f"{self.pay_url}/plans/{plan.id}")

    def raising(self, exhausted: Exhausted, principal: Principal, upgrade: Mapping[str, object] | None) -> str:
        """Return who can raise a limit, and where: a sentence without its full stop."""
        if upgrade is not None:
            where = f": {upgrade['url']}" if upgrade["url"] else f": ask {self.house} for it"
            return f"The plan {upgrade['name']} has more{where}"
        match exhausted.limit.subject:
            case "key":
                return "The key's owner can raise it" + _at(self._page(f"keys/{principal.key_id}"))
            case "user":
                counts = "it counts all of the user's keys"
                return f"Whoever administers the account can raise it{_at(self._page('members'))}: {counts}"
            case _:
                return f"Whoever runs this gateway can raise it{_at(self.frontend_url)}"


def no_scope(scope: str, principal: Principal, links: Links) -> Refusal:
    """Return 403: the key lacks a scope, or the plan allows no calls at all."""
    plan = principal.plan
    if plan.feature(API_ACCESS) is not False:
        return refusals.insufficient_scope(scope, links.keys_url)
    where = f": {links.plans_url}" if links.plans_url is not None else f": ask {links.house}"
    return refusals.lacking(scope, f"The plan {plan.name} has no API access: upgrade to one that has{where}.")


def _at(url: str | None) -> str:
    return "" if url is None else f" at {url}"


def of_decision(refused: Refused, principal: Principal, links: Links, max_field: str | None = None) -> Refusal:
    """Return the refusal of an admission."""
    match refused:
        case TooManyRunning():
            return concurrency_exceeded(refused)
        case QuotaExceeded() | InsufficientBalance() if refused.is_held:
            return capacity_held(refused, principal, links, max_field)
        case QuotaExceeded():
            return quota_exceeded(refused, principal, links, max_field)
        case InsufficientBalance():
            all_nano = refused.available_nano + refused.held_nano
            return billing_required(
                principal, links, all_nano, refused.required_nano, _smaller(refused.fitting_output, max_field, " Or")
            )


def billing_required(
    principal: Principal, links: Links, available_nano: int | None, required_nano: int | None, smaller: str = ""
) -> Refusal:
    """Return 402: the balance is too low for the request even if nothing runs, or the account may not spend.

    `available_nano` is the balance with the credit limit, holds not taken off; `smaller` says what would fit now."""
    if principal.status == "active":
        message = f"The balance does not cover this request: {links.credit()}.{smaller}"
        hint = f"`metergate operator grant {principal.account_id} AMOUNT_USD` gives credit"
    else:
        message = f"The account is {principal.status.replace('_', ' ')}: {links.activation()}."
        if principal.status == "past_due" and links.pay_url is not None:
            message = f"A payment of this account has failed: pay what is open at {links.setup_url}."
        hint = f"`metergate operator account set {principal.account_id} --status active` lets it spend again"
    billing = _billing(principal, links, available_nano, required_nano)
    return Refusal(
        402,
        "billing_required",
        message,
        type="billing_error",
        extra={"billing": billing},
        sent=_balance(billing),
        hint=hint,
    )


def _balance(billing: Mapping[str, object]) -> dict[str, str]:
    """Return the header with the balance, where it is known."""
    balance_usd = billing["balance_usd"]
    return {BALANCE: balance_usd} if isinstance(balance_usd, str) else {}


def _billing(
    principal: Principal, links: Links, available_nano: int | None, required_nano: int | None
) -> dict[str, object]:
    pays = principal.status in ("active", "past_due")  # no payment makes another account active again
    return {
        "status": principal.status,
        "balance_usd": None if available_nano is None else format_usd(available_nano - principal.credit_limit_nano),
        "required_usd": None if required_nano is None else format_usd(required_nano),
        "setup_url": links.setup_url if pays else None,
        "next": links.next if pays else None,
    }


def _smaller(fitting_output: int, max_field: str | None, beginning: str = "") -> str:
    """Return a sentence on the maximum of output tokens that would fit now; nothing where none does."""
    if not fitting_output:
        return ""
    verb = "lower" if beginning else "Lower"
    return f"{beginning} {verb} {max_field or OUTPUT} to {fitting_output:,} tokens or less: that much fits now."


def quota_exceeded(refused: QuotaExceeded, principal: Principal, links: Links, max_field: str | None = None) -> Refusal:
    """Return 429, which names the window that resets last of those that have too little left, holds not counted; of
    those that begin again and are too small for the request even then, where there are any."""
    spent = [each for each in refused.exhausted if not each.is_held]
    never = [each for each in spent if each.never_fits and each.limit.quota.window is not Window.total]
    worst = _worst(never or spent, refused.at_ms)
    quota, details = worst.limit.quota, _quota_details(worst, refused.at_ms)
    upgrade = None
    if worst.limit.subject == "plan":
        upgrade = links.upgrade(principal.plan, quota, worst.requested)
    raising = links.raising(worst, principal, upgrade)
    if never:
        end_s, message = None, _never_fits(worst, refused.fitting_ever, max_field, raising)
    else:
        end_s, message = window_end_s(quota.window, refused.at_ms // 1000), _used_up(worst, details)
        message += f"{_smaller(refused.fitting_output, max_field)} {raising}."
    wait_s = None if end_s is None else max(1, -(-(end_s * 1000 - refused.at_ms) // 1000))
    soon = wait_s is not None and wait_s <= RETRY_WITHIN_S
    kind = f"{worst.limit.subject}-{quota.metric.name}-{quota.window.name}"
    return Refusal(
        429,
        "quota_exceeded",
        message,
        type="rate_limit_error",
        extra={"quota": details, "upgrade": upgrade},
        retry_after_s=wait_s if soon else None,
        retries=soon,
        final=None if soon else FinalQuota(kind, worst.limit.subject, quota.metric.name, wait_s, end_s),
        hint=_raised_by(worst, principal),
    )


def _used_up(exhausted: Exhausted, details: Mapping[str, object]) -> str:
    """Return that a window has too little left, and when it resets."""
    quota = exhausted.limit.quota
    message = f"The {_quota_name(exhausted)} is exhausted"
    if exhausted.used < quota.limit:
        left = _amount(quota.metric, quota.limit - exhausted.used)
        message = f"The {_quota_name(exhausted)} has {left} left, and this request may use"
        message += f" {_amount(quota.metric, exhausted.requested)}"
    return message + ("." if details["resets_at"] is None else f"; it resets at {details['resets_at']}.")


def _never_fits(exhausted: Exhausted, fitting_output: int, max_field: str | None, raising: str) -> str:
    """Return that a request is larger than a whole limit, and what would fit into it."""
    quota = exhausted.limit.quota
    if not quota.limit:
        return f"The {_quota_name(exhausted)} allows nothing. {raising}."
    limit = f"{_amount(quota.metric, quota.limit)}{_unit(quota)}{_of_model(quota)}{_span(quota)}"
    message = f"The {exhausted.limit.subject}'s limit is {limit}, and this request may use"
    message += f" {_amount(quota.metric, exhausted.requested)}"
    if fitting_output and max_field is not None:
        message += f": lower {max_field} to {fitting_output:,} or less"
    else:
        message += ": its input alone is too large, so shorten it"
    return f"{message}, or ask for a higher limit. {raising}."


def _raised_by(exhausted: Exhausted, principal: Principal) -> str | None:
    """Return the operator's command that raises a limit; None where there is none."""
    match exhausted.limit.subject:
        case "key":
            return f"`metergate operator key update {principal.key_id} --quota ...` raises it"
        case "plan":
            return f"`metergate operator account set {principal.account_id} --plan PLAN` gives it another plan"
        case _:
            return None


def _worst(exhausted: Sequence[Exhausted], at_ms: int) -> Exhausted:
    """Return the one that resets last; the longer one of two that reset together."""

    def resets(each: Exhausted) -> tuple[float, Window]:
        end_s = window_end_s(each.limit.quota.window, at_ms // 1000)
        return float("inf") if end_s is None else end_s, each.limit.quota.window

    return max(exhausted, key=resets)


def _amount(metric: Metric, amount: int) -> str:
    return f"{format_usd(amount)} USD" if metric is Metric.cost else f"{amount:,}"


def _unit(quota: Quota) -> str:
    """Return what is counted, after its number; nothing for amounts, which have their currency."""
    if quota.metric is Metric.cost:
        return ""
    name = _words(quota.metric)
    return " " + (name.removesuffix("s") if quota.limit == 1 else name)


def _words(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def _of_model(quota: Quota) -> str:
    return "" if quota.model is None else f" of {quota.model}"


def _span(quota: Quota) -> str:
    if quota.window is Window.total:
        return " in total"
    return " an hour" if quota.window is Window.hour else f" a {quota.window.name}"


def _quota_name(exhausted: Exhausted) -> str:
    quota = exhausted.limit.quota
    limit = f"{_amount(quota.metric, quota.limit)}{_unit(quota)}"
    return f"{exhausted.limit.subject}'s quota of {limit}{_of_model(quota)}{_span(quota)}"


def _quota_details(exhausted: Exhausted, at_ms: int, *, held: bool = False) -> dict[str, object]:
    """Return the `quota` of a refusal; with `held`, what is held is in it and is taken off what remains."""
    quota = exhausted.limit.quota
    end_s = window_end_s(quota.window, at_ms // 1000)

    def shown(amount: int) -> object:
        return format_usd(amount) if quota.metric is Metric.cost else amount

    remaining = quota.limit - exhausted.used - (exhausted.held if held else 0)
    details = {
        "subject": exhausted.limit.subject,
        "window": quota.window.name,
        "metric": quota.metric.name,
        "limit": shown(quota.limit),
        "used": shown(exhausted.used),
        "requested": shown(exhausted.requested),
        "remaining": shown(max(0, remaining)),
        "resets_at": None if end_s is None else datetime.fromtimestamp(end_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if held:
        details["held"] = shown(exhausted.held)
    if quota.model is not None:
        details["model"] = quota.model
    return details


def capacity_held(
    refused: QuotaExceeded | InsufficientBalance, principal: Principal, links: Links, max_field: str | None = None
) -> Refusal:
    """Return 429: this request would fit without what running requests hold."""
    extra: dict[str, object]
    if isinstance(refused, QuotaExceeded):
        worst = _worst(refused.exhausted, refused.at_ms)
        extra = {"quota": _quota_details(worst, refused.at_ms, held=True)}
        metric = worst.limit.quota.metric
        held, of = _amount(metric, worst.held), _quota_name(worst)
        if metric is not Metric.cost:
            held += f" {_words(metric)}"
    else:
        balance_nano = refused.available_nano + refused.held_nano
        billing = _billing(principal, links, balance_nano, refused.required_nano)
        extra = {"billing": {**billing, "held": format_usd(refused.held_nano)}}
        held, of = f"{format_usd(refused.held_nano)} USD", "balance"
    sent = {} if isinstance(refused, QuotaExceeded) else _balance(billing)
    message = f"Running requests hold {held} of the {of}, and give back what they do not use: try again in a moment."
    message += _smaller(refused.fitting_output, max_field, " Or")
    return Refusal(
        429, "capacity_held", message, type="rate_limit_error", extra=extra, sent=sent, retry_after_s=1, retries=True
    )


def concurrency_exceeded(refused: TooManyRunning) -> Refusal:
    """Return the refusal of a request that has too many beside it."""
    message = f"This {refused.subject} has as many requests running as it may: wait for one to finish."
    return Refusal(429, "concurrency_exceeded", message, type="rate_limit_error", retry_after_s=1, retries=True)
