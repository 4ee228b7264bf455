"""Ids of requests: ULIDs (https://github.com/ulid/spec), 26 characters that rise with the millisecond of their making.

Made here rather than by the library that other ids come from, because a request has few microseconds for everything of
its kind, and that one takes seven. They name requests and open nothing, so their randomness is Python's own generator,
seeded by the operating system.
"""

import random
import time
from collections.abc import Callable
from typing import Final

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
    """48 bits of time and 60 of chance in Crockford's base 32, a pair of its digits at a time: where requests are few,
    each of them comes in a millisecond of its own."""
    pairs = _PAIRS
    return (
        f"{pairs[ms >> 40]}{pairs[ms >> 30 & 1023]}{pairs[ms >> 20 & 1023]}{pairs[ms >> 10 & 1023]}{pairs[ms & 1023]}"
        f"{pairs[chance >> 50]}{pairs[chance >> 40 & 1023]}{pairs[chance >> 30 & 1023]}{pairs[chance >> 20 & 1023]}"
        f"{pairs[chance >> 10 & 1023]}{pairs[chance & 1023]}"
    )
