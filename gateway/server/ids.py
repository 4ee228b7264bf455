"""What every metered answer carries (docs/api.md): its `Date`, ids, cost, balance and the tightest minute windows.

A request's id is a ULID (https://github.com/ulid/spec) of 26 characters that rise with the millisecond of their making.
ULIDs are made here rather than by the library that other ids come from, because a request has few microseconds for
everything of its kind, and that one takes seven. They name requests and open nothing, so their randomness is Python's
own generator, seeded by the operating system.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from billing.money import NANO_PER_CENT, NANO_PER_USD

if TYPE_CHECKING:
    from billing.holds.model import Hold

REQUEST_ID: Final = "x-request-id"
UPSTREAM_REQUEST_ID: Final = "x-upstream-request-id"
CHARGE: Final = "x-metergate-charge-usd"
# What `CHARGE` says, too, until the next release.
COST: Final = "x-metergate-cost-usd"
BALANCE: Final = "x-metergate-balance-usd"
GRANTED: Final = "x-metergate-granted-output-tokens"
GRANTED_LINE: Final = b"x-metergate-granted-output-tokens: %d\r\n"
GRANTED_CALLS: Final = "x-metergate-granted-tool-calls"
PROVIDER: Final = "x-metergate-provider"
MODEL: Final = "x-metergate-model"
ATTEMPTS: Final = "x-metergate-attempts"
FIRST_ATTEMPT: Final = b"x-metergate-attempts: 1\r\n"
MINUTE_MS: Final = 60_000
# Metrics that OpenAI's headers have.
_SHOWN: Final = ("requests", "tokens")
# Sets of minute windows whose lines are kept made, but for what changes.
WINDOWS_KEPT: Final = 4_096

# Of what is not a letter, a digit or one of `_.-`.
_SHOWN_AS_THEY_ARE: Final = "!#$&'()*+,/:;=?@[]~ "

Minute = tuple[tuple[str, int], ...]


def duration(milliseconds: int) -> bytes:
    """Return a duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, MINUTE_MS)
    seconds, thousandths = divmod(rest, 1000)
    shown = (b"%d.%03d" % (seconds, thousandths)).rstrip(b"0") if thousandths else b"%d" % seconds
    return b"%dm%bs" % (minutes, shown) if minutes else b"%bs" % shown


def usd(nano: int) -> bytes:
    """Return an amount as `billing.money.format_usd` shows it, as bytes."""
    if nano < 0:
        return b"-" + usd(-nano)
    rest = nano % NANO_PER_USD
    if rest % NANO_PER_CENT:
        return (b"%d.%09d" % (nano // NANO_PER_USD, rest)).rstrip(b"0")
    return b"%d.%02d" % (nano // NANO_PER_USD, rest // NANO_PER_CENT)


class _Lines(NamedTuple):
    """Lines as templates: `first` says which request it was, `charged` also what it cost, `limits` what its minute has
    left. `windows` are, by metric, windows as (limit, index among the minute's)."""

    first: bytes
    charged: bytes
    limits: bytes
    windows: tuple[tuple[tuple[int, int], ...], ...]


@lru_cache(maxsize=WINDOWS_KEPT)
def _lines_of(minute: Minute, id_header: str | None) -> _Lines:
    """Return the templates for these windows."""
    found: dict[str, list[tuple[int, int]]] = {}
    for index, (metric, limit) in enumerate(minute):
        if metric in _SHOWN:
            found.setdefault(metric, []).append((limit, index))
    limits = "".join(
        f"x-ratelimit-limit-{metric}: %d\r\nx-ratelimit-remaining-{metric}: %d\r\nx-ratelimit-reset-{metric}: %b\r\n"
        for metric in found
    )
    first = f"{REQUEST_ID}: %b\r\n"
    own = f"{id_header}: %b\r\n" if id_header is not None else ""
    charged = f"{first}{CHARGE}: %b\r\n{COST}: %b\r\n{own}"
    return _Lines(f"{first}{own}".encode(), charged.encode(), limits.encode(), tuple(map(tuple, found.values())))


def paid_lines(hold: Hold, charged_nano: int | None, id_header: str | None = None) -> bytes:
    """Return header lines: which request this was (also in `id_header`), what was charged where that is known, how many
    output tokens it could have where the hold has bounded them and not the client, and of the minute's windows by
    metric the one that has the least left, as admission left it."""
    first, charged, limits, shown = _lines_of(hold.target.limits.minute, id_header)
    values: list[object] = [hold.id_bytes]
    if charged_nano is not None:
        first, charge_usd = charged, usd(charged_nano)
        values += (charge_usd, charge_usd)
    if id_header is not None:
        values.append(hold.id_bytes)
    if hold.granted_output < hold.need.most_output:
        first += GRANTED_LINE
        values.append(hold.granted_output)
    if shown:
        used, reset = hold.minute_used, duration(MINUTE_MS - hold.admitted_at_ms % MINUTE_MS)
        for windows in shown:
            most, index = windows[0]
            left = most - used[index]
            for limit, at in windows[1:]:
                if limit - used[at] < left:
                    most, left = limit, limit - used[at]
            values += (most, left if left > 0 else 0, reset)
    return first % tuple(values) if not shown else (first + limits) % tuple(values)


def served_lines(provider: str, model: str) -> bytes:
    """Return header lines: the provider that answered, and the model's name there; what is not ASCII is
    percent-encoded."""
    return f"{PROVIDER}: {provider}\r\n{MODEL}: {header_text(model)}\r\n".encode()


def header_text(name: str) -> str:
    """Return a model's name as a header carries it."""
    return quote(name, safe=_SHOWN_AS_THEY_ARE)


def attempts_line(attempts: int) -> bytes:
    """Return the header line of how many attempts it took to get an answer from a provider."""
    return f"{ATTEMPTS}: {attempts}\r\n".encode()


def granted_calls_line(calls: int) -> bytes:
    """Return the header line of how often tools may run at the provider that the client left open."""
    return f"{GRANTED_CALLS}: {calls}\r\n".encode()


def balance_line(balance_nano: int) -> bytes:
    """Return the header line of what the account has, holds taken off."""
    return b"x-metergate-balance-usd: %b\r\n" % usd(balance_nano)


ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CHANCE_BITS: Final = 60
COUNT_BITS: Final = 20
_PAIRS: Final = tuple(high + low for high in ALPHABET for low in ALPHABET)


class Ulids:
    """Makes ULIDs; call it. Of the 80 bits behind the time, 60 are random anew in every millisecond and the last 20
    count, so that ids of one maker rise within it, too. `clock` gives Unix milliseconds, `bits` a random number of that
    many bits."""

    __slots__ = ("_bits", "_clock", "_count", "_ms", "_prefix")

    def __init__(
        self,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        bits: Callable[[int], int] | None = None,
    ) -> None:
        self._clock = clock
        self._bits = bits or random.Random().getrandbits  # noqa: S311
        self._ms = -1
        self._count = 0
        self._prefix = ""

    def __call__(self) -> str:
        now_ms, count = self._clock(), self._count + 1
        if now_ms != self._ms or count >> COUNT_BITS:
            self._ms, count = now_ms, 0
            self._prefix = _prefix(now_ms, self._bits(CHANCE_BITS))
        self._count = count
        return self._prefix + _PAIRS[count >> 10] + _PAIRS[count & 1023]


def _prefix(ms: int, chance: int) -> str:
    """Return 48 bits of time and 60 of chance in Crockford's base 32, two digits at a time: where requests are few,
    each of them comes in a millisecond of its own."""
    pairs = _PAIRS
    return (
        f"{pairs[ms >> 40]}{pairs[ms >> 30 & 1023]}{pairs[ms >> 20 & 1023]}{pairs[ms >> 10 & 1023]}{pairs[ms & 1023]}"
        f"{pairs[chance >> 50]}{pairs[chance >> 40 & 1023]}{pairs[chance >> 30 & 1023]}{pairs[chance >> 20 & 1023]}"
        f"{pairs[chance >> 10 & 1023]}{pairs[chance & 1023]}"
    )


_dated: tuple[int, bytes] = (0, b"")


def date_now() -> bytes:
    """Return the time of day as the `Date` header has it (RFC 9110, 5.6.7), made once a second."""
    global _dated
    now_s = int(time.time())
    if _dated[0] != now_s:
        _dated = now_s, formatdate(now_s, usegmt=True).encode()
    return _dated[1]
