"""What there are notices of, and what people are told of them, by mail or in a chat. Pure.

As all letters they hold nothing that somebody else has written: of a notice's data amounts, times, states and the names
of plans alone, which operators choose.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

# What there are notices of. `endpoint.disabled`: deliveries to an endpoint have failed for long; `provider.difference`
# and troubles are for operators alone; `test`: asked for.
NoticeType = Literal[
    "balance.low",
    "budget.threshold",
    "quota.exhausted",
    "auto_recharge.failed",
    "payment.succeeded",
    "payment.failed",
    "payment.refunded",
    "payment.disputed",
    "subscription.changed",
    "subscription.past_due",
    "subscription.ended",
    "key.created",
    "key.revoked",
    "key.leaked",
    "endpoint.disabled",
    "provider.difference",
    "trouble.began",
    "trouble.ended",
    "test",
]
TYPES: Final[tuple[NoticeType, ...]] = get_args(NoticeType)
# What is about no account: their endpoints alone get it.
OF_OPERATORS: Final[frozenset[NoticeType]] = frozenset({"provider.difference", "trouble.began", "trouble.ended"})
MAX_VALUE: Final = 200


class _Wording(NamedTuple):
    subject: str
    text: str


# What of a notice's data people are shown, and how it is called there.
FIELDS: Final[Mapping[str, str]] = {
    "amount_usd": "Amount in USD",
    "refunded_usd": "Refunded in USD",
    "balance_usd": "Balance in USD",
    "threshold_usd": "Threshold in USD",
    "threshold": "Threshold in percent",
    "spent_usd": "Spent in USD",
    "forecast_usd": "Forecast in USD",
    "period": "Period",
    "plan": "Plan",
    "plan_before": "Previous plan",
    "status": "Status",
    "reason": "Reason",
    "window": "Window",
    "metric": "Metric",
    "limit": "Limit",
    "resets_at": "Resets at",
    "ends_at": "Ends at",
    "period_end": "Period ends at",
    "url": "Next step",
}
# What a chat says of notices that nobody is mailed.
_UNMAILED: Final[Mapping[NoticeType, str]] = {
    "key.created": "an API key was created",
    "key.revoked": "an API key was revoked",
    "key.leaked": "an API key was found in public, and revoked",
    "provider.difference": "a provider's bill differs from the ledger",
    "trouble.began": "Metergate needs attention",
    "trouble.ended": "this problem is resolved",
    "test": "this is a test notice",
}
# Others are told to endpoints alone: a mail for each key would be noise, and a leaked one has a mail of its own.
_LETTERS: Final[Mapping[NoticeType, _Wording]] = {
    "balance.low": _Wording("your balance is low", "Your balance has fallen below its threshold. Buy credit to go on."),
    "budget.threshold": _Wording(
        "a budget is being used up",
        "Spending has reached a threshold of a budget. Requests are still served: a budget only alerts, a quota "
        "refuses.",
    ),
    "quota.exhausted": _Wording(
        "a quota is exhausted", "A quota of your account is exhausted: requests are refused until it resets."
    ),
    "auto_recharge.failed": _Wording(
        "auto-recharge failed", "Credit could not be bought by auto-recharge. Check your payment method."
    ),
    "payment.succeeded": _Wording("your payment was received", "Your payment was received. Thank you."),
    "payment.failed": _Wording("your payment failed", "A payment failed. Check your payment method."),
    "payment.refunded": _Wording("your payment was refunded", "A payment was refunded, whole or in part."),
    "payment.disputed": _Wording(
        "a payment is disputed", "A payment is disputed at your bank. Until that is settled, requests are refused."
    ),
    "subscription.changed": _Wording("your plan has changed", "Your plan, or the date on which it ends, has changed."),
    "subscription.past_due": _Wording(
        "your subscription is past due",
        "The payment of your subscription failed. Your plan stays for a few days; then the account goes back to the "
        "free plan. It is served again as soon as the payment succeeds.",
    ),
    "subscription.ended": _Wording("your subscription has ended", "Your subscription has ended."),
    "endpoint.disabled": _Wording(
        "a webhook endpoint was disabled",
        "Deliveries to a webhook endpoint have failed for days, so it was disabled. Fix it and enable it again.",
    ),
}
MAILED: Final[tuple[NoticeType, ...]] = tuple(_LETTERS)
# The text about an exhausted quota, by its subject; those of accounts have another one.
_OF_SUBJECTS: Final[Mapping[str, str]] = {
    "plan": "A quota of your plan is exhausted: requests are refused until it resets, or you choose a larger plan.",
    "key": "A quota of one of your API keys is exhausted: its requests are refused until it resets.",
    "user": "A quota of a member is exhausted: requests by that member's keys are refused until it resets.",
}


def wording_of(type_: NoticeType, data: Mapping[str, Any]) -> tuple[str, str]:
    """Return the heading of a notice, and its text, which may be empty."""
    letter = _LETTERS.get(type_)
    heading = _UNMAILED[type_] if letter is None else letter.subject
    return heading[0].upper() + heading[1:], _text_of(type_, data)


def _text_of(type_: NoticeType, data: Mapping[str, Any]) -> str:
    letter = _LETTERS.get(type_)
    if letter is None:
        return str(data.get("message", ""))
    return _OF_SUBJECTS.get(str(data.get("subject")), letter.text) if type_ == "quota.exhausted" else letter.text


def letter_of(service: str, type_: NoticeType, data: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the subject and the body of a notice's mail; None where it is none that is mailed."""
    letter = _LETTERS.get(type_)
    if letter is None:
        return None
    lines = [f"{name}: {_shown(data[field])}" for field, name in FIELDS.items() if data.get(field) is not None]
    paragraphs = [_text_of(type_, data), *(["\n".join(lines)] if lines else [])]
    return f"{service}: {letter.subject}", "\n\n".join(paragraphs) + "\n"


def _shown(value: object) -> str:
    return " ".join(str(value).split())[:MAX_VALUE]
