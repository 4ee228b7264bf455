"""Ids of requests: ULIDs (https://github.com/ulid/spec), 26 characters that rise with the millisecond of their making.

Made here rather than by the library that other ids come from, because a request has ten microseconds for everything of
its kind, and that one takes eight. Randomness comes from the operating system, a bucket at a time.
"""

import os
import time
from collections.abc import Callable
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
RANDOM_BYTES: Final = 10
BUCKET_BYTES: Final = 4_000
_PAIRS: Final = tuple(high + low for high in ALPHABET for low in ALPHABET)


class Ulids:
    """Makes ULIDs; call it. `clock` gives Unix milliseconds, `entropy` that many random bytes."""

    __slots__ = ("_at", "_bucket", "_clock", "_entropy", "_ms", "_prefix")

    def __init__(
        self,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._ms = -1
        self._prefix = ""
        self._bucket = b""
        self._at = 0

    def __call__(self) -> str:
        now_ms = self._clock()
        if now_ms != self._ms:
            self._ms, self._prefix = now_ms, _encode(now_ms, 5)
        if self._at >= len(self._bucket):
            self._bucket, self._at = self._entropy(BUCKET_BYTES), 0
        chance = int.from_bytes(self._bucket[self._at : self._at + RANDOM_BYTES], "big")
        self._at += RANDOM_BYTES
        return self._prefix + _encode(chance, 8)


def _encode(number: int, pairs: int) -> str:
    """A number below 32 ** (2 * pairs) in Crockford's base 32."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * (pairs - 1), -1, -10)])
