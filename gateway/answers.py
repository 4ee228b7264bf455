"""Headers that every metered answer carries (SPEC 8): ids, cost, balance and the tightest minute windows. Pure."""

from typing import Final

from billing.holds.hold import Hold
from billing.money import format_usd
from billing.quotas import Metric

REQUEST_ID: Final = "x-request-id"
UPSTREAM_REQUEST_ID: Final = "x-upstream-request-id"
COST: Final = "x-metergate-cost-usd"
BALANCE: Final = "x-metergate-balance-usd"
GRANTED: Final = "x-metergate-granted-output-tokens"
MINUTE_MS: Final = 60_000
_SHOWN: Final = (Metric.requests.name, Metric.tokens.name)


def duration(milliseconds: int) -> str:
    """A duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, MINUTE_MS)
    seconds, rest = divmod(rest, 1000)
    shown = f"{seconds}.{rest:03d}".rstrip("0") if rest else str(seconds)
    return f"{minutes}m{shown}s" if minutes else f"{shown}s"


def limit_lines(hold: Hold) -> str:
    """`x-ratelimit-*` of the minute windows that have the least left, as admission left them."""
    tightest: dict[str, tuple[int, int]] = {}
    for (metric, limit), used in zip(hold.place.limits.minute, hold.minute_used, strict=True):
        if metric in _SHOWN and (metric not in tightest or limit - used < tightest[metric][0]):
            tightest[metric] = (limit - used, limit)
    if not tightest:
        return ""
    reset = duration(MINUTE_MS - hold.admitted_at_ms % MINUTE_MS)
    lines = ""
    for metric, (remaining, limit) in tightest.items():
        lines += (
            f"x-ratelimit-limit-{metric}: {limit}\r\n"
            f"x-ratelimit-remaining-{metric}: {remaining if remaining > 0 else 0}\r\n"
            f"x-ratelimit-reset-{metric}: {reset}\r\n"
        )
    return lines


def paid_lines(hold: Hold, charged_nano: int | None) -> bytes:
    """Header lines: which request this was, what it cost where that is known, how many output tokens it could have
    where the hold has bounded them and not the client, and what its minute has left."""
    cost = f"{COST}: {format_usd(charged_nano)}\r\n" if charged_nano is not None else ""
    limits = limit_lines(hold) if hold.place.limits.minute else ""
    granted = f"{GRANTED}: {hold.granted_output}\r\n" if hold.granted_output < hold.need.most_output else ""
    return f"{REQUEST_ID}: {hold.id}\r\n{cost}{granted}{limits}".encode()


def balance_line(balance_nano: int) -> bytes:
    """The header line of what the account has, holds taken off."""
    return f"{BALANCE}: {format_usd(balance_nano)}\r\n".encode()
