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
    if milliseconds < MINUTE_MS and milliseconds % 10:  # as nearly all are
        return b"%d.%03ds" % divmod(milliseconds, 1000)
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
    """Lines as templates: `first` says which request it was, `charged` also what it cost, `granted` how many output
    tokens it could have; all of them end with what its minute has left. `windows` are, by metric, the first window, as
    limit and index among the minute's, and the others."""

    first: bytes
    first_granted: bytes
    charged: bytes
    charged_granted: bytes
    windows: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]


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
    ).encode()
    own = f"{id_header}: %b\r\n" if id_header is not None else ""
    first = f"{REQUEST_ID}: %b\r\n{own}".encode()
    charged = f"{REQUEST_ID}: %b\r\n{CHARGE}: %b\r\n{COST}: %b\r\n{own}".encode()
    windows = tuple((*first, tuple(others)) for first, *others in found.values())
    return _Lines(
        first + limits, first + GRANTED_LINE + limits, charged + limits, charged + GRANTED_LINE + limits, windows
    )


def paid_lines(hold: Hold, charged_nano: int | None, id_header: str | None = None) -> bytes:
    """Return header lines: which request this was (also in `id_header`), what was charged where that is known, how many
    output tokens it could have where the hold has bounded them and not the client, and of the minute's windows by
    metric the one that has the least left, as admission left it."""
    first, first_granted, charged, charged_granted, shown = _lines_of(hold.target.limits.minute, id_header)
    values: list[object]
    if charged_nano is None:
        values = [hold.id_bytes]
    else:
        charge_usd = usd(charged_nano)
        first, first_granted, values = charged, charged_granted, [hold.id_bytes, charge_usd, charge_usd]
    if id_header is not None:
        values.append(hold.id_bytes)
    if hold.granted_output < hold.need.most_output:
        first = first_granted
        values.append(hold.granted_output)
    if shown:
        used, reset = hold.minute_used, duration(MINUTE_MS - hold.admitted_at_ms % MINUTE_MS)
        for most, index, others in shown:
            left = most - used[index]
            for limit, at in others:
                if limit - used[at] < left:
                    most, left = limit, limit - used[at]
            values += most, left if left > 0 else 0, reset
    return first % tuple(values)


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
# Of a time in milliseconds, what one pair of digits says: a block is about a second.
BLOCK_BITS: Final = 10
_PAIRS: Final = tuple(high + low for high in ALPHABET for low in ALPHABET)


class Ulids:
    """Makes ULIDs; call it. Of the 80 bits behind the time, 60 are random anew in every block of 1,024 ms, and the last
    20 count within it, so that ids of one maker rise. `clock` gives Unix milliseconds, `bits` a random number of that
    many bits."""

    __slots__ = ("_bits", "_block", "_chance", "_clock", "_count", "_time")

    def __init__(
        self,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        bits: Callable[[int], int] | None = None,
    ) -> None:
        self._clock = clock
        self._bits = bits or random.Random().getrandbits  # noqa: S311
        self._block = -1
        self._count = 0
        self._time = self._chance = ""

    def __call__(self) -> str:
        now_ms, count = self._clock(), self._count + 1
        block = now_ms >> BLOCK_BITS
        if block != self._block or count >> COUNT_BITS:
            self._block, count = block, 0
            # Of an id only the pair of its millisecond, and of its count, differ within a block.
            self._time, self._chance = _pairs_of(block, 4), _pairs_of(self._bits(CHANCE_BITS), 6)
        self._count = count
        pairs = _PAIRS
        return f"{self._time}{pairs[now_ms & 1023]}{self._chance}{pairs[count >> 10]}{pairs[count & 1023]}"


def _pairs_of(number: int, count: int) -> str:
    """Return so many pairs of digits in Crockford's base 32, of ten bits each."""
    return "".join(_PAIRS[number >> 10 * at & 1023] for at in reversed(range(count)))


_dated: tuple[int, bytes] = (0, b"")


def date_now() -> bytes:
    """Return the time of day as the `Date` header has it (RFC 9110, 5.6.7), made once a second."""
    global _dated
    now_s = int(time.time())
    if _dated[0] != now_s:
        _dated = now_s, formatdate(now_s, usegmt=True).encode()
    return _dated[1]
