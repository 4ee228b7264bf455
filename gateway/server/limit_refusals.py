"""Refusals of what balance, windows or concurrency do not admit (docs/limits.md). This file owns their wording,
and where they lead (`Links`).

What was used is distinguished from what running requests hold and may give back: 402 and `quota_exceeded` say that a
request would not fit even if nothing ran, `capacity_held` that it would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from billing.holds.decision import Exhausted, InsufficientBalance, QuotaExceeded, Refused, TooManyRunning
from billing.money import format_usd
from billing.quotas import Metric, Window, window_end_s
from gateway.server.ids import BALANCE
from gateway.server.refusals import Refusal

if TYPE_CHECKING:
    from billing.plans import Plan
    from billing.principals import Principal
    from billing.quotas import Quota

RETRY_WITHIN_S: Final = 60
SETUP_COMMAND: Final = "metergate billing setup"
"""What a customer runs to get to the page where credit is bought."""


@dataclass(frozen=True, slots=True)
class Links:
    """Where a refusal leads: the operator's own page (FRONTEND_URL), None where there is none; the plans to upgrade to;
    and the gateway's page that says how credit is bought (`pay_url`), None where payments are off."""

    frontend_url: str | None
    plans: Mapping[str, Plan]
    pay_url: str | None = None

    @property
    def setup_url(self) -> str | None:
        """Return the page where an account gets credit."""
        return self.frontend_url or self.pay_url

    @property
    def next(self) -> str | None:
        """Return the command that buys credit; None where payments are off."""
        return None if self.pay_url is None else SETUP_COMMAND

    def credit(self, account_id: str) -> str:
        """Return how an account gets credit."""
        bought = "" if self.pay_url is None else f"buy credit with `{SETUP_COMMAND}`, or "
        return f"{bought}ask {self._operator} for credit (`metergate operator grant {account_id} AMOUNT_USD`)"

    def activation(self, account_id: str) -> str:
        """Return how an account that may not spend gets active again."""
        command = f"`metergate operator account set {account_id} --status active`"
        return f"ask {self._operator} to make it active again ({command})"

    @property
    def _operator(self) -> str:
        return "whoever runs this gateway" + (f" ({self.frontend_url})" if self.frontend_url else "")

    def upgrade(self, plan: Plan, quota: Quota) -> dict[str, object] | None:
        """Return the next plan, or None where there is none, or where it does not raise this quota of the plan's."""
        better = self.plans.get(plan.upgrade_to or "")
        if better is None or any(each.tag == quota.tag and each.limit <= quota.limit for each in better.quotas):
            return None
        price_usd, url = format_usd(better.price_nano), self.upgrade_url(better)
        return {"plan": better.id, "name": better.name, "price_usd": price_usd, "url": url}

    def upgrade_url(self, plan: Plan) -> str | None:
        """Return the page where a plan is bought: the operator's own, else the gateway's, where payments are on."""
        return self.frontend_url or (None if self.pay_url is None else f"{self.pay_url}/plans/{plan.id}")


def of_decision(refused: Refused, principal: Principal, links: Links) -> Refusal:
    """Return the refusal of an admission."""
    match refused:
        case TooManyRunning():
            return concurrency_exceeded(refused)
        case QuotaExceeded() | InsufficientBalance() if refused.is_held:
            return capacity_held(refused, principal, links)
        case QuotaExceeded():
            return quota_exceeded(refused, principal, links)
        case InsufficientBalance():
            all_nano = refused.available_nano + refused.held_nano
            return billing_required(principal, links, all_nano, refused.required_nano, refused.fitting_output)


def billing_required(
    principal: Principal, links: Links, available_nano: int | None, required_nano: int | None, fitting_output: int = 0
) -> Refusal:
    """Return 402: the balance is too low for the request even if nothing runs, or the account may not spend.

    `available_nano` is the balance with the credit limit, holds not taken off; `fitting_output` would fit now."""
    if principal.status == "active":
        message = f"The balance does not cover this request: {links.credit(principal.account_id)}."
        message += _lower(fitting_output, " Or ask for")
    else:
        message = f"The account is {principal.status.replace('_', ' ')}: {links.activation(principal.account_id)}."
    billing = _billing(principal, links, available_nano, required_nano)
    return Refusal(
        402, "billing_required", message, type="billing_error", extra={"billing": billing}, sent=_balance(billing)
    )


def _balance(billing: Mapping[str, object]) -> dict[str, str]:
    """Return the header with the balance, where it is known."""
    balance_usd = billing["balance_usd"]
    return {BALANCE: balance_usd} if isinstance(balance_usd, str) else {}


def _billing(
    principal: Principal, links: Links, available_nano: int | None, required_nano: int | None
) -> dict[str, object]:
    return {
        "status": principal.status,
        "balance_usd": None if available_nano is None else format_usd(available_nano - principal.credit_limit_nano),
        "required_usd": None if required_nano is None else format_usd(required_nano),
        "setup_url": links.setup_url,
        "next": links.next,
    }


def _lower(fitting_output: int, beginning: str) -> str:
    """Return a sentence on the maximum of output tokens that would fit; nothing where none does."""
    return f"{beginning} a max_tokens of at most {fitting_output}: so much would fit now." if fitting_output else ""


def quota_exceeded(refused: QuotaExceeded, principal: Principal, links: Links) -> Refusal:
    """Return 429, which names the window that resets last of those that have too little left, holds not counted."""
    worst = _worst([each for each in refused.exhausted if not each.is_held], refused.at_ms)
    quota, subject = worst.limit.quota, worst.limit.subject
    end_s = window_end_s(quota.window, refused.at_ms // 1000)
    wait_s = None if end_s is None else max(1, -(-(end_s * 1000 - refused.at_ms) // 1000))
    details = _quota_details(worst, refused.at_ms)
    upgrade = links.upgrade(principal.plan, quota) if subject == "plan" else None
    if worst.used >= quota.limit:
        message = f"{_quota_name(worst)} is exhausted"
    else:
        message = f"{_quota_name(worst)} has {details['remaining']} left, and this request may take"
        message += f" {details['requested']}"
    message += "." if end_s is None else f"; it begins anew at {details['resets_at']}."
    message += _lower(refused.fitting_output, " Ask for")
    if upgrade is not None:
        message += f" The plan {upgrade['name']} has more"
        message += f": {upgrade['url']}." if upgrade["url"] else "."
    elif subject == "key":
        message += " The key's owner can raise it."
    elif subject == "user":
        message += " Whoever administers the account can raise it: it counts all of the user's keys."
    else:
        message += " The operator can raise it."
    retries = wait_s is not None and wait_s <= RETRY_WITHIN_S
    return Refusal(
        429,
        "quota_exceeded",
        message,
        type="rate_limit_error",
        extra={"quota": details, "upgrade": upgrade},
        retry_after_s=wait_s if retries else None,
        retries=retries,
    )


def _worst(exhausted: Sequence[Exhausted], at_ms: int) -> Exhausted:
    """Return the one that resets last; the longer one of two that reset together."""

    def resets(each: Exhausted) -> tuple[float, Window]:
        end_s = window_end_s(each.limit.quota.window, at_ms // 1000)
        return float("inf") if end_s is None else end_s, each.limit.quota.window

    return max(exhausted, key=resets)


def _quota_name(exhausted: Exhausted) -> str:
    quota = exhausted.limit.quota
    span = "in total" if quota.window is Window.total else f"a {quota.window.name}"
    of_model = "" if quota.model is None else f" of {quota.model}"
    metric = quota.metric.name.removesuffix("s") if quota.limit == 1 else quota.metric.name
    limit = f"{format_usd(quota.limit)} USD" if quota.metric is Metric.cost else f"{quota.limit} {metric}"
    return f"The {exhausted.limit.subject}'s quota of {limit}{of_model} {span}"


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


def capacity_held(refused: QuotaExceeded | InsufficientBalance, principal: Principal, links: Links) -> Refusal:
    """Return 429: this request would fit without what running requests hold."""
    extra: dict[str, object]
    if isinstance(refused, QuotaExceeded):
        worst = _worst(refused.exhausted, refused.at_ms)
        extra = {"quota": _quota_details(worst, refused.at_ms, held=True)}
        held, of = f"{worst.held} {worst.limit.quota.metric.name}", _quota_name(worst)[len("The ") :]
        if worst.limit.quota.metric is Metric.cost:
            held = f"{format_usd(worst.held)} USD"
    else:
        balance_nano = refused.available_nano + refused.held_nano
        billing = _billing(principal, links, balance_nano, refused.required_nano)
        extra = {"billing": {**billing, "held": format_usd(refused.held_nano)}}
        held, of = f"{format_usd(refused.held_nano)} USD", "balance"
    sent = {} if isinstance(refused, QuotaExceeded) else _balance(billing)
    message = f"Running requests hold {held} of the {of}, and give back what they do not use: try again in a moment."
    message += _lower(refused.fitting_output, " Or ask for")
    return Refusal(
        429, "capacity_held", message, type="rate_limit_error", extra=extra, sent=sent, retry_after_s=1, retries=True
    )


def concurrency_exceeded(refused: TooManyRunning) -> Refusal:
    """Return the refusal of a request that has too many beside it."""
    message = f"The {refused.subject}'s max_parallel_requests is reached: wait for one to finish."
    return Refusal(429, "concurrency_exceeded", message, type="rate_limit_error", retry_after_s=1, retries=True)
