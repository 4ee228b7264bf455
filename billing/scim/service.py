"""Scim: what serves directories of organizations, and how often and how many at a time each may call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError

if TYPE_CHECKING:
    from billing.identity.directories import Directories
    from billing.scim.directory import Directory
    from billing.scim.tokens import ScimTokens
    from billing.settings import ScimSettings

# Where SCIM is, below the gateway's address.
PREFIX: Final = "/scim/v2"
# How many seconds of calls may come at once.
BURST_S: Final = 10.0
# Members of groups that cost as much as one call.
ROWS_OF_A_CALL: Final = 1000


class TooManyCalls(MetergateError):
    """An organization's directory calls too often."""

    kind = "too_many"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"Too many calls of this organization's directory: go on in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Turns:
    """The calls of one organization: how many more it may make now, as of when, and which run or wait."""

    left: float
    at_s: float
    running: asyncio.Semaphore
    waiting: int = 0


class ScimLimit:
    """Bounds the calls of each organization in this process. `clock` is monotonic seconds."""

    def __init__(self, settings: ScimSettings, clock: Callable[[], float]) -> None:
        self._settings, self._clock = settings, clock
        self._turns: dict[str, _Turns] = {}

    @asynccontextmanager
    async def entered(self, org_id: str) -> AsyncIterator[None]:
        """Wait for a turn of an organization. Raises `TooManyCalls`."""
        rate, turns = self._settings.scim_requests_per_s, self._of(org_id)
        if turns.left < 1:
            raise TooManyCalls(max(1, math.ceil((1 - turns.left) / rate)))
        waits = turns.running.locked()
        if waits and turns.waiting >= self._settings.scim_waiting:
            raise TooManyCalls(1)
        turns.left -= 1
        turns.waiting += waits
        try:
            async with turns.running:
                if waits:
                    turns.waiting, waits = turns.waiting - 1, False
                yield
        finally:
            turns.waiting -= waits

    def spend(self, org_id: str, rows: int) -> None:
        """Count rows that a call has looked at as calls: its organization makes the fewer of these."""
        self._of(org_id).left -= rows / ROWS_OF_A_CALL

    def _of(self, org_id: str) -> _Turns:
        now, rate = self._clock(), self._settings.scim_requests_per_s
        most = max(1.0, rate * BURST_S)
        for each, known in list(self._turns.items()) if org_id not in self._turns else ():
            if known.left + (now - known.at_s) * rate >= most and not known.waiting and not known.running.locked():
                del self._turns[each]  # nothing is known of it that a new one does not have
        found = self._turns.setdefault(org_id, _Turns(most, now, asyncio.Semaphore(self._settings.scim_at_once)))
        found.left, found.at_s = min(most, found.left + (now - found.at_s) * rate), now
        return found


@dataclass(frozen=True, slots=True)
class Scim:
    """What serves SCIM; `url` is where clients reach it."""

    directories: Directories
    directory: Directory
    tokens: ScimTokens
    limit: ScimLimit
    url: str

    @property
    def settings(self) -> ScimSettings:
        """Return the bounds."""
        return self.directory.settings
