"""Headers that every metered answer carries (docs/api.md): ids, cost, balance and the tightest minute windows. Pure."""

from functools import lru_cache
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
WINDOWS_KEPT: Final = 4_096
"""Sets of minute windows whose lines are kept made, but for what changes."""

Minute = tuple[tuple[str, int], ...]


def duration(milliseconds: int) -> str:
    """A duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, MINUTE_MS)
    shown = f"{rest / 1000:g}"  # at most five digits: all of them are shown
    return f"{minutes}m{shown}s" if minutes else f"{shown}s"


def limit_lines(hold: Hold) -> str:
    """`x-ratelimit-*` of the minute windows that have the least left, as admission left them."""
    shown = _shown(hold.place.limits.minute)
    if not shown:
        return ""
    used = hold.minute_used
    reset = duration(MINUTE_MS - hold.admitted_at_ms % MINUTE_MS)
    lines = ""
    for windows, reset_begins in shown:
        begins, most, place = windows[0]
        left = most - used[place]
        for other, limit, at in windows[1:]:
            if limit - used[at] < left:
                begins, left = other, limit - used[at]
        lines += f"{begins}{left if left > 0 else 0}{reset_begins}{reset}\r\n"
    return lines


@lru_cache(maxsize=WINDOWS_KEPT)
def _shown(minute: Minute) -> tuple[tuple[tuple[tuple[str, int, int], ...], str], ...]:
    """By metric: its windows, each as what its lines begin with up to what is left, its limit, and its place among the
    `minute` windows; and what stands between that and the time of the reset."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for place, (metric, limit) in enumerate(minute):
        if metric in _SHOWN:
            begins = f"x-ratelimit-limit-{metric}: {limit}\r\nx-ratelimit-remaining-{metric}: "
            found.setdefault(metric, []).append((begins, limit, place))
    return tuple((tuple(windows), f"\r\nx-ratelimit-reset-{metric}: ") for metric, windows in found.items())


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
