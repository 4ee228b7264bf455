"""How many people sign in, register or reset a password at the same time in one process.

Nobody knows them yet, and each of their requests asks the database and may hash a password, which takes a processor. So
they have a share of their own, and a network (of IPv6 a whole site) may add to what it has only up to a part of what is
free: a whole office signs in at once, and a flood leaves room for others. Whoever comes beyond is told to come again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from billing.addresses import site_of
from billing.errors import MetergateError

# Of what is free, one network may have one in so many, and at least NETWORK_LEAST.
NETWORK_SHARE: Final = 8
NETWORK_LEAST: Final = 2
RETRY_AFTER_S: Final = 1


class TooManyVisits(MetergateError):
    """So many people are signing in that this one has to come again."""

    kind = "too_many"
    retry_after_s = RETRY_AFTER_S

    def __init__(self) -> None:
        super().__init__(f"Too many people are signing in at this moment: try again in {RETRY_AFTER_S} s.")


class Visits:
    """The visits of one process, at most `at_once`."""

    def __init__(self, at_once: int = 64) -> None:
        self._at_once = at_once
        self._running = Counter[str]()

    @contextmanager
    def entered(self, network: str) -> Iterator[None]:
        """Count a visit while this is open. Raises `TooManyVisits`."""
        site, free = site_of(network), self._at_once - self._running.total()
        if free <= 0 or self._running.get(site, 0) >= max(NETWORK_LEAST, free // NETWORK_SHARE):
            raise TooManyVisits
        self._running[site] += 1
        try:
            yield
        finally:
            self._running[site] -= 1
            if not self._running[site]:
                del self._running[site]
