"""Requests that only running ones keep out wait here for them, those of one account in order of arrival.

A request waits behind an earlier one where what keeps that one out counts for both: the balance, a window of the
account or of the key, or how many may run. Of one that has not asked yet it is not known what keeps it out: behind
others it is taken for what those have in common with it, so that a line for one key's own window keeps no other key
waiting. Whoever's turn it is asks Redis; nobody else of its account asks meanwhile.
A turn comes when this process has ended a hold of the account, and from time to time, with growing pauses: other
processes end holds too, and windows roll over. So waiting costs one question for each hold that ends, or one each
MOST_PAUSE_S.

Each process keeps its own order. A request that does not wait, because as many wait already as may, is decided on at
once.
"""

import asyncio
from collections.abc import Set
from typing import Final

from billing.holds.decision import InsufficientBalance, QuotaExceeded, Refused, TooManyRunning
from billing.holds.hold import AdmissionTarget

FIRST_PAUSE_S: Final = 0.02
MOST_PAUSE_S: Final = 0.5

Keeper = tuple[bytes, int]
"""What may keep a request out: a subject's key in Redis, and the tag of a counter, or one of these."""
BALANCE: Final = -1
RUNNING: Final = -2


def keepers_of(place: AdmissionTarget) -> frozenset[Keeper]:
    """All that may keep a request of this place out."""
    keepers = {(place.account_key, BALANCE), (place.account_key, RUNNING), (place.key_key, RUNNING)}
    keepers.update((place.account_key, limit.quota.tag) for limit in place.limits.account)
    keepers.update((place.key_key, limit.quota.tag) for limit in place.limits.key)
    return frozenset(keepers)


def _keeping(refused: Refused, place: AdmissionTarget) -> frozenset[Keeper]:
    """What keeps a refused request out."""
    match refused:
        case InsufficientBalance():
            return frozenset(((place.account_key, BALANCE),))
        case TooManyRunning(subject):
            return frozenset(((place.key_key if subject == "key" else place.account_key, RUNNING),))
        case QuotaExceeded(exhausted):
            return frozenset(
                (place.key_key if each.limit.subject == "key" else place.account_key, each.limit.quota.tag)
                for each in exhausted
            )


class Ticket:
    """The place of one request in its account's line. `kept_out_by` is what Redis has said, or all of its keepers while
    Redis is asked; `unasked` says that Redis was not asked. `asked_at` is how often something had been freed when it
    asked last."""

    __slots__ = ("asked_at", "keepers", "kept_out_by", "line", "place", "turn", "unasked")

    def __init__(self, line: "_Line", place: AdmissionTarget, refused: Refused | None) -> None:
        self.line = line
        self.place = place
        self.keepers = keepers_of(place)
        self.turn: asyncio.Future[bool] | None = None
        self.asked_at = -1
        self.unasked = refused is None
        self.kept_out_by: Set[Keeper] = self.keepers if refused is None else _keeping(refused, place)

    def stands_behind(self, behind: Set[Keeper]) -> None:
        """Redis was not asked, and those before are kept out by this."""
        self.kept_out_by = (behind & self.keepers) or self.keepers

    def refused(self, refused: Refused) -> None:
        """Redis was asked and said no."""
        self.kept_out_by = _keeping(refused, self.place)


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
        """Something may have been given back: whoever is first may ask."""
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
        """A request has left the line. Where it was admitted, others may be soon: the pauses are short again."""
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

    def keeps_waiting(self, place: AdmissionTarget) -> bool:
        """Whether a request that comes now is to wait behind those that wait already."""
        line = self._lines.get(place.account_key) if self._lines else None
        if line is None or len(line.tickets) >= self._most:
            return False
        keepers = keepers_of(place)
        return any(not ticket.kept_out_by.isdisjoint(keepers) for ticket in line.tickets)

    def enter(self, place: AdmissionTarget, refused: Refused | None) -> Ticket | None:
        """A place at the end of the line, to be given back by `leave`; None where nothing more may wait. `refused` is
        what Redis has said, if it was asked."""
        line = self._lines.get(place.account_key)
        if self._closed or len(line.tickets if line is not None else ()) >= self._most:
            return None
        if line is None:
            line = self._lines[place.account_key] = _Line(self._loop)
        ticket = Ticket(line, place, refused)
        line.add(ticket)
        return ticket

    async def turn(self, ticket: Ticket, until_s: float) -> bool:
        """Wait for the next turn to ask, up to a time of the event loop's; whether it came."""
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
        """The request waits no more."""
        line = ticket.line
        del line.tickets[ticket]
        line.left(admitted=admitted)
        if not line.tickets:
            self._lines.pop(ticket.place.account_key, None)

    def freed(self, account_key: bytes) -> None:
        """A hold of this account has ended in this process."""
        if self._lines:
            line = self._lines.get(account_key)
            if line is not None:
                line.freed()

    def close(self) -> None:
        """End all waiting: this process stops serving. Those that wait ask a last time."""
        self._closed = True
        for line in self._lines.values():
            line.stop()
            for ticket in line.tickets:
                if ticket.turn is not None and not ticket.turn.done():
                    ticket.turn.set_result(False)
