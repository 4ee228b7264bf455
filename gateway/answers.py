"""Headers that every metered answer carries (SPEC 8): ids, cost, balance and the tightest minute windows. Pure."""

from typing import Final

from billing.holds.hold import Hold
from billing.money import format_usd
from billing.principals import Limit
from billing.quotas import Metric

REQUEST_ID: Final = "x-request-id"
COST: Final = "x-metergate-cost-usd"
BALANCE: Final = "x-metergate-balance-usd"
MINUTE_MS: Final = 60_000
_SHOWN: Final = {Metric.requests: "requests", Metric.tokens: "tokens"}


def duration(milliseconds: int) -> str:
    """A duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{seconds}" if minutes else seconds


def limit_lines(hold: Hold) -> str:
    """`x-ratelimit-*` of the minute windows that have the least left, as admission left them."""
    tightest: dict[str, tuple[int, Limit]] = {}
    for limit, used in zip(hold.limits.minute, hold.minute_used, strict=True):
        name = _SHOWN.get(limit.quota.metric)
        if name is not None:
            remaining = limit.quota.limit - used
            if name not in tightest or remaining < tightest[name][0]:
                tightest[name] = (remaining, limit)
    if not tightest:
        return ""
    reset = duration(MINUTE_MS - hold.admitted_at_ms % MINUTE_MS)
    return "".join(
        f"x-ratelimit-limit-{name}: {limit.quota.limit}\r\n"
        f"x-ratelimit-remaining-{name}: {max(0, remaining)}\r\n"
        f"x-ratelimit-reset-{name}: {reset}\r\n"
        for name, (remaining, limit) in tightest.items()
    )


def metering_lines(hold: Hold, available_nano: int, credit_limit_nano: int, charged_nano: int | None) -> bytes:
    """Header lines: what this request cost, where that is known, and what the balance is now, holds taken off."""
    cost = f"{COST}: {format_usd(charged_nano)}\r\n" if charged_nano is not None else ""
    balance = format_usd(available_nano - credit_limit_nano)
    limits = limit_lines(hold) if hold.limits.minute else ""
    return f"{REQUEST_ID}: {hold.id}\r\n{cost}{BALANCE}: {balance}\r\n{limits}".encode()
