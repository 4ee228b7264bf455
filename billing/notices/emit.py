"""What there are notices of, and what mails of them say; and `emit`, which writes one in the transaction of what it is
about: it is sent if and only if that is committed, and sent once.

Notices of quotas that are used up, once in a window.

Windows of a minute or an hour are left out, because they reset before anybody reads a mail; so is a quota of which much
is left, where a single request asked for more. Where no refusals are kept (`refusals_per_key: 0`), none is written.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from billing.database.connection import DatabaseError, queries
from billing.quotas import NOTIFIED_WINDOWS

if TYPE_CHECKING:
    from billing.database.connection import Connection, Database
    from billing.refused_requests import RefusedRequest

# What there are notices of. `endpoint.disabled`: deliveries to an endpoint have failed for long; `provider.difference`
# is for operators alone; `test`: asked for.
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
    "test",
]
TYPES: Final[tuple[NoticeType, ...]] = get_args(NoticeType)
MAX_VALUE: Final = 200


class _Wording(NamedTuple):
    subject: str
    text: str


# What of a notice's data a mail shows, and how it is called there.
_FIELDS: Final[Mapping[str, str]] = {
    "amount_usd": "Amount in USD",
    "refunded_usd": "Refunded in USD",
    "balance_usd": "Balance in USD",
    "threshold_usd": "Threshold in USD",
    "threshold": "Threshold in percent",
    "spent_usd": "Spent in USD",
    "forecast_usd": "Forecast in USD",
    "period": "Period",
    "plan": "Plan",
    "plan_before": "Plan before",
    "status": "Status",
    "reason": "Reason",
    "window": "Window",
    "metric": "Metric",
    "limit": "Limit",
    "resets_at": "Resets at",
    "ends_at": "Ends at",
    "period_end": "Period ends at",
    "url": "To go on",
}
# Others are told to endpoints alone: a mail for each key would be noise, and a leaked one has a mail of its own.
_LETTERS: Final[Mapping[NoticeType, _Wording]] = {
    "balance.low": _Wording("your balance is low", "Your balance has fallen below its threshold. Buy credit to go on."),
    "budget.threshold": _Wording(
        "a budget is being used up",
        "What was spent has reached a threshold of a budget. Requests are served all the same; a quota would refuse "
        "them.",
    ),
    "quota.exhausted": _Wording(
        "a quota is exhausted", "A quota of your account is exhausted: requests are refused until it resets."
    ),
    "auto_recharge.failed": _Wording(
        "auto-recharge failed", "Credit could not be bought by auto-recharge. Look at your means of payment."
    ),
    "payment.succeeded": _Wording("your payment was received", "Your payment was received. Thank you."),
    "payment.failed": _Wording("your payment failed", "A payment failed. Look at your means of payment."),
    "payment.refunded": _Wording("your payment was refunded", "A payment was refunded, whole or in part."),
    "payment.disputed": _Wording(
        "a payment is disputed", "A payment is disputed at your bank. Until that is over nothing is served."
    ),
    "subscription.changed": _Wording("your plan has changed", "Your plan, or when it ends, has changed."),
    "subscription.past_due": _Wording(
        "your subscription is past due",
        "The payment of your subscription failed. Your plan stays for a few days; then the account goes back to the "
        "free plan. It is served again as soon as the payment succeeds.",
    ),
    "subscription.ended": _Wording("your subscription has ended", "Your subscription has ended."),
    "endpoint.disabled": _Wording(
        "a webhook endpoint was disabled",
        "Deliveries to a webhook endpoint have failed for days, and it was disabled. Mend it and enable it again.",
    ),
}
MAILED: Final[tuple[NoticeType, ...]] = tuple(_LETTERS)
# The text about an exhausted quota, by its subject; those of accounts have another one.
_OF_SUBJECTS: Final[Mapping[str, str]] = {
    "plan": "A quota of your plan is exhausted: requests are refused until it resets, or the plan is a larger one.",
    "key": "A quota of one of your API keys is exhausted: its requests are refused until it resets.",
    "user": "A quota of a member is exhausted: requests by that member's keys are refused until it resets.",
}


def letter_of(service: str, type_: NoticeType, data: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the subject and the body of a notice's mail; None where it is none that is mailed."""
    letter = _LETTERS.get(type_)
    if letter is None:
        return None
    lines = [f"{name}: {_shown(data[field])}" for field, name in _FIELDS.items() if data.get(field) is not None]
    text = _OF_SUBJECTS.get(str(data.get("subject")), letter.text) if type_ == "quota.exhausted" else letter.text
    paragraphs = [text, *(["\n".join(lines)] if lines else [])]
    return f"{service}: {letter.subject}", "\n\n".join(paragraphs) + "\n"


def _shown(value: object) -> str:
    return " ".join(str(value).split())[:MAX_VALUE]


_query = queries("billing.notices")


async def emit(
    connection: Connection, account_id: str, type: NoticeType, data: Mapping[str, Any], *, once: str | None = None
) -> str | None:
    """Write a notice about an account, to be told once the caller's transaction is committed; return its id.

    `data` is shown to customers: amounts as decimal strings of USD, times as RFC 3339, never a secret. With `once`, the
    id of what has happened (a payment, a period), a second notice of the type and account is not written: None. Raises
    `DatabaseError`, and `ValueError` for a type that there is none of.
    """
    if type not in TYPES:
        raise ValueError(f"{type!r} is no type of notice")
    found = await connection.fetchval(_query("notices_emit"), account_id, type, data, once)
    return None if found is None else str(found)


logger = logging.getLogger(__name__)

CODE: Final = "quota_exceeded"
WINDOWS: Final = frozenset(window.name for window in NOTIFIED_WINDOWS)
# Windows that one process remembers to have notified of; the database knows of others.
KNOWN: Final = 10_000
# A quota of which a twentieth or less is left is used up.
LEFT_OF: Final = 20
_OF_A_KEY: Final = frozenset({"key", "user"})


@dataclass(frozen=True, slots=True)
class Crossing:
    """A quota that is used up: `once` is the same for every refusal of it in one window."""

    account_id: str
    once: str
    data: dict[str, Any]


def crossings(refused: Iterable[RefusedRequest]) -> list[Crossing]:
    """Return the quotas that refusals say are used up, each once. Pure."""
    found: dict[tuple[str, str], Crossing] = {}
    for each in refused:
        quota = each.details.get("quota")
        if each.code != CODE or each.account_id is None or not isinstance(quota, dict):
            continue
        if quota.get("window") not in WINDOWS or not _is_used_up(quota):
            continue
        key_id = each.key_id if quota.get("subject") in _OF_A_KEY else None
        names = ("subject", "window", "metric", "model", "limit", "resets_at")
        once = ":".join(str(part) for part in (key_id, *(quota.get(name) for name in names)))
        data = {**quota, "key_id": key_id, "upgrade": each.details.get("upgrade")}
        found[each.account_id, once] = Crossing(each.account_id, once, data)
    return list(found.values())


def _is_used_up(quota: Mapping[str, Any]) -> bool:
    """Return whether next to nothing is left: requests are refused by what they might use, so that it is hardly ever
    nothing at all."""
    limit, left = Decimal(str(quota.get("limit", 0))), Decimal(str(quota.get("remaining", 0)))
    return left * LEFT_OF <= limit


class ExhaustedNotices:
    """Writes notices of quotas that are used up."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notified: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def notify(self, refused: Iterable[RefusedRequest]) -> None:
        """Write notices of what these refusals say is used up. What the database does not take now is written at a
        later refusal."""
        fresh = [each for each in crossings(refused) if (each.account_id, each.once) not in self._notified]
        if not fresh:
            return
        try:
            async with self._database.transaction() as connection:
                for each in fresh:
                    await emit(connection, each.account_id, "quota.exhausted", each.data, once=each.once)
        except DatabaseError as error:
            logger.info("notices of quotas that are used up are written later: %s", error)
            return
        for each in fresh:
            self._notified[each.account_id, each.once] = None
        while len(self._notified) > KNOWN:
            self._notified.popitem(last=False)
