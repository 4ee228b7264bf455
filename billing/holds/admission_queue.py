"""The queue of requests that only running ones keep out: those of one account wait in order of arrival.

A request waits behind an earlier one where what keeps that one out counts for both: the balance, a window of the
account or of the key, or how many may run. Of one that has not asked yet it is not known what keeps it out: behind
others it is taken for what those have in common with it, so that a line for one key's own window keeps no other key
waiting. The request whose turn it is asks Redis; no other of its account asks meanwhile.

A turn comes when this process has ended a hold of the account, and from time to time, with growing pauses: other
processes end holds too, and windows roll over. So waiting costs one question for each hold that ends, or one each
MOST_PAUSE_S.

Each process keeps its own order. A request that does not wait, because as many wait already as may, is decided on at
once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from billing.holds.decision import InsufficientBalance, QuotaExceeded, Refused, TooManyRunning

if TYPE_CHECKING:
    from collections.abc import Set

    from billing.holds.items import AdmissionTarget
    from billing.principals import Subject

FIRST_PAUSE_S: Final = 0.02
MOST_PAUSE_S: Final = 0.5

Keeper = tuple[bytes, int]
"""What may keep a request out: a subject's key in Redis, and the tag of a counter, or one of these."""
BALANCE: Final = -1
RUNNING: Final = -2


def keepers_of(target: AdmissionTarget) -> frozenset[Keeper]:
    """Return all that may keep a request on this target out."""
    keepers = {(target.account_key, BALANCE), (target.account_key, RUNNING), (target.key_key, RUNNING)}
    keepers.update((target.account_key, limit.quota.tag) for limit in target.limits.account)
    keepers.update((target.key_key, limit.quota.tag) for limit in target.limits.key)
    keepers.update((target.user_key or b"", limit.quota.tag) for limit in target.limits.user)
    return frozenset(keepers)


def _subject_key(target: AdmissionTarget, subject: Subject) -> bytes:
    match subject:
        case "key":
            return target.key_key
        case "user":
            return target.user_key or b""
        case _:
            return target.account_key


def _keeping(refused: Refused, target: AdmissionTarget) -> frozenset[Keeper]:
    """Return what keeps a refused request out."""
    match refused:
        case InsufficientBalance():
            return frozenset(((target.account_key, BALANCE),))
        case TooManyRunning(subject):
            return frozenset(((target.key_key if subject == "key" else target.account_key, RUNNING),))
        case QuotaExceeded(exhausted):
            return frozenset((_subject_key(target, each.limit.subject), each.limit.quota.tag) for each in exhausted)


class Ticket:
    """One request in its account's line. `kept_out_by` is what Redis has said, or all of its keepers while Redis is
    asked; `unasked` says that Redis was not asked. `asked_at` is the line's count of releases when it asked last."""

    __slots__ = ("asked_at", "keepers", "kept_out_by", "line", "target", "turn", "unasked")

    def __init__(self, line: _Line, target: AdmissionTarget, refused: Refused | None) -> None:
        self.line = line
        self.target = target
        self.keepers = keepers_of(target)
        self.turn: asyncio.Future[bool] | None = None
        self.asked_at = -1
        self.unasked = refused is None
        self.kept_out_by: Set[Keeper] = self.keepers if refused is None else _keeping(refused, target)

    def stands_behind(self, behind: Set[Keeper]) -> None:
        """Take it, as Redis was not asked, that it is kept out by what keeps those before it out."""
        self.kept_out_by = (behind & self.keepers) or self.keepers

    def refused(self, refused: Refused) -> None:
        """Note what Redis has refused it for."""
        self.kept_out_by = _keeping(refused, self.target)


class _Line:
    """The waiting requests of one account."""

    __slots__ = ("_freed", "_loop", "_pause_s", "_timer", "tickets")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tickets: dict[Ticket, None] = {}
        self._loop = loop
        self._freed = 0
        self._pause_s = FIRST_PAUSE_S
        self._timer: asyncio.TimerHandle | None = None

    def add(self, ticket: Ticket) -> None:
        if ticket.unasked:
            ticket.stands_behind(set[Keeper]().union(*(each.kept_out_by for each in self.tickets)))
        self.tickets[ticket] = None

    def freed(self) -> None:
        """Note that something may have been given back: the first may ask."""
        self._freed += 1
        self.look()

    def look(self) -> None:
        """Give their turn to those that nobody before them keeps waiting."""
        behind: set[Keeper] = set()
        for ticket in self.tickets:
            turn = ticket.turn
            may_ask = turn is not None and not turn.done() and ticket.asked_at < self._freed
            if turn is not None and may_ask and behind.isdisjoint(ticket.keepers):
                ticket.asked_at, ticket.kept_out_by, ticket.unasked = self._freed, ticket.keepers, False
                turn.set_result(True)
            elif ticket.unasked:
                ticket.stands_behind(behind)
            behind |= ticket.kept_out_by
        if self._timer is None and self.tickets:
            self._timer = self._loop.call_later(self._pause_s, self._poll)

    def _poll(self) -> None:
        self._timer = None
        self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)
        self.freed()

    def left(self, *, admitted: bool) -> None:
        """Note that a request has left. Where it was admitted others may be soon: the pauses are short again."""
        if admitted:
            self._pause_s = FIRST_PAUSE_S
        if admitted or not self.tickets:
            self.stop()
        self.look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class AdmissionQueue:
    """The waiting requests of one process; of one account at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[bytes, _Line] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return sum(len(line.tickets) for line in self._lines.values())

    def keeps_waiting(self, target: AdmissionTarget) -> bool:
        """Return whether a request that comes now is to wait behind those that wait already."""
        line = self._lines.get(target.account_key) if self._lines else None
        if line is None or len(line.tickets) >= self._most:
            return False
        keepers = keepers_of(target)
        return any(not ticket.kept_out_by.isdisjoint(keepers) for ticket in line.tickets)

    def enter(self, target: AdmissionTarget, refused: Refused | None) -> Ticket | None:
        """Join the end of the line, to be left by `leave`; None where nothing more may wait. `refused` is
        what Redis has said, if it was asked."""
        line = self._lines.get(target.account_key)
        if self._closed or len(line.tickets if line is not None else ()) >= self._most:
            return None
        if line is None:
            line = self._lines[target.account_key] = _Line(self._loop)
        ticket = Ticket(line, target, refused)
        line.add(ticket)
        return ticket

    async def turn(self, ticket: Ticket, until_s: float) -> bool:
        """Wait for the next turn to ask, at most until a time of the event loop; return whether the turn came."""
        if self._closed:
            return False
        ticket.turn = self._loop.create_future()
        ticket.line.look()
        try:
            async with asyncio.timeout_at(until_s):
                return await ticket.turn
        except TimeoutError:
            return False
        finally:
            ticket.turn = None

    def leave(self, ticket: Ticket, *, admitted: bool) -> None:
        """Take a request out of its line."""
        line = ticket.line
        del line.tickets[ticket]
        line.left(admitted=admitted)
        if not line.tickets:
            self._lines.pop(ticket.target.account_key, None)

    def freed(self, account_key: bytes) -> None:
        """Note that a hold of this account has ended in this process."""
        if self._lines:
            line = self._lines.get(account_key)
            if line is not None:
                line.freed()

    def close(self) -> None:
        """End all waiting, for this process stops serving. Those that wait ask a last time."""
        self._closed = True
        for line in self._lines.values():
            line.stop()
            for ticket in line.tickets:
                if ticket.turn is not None and not ticket.turn.done():
                    ticket.turn.set_result(False)
