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
RANDOM_BITS: Final = 80
_PAIRS: Final = tuple(high + low for high in ALPHABET for low in ALPHABET)


class Ulids:
    """Makes ULIDs; call it. `clock` gives Unix milliseconds, `bits` a random number of that many bits."""

    __slots__ = ("_bits", "_clock", "_ms", "_prefix")

    def __init__(
        self,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        bits: Callable[[int], int] | None = None,
    ) -> None:
        self._clock = clock
        self._bits = bits or random.Random().getrandbits  # noqa: S311
        self._ms = -1
        self._prefix = ""

    def __call__(self) -> str:
        now_ms = self._clock()
        if now_ms != self._ms:
            self._ms, self._prefix = now_ms, _encode(now_ms, 5)
        return self._prefix + _encode(self._bits(RANDOM_BITS), 8)


def _encode(number: int, pairs: int) -> str:
    """A number below 32 ** (2 * pairs) in Crockford's base 32."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * (pairs - 1), -1, -10)])
