"""The clients' connections of one process: how many there are in all, by address and by account, and which end first.

A connection waits for its client between requests, while a head or a body is incomplete, and while an answer is not
read. Waiting costs the client nothing, so when there are too many connections, waiting ones end: first those of the
address (of IPv6 the site) and the account with most, and of these the ones that have waited longest. One of which
neither is known, as a proxy keeps them between requests, counts as the only one of its address. A request that is being
served never ends for another. A new connection is refused only if nothing else can go.

No address (an IPv6 one counts with its /64) and no account has more than its share. A trusted proxy has none: its
connections count for the addresses that it names, from a request's head to its answer's end.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, Protocol

from billing.addresses import Addresses, site_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Sequence

logger = logging.getLogger(__name__)

# Of all that wait, one in so many is found by one look at each: they end one by one, as others come for them.
FOUND_SHARE: Final = 16
# For how long those that were found are the ones that end first.
FOUND_S: Final = 1.0
# How long a finding that no connection waits is kept, for the same reason.
ALL_BUSY_S: Final = 0.05
# Addresses and accounts for which either is kept.
NAMES_MAX: Final = 1024
# Peers whose addresses are remembered as they count.
PEERS_MAX: Final = 4096

Awaited = Literal["request", "head", "body", "answer"]
Share = Literal["address", "account", "process"]
AWAITED: Final[tuple[Awaited, ...]] = ("request", "head", "body", "answer")
SHARES: Final[tuple[Share, ...]] = ("address", "account", "process")


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """How many connections there may be in all, of one address and of one account, and which peers are proxies."""

    most: int = 10_000
    most_of_address: int = 10_000
    most_of_account: int = 10_000
    addresses: Addresses = field(default_factory=Addresses)


class Connection(Protocol):
    """A client's connection. `address` is empty where it belongs to a trusted proxy, `account` is the one that has used
    it last."""

    address: str
    account: str

    @property
    def waits_since_s(self) -> float | None:
        """Return since when it waits for its client, by the loop's clock; None while it does not."""

    def end_for_others(self) -> Awaited:
        """End it, and tell its client where that can be told. Return what was awaited."""


@dataclass(slots=True)
class _Found:
    """Connections that end next, and since when each has waited; `until_s`: not after this."""

    next: deque[tuple[float, Connection]]
    until_s: float


class Clients:
    """See above. `ended` counts connections that ended for others by what they waited for, `refused` newcomers by the
    share that was full."""

    def __init__(self, rules: ConnectionRules, loop: asyncio.AbstractEventLoop) -> None:
        self._rules = rules
        self._loop = loop
        self._all: dict[Connection, None] = {}
        self._of_address: dict[str, dict[Connection, None]] = {}
        self._of_account: dict[str, dict[Connection, None]] = {}
        self._busy_until_s: dict[tuple[Share, str], float] = {}
        self._found: dict[tuple[Share, str], _Found] = {}
        self._arriving: set[Connection] = set()
        self.place = lru_cache(PEERS_MAX)(self._place)
        self.ended: Counter[Awaited] = Counter(dict.fromkeys(AWAITED, 0))
        self.refused: Counter[Share] = Counter(dict.fromkeys(SHARES, 0))
        self._warned = False
        self.leaving = False
        """Whether this process takes no new connections any more: those that it has end with their next answer."""

    def __len__(self) -> int:
        return len(self._all) + len(self._arriving)

    def _place(self, peer: str) -> tuple[str, bool]:
        """Return as what address a peer counts, which is empty for a trusted proxy, and whether it is one."""
        trusted = self._rules.addresses.trusts(peer)
        return "" if trusted else self._rules.addresses.of(peer, ()), trusted

    def forwarded(self, peer: str, hops: Sequence[str]) -> str:
        """Return as what address a request counts that a trusted proxy has sent."""
        address = self._rules.addresses.of(peer, hops)
        return "" if address == self._rules.addresses.of(peer, ()) else address

    def admits(self, address: str) -> bool:
        """Return whether a newcomer of this address may come; others may end for it."""
        if not self._has_room("address", address, self._of_address, self._rules.most_of_address):
            return False
        if len(self) >= self._rules.most and not self._end_one("process", "", self._all, self._heaviest_first):
            self.refused["process"] += 1
            return False
        return True

    def expect(self, connection: Connection) -> None:
        """Count a newcomer until it enters, or `miss` says that its client has left."""
        self._arriving.add(connection)

    def miss(self, connection: Connection) -> None:
        """Expect a newcomer no longer."""
        self._arriving.discard(connection)

    def enter(self, connection: Connection) -> None:
        """Count a connection, of its address."""
        self._arriving.discard(connection)
        self._all[connection] = None
        self._join(self._of_address, connection.address, connection)

    def leave(self, connection: Connection) -> None:
        """Count a connection no longer. May be called twice."""
        self._all.pop(connection, None)
        self._part(self._of_address, connection.address, connection)
        self._part(self._of_account, connection.account, connection)

    def move(self, connection: Connection, address: str) -> bool:
        """Count a proxy's connection for an address; False where that has its share."""
        if address == connection.address:
            return True
        self._part(self._of_address, connection.address, connection)
        connection.address = ""
        if not self._has_room("address", address, self._of_address, self._rules.most_of_address):
            return False
        connection.address = address
        self._join(self._of_address, address, connection)
        return True

    def claim(self, connection: Connection, account: str) -> bool:
        """Count a connection for an account, and for no other; False where that has its share."""
        self._part(self._of_account, connection.account, connection)
        connection.account = ""
        if not self._has_room("account", account, self._of_account, self._rules.most_of_account):
            return False
        connection.account = account
        self._join(self._of_account, account, connection)
        return True

    def _has_room(self, share: Share, name: str, index: dict[str, dict[Connection, None]], most: int) -> bool:
        """Return whether there may be another connection of this name; some of its own that wait may end for it."""
        own = index.get(name) if name else None
        if own is None or len(own) < most or self._end_one(share, name, own, _longest_first):
            return True
        self.refused[share] += 1
        if not self._warned and share == "address":
            self._warned = True
            logger.warning(
                "%s has %d connections, all of them busy, and gets no more (connections_per_address): if it is a proxy "
                "of yours, name it in TRUSTED_PROXIES",
                name,
                len(own),
            )
        return False

    def _end_one(
        self,
        share: Share,
        name: str,
        of: Collection[Connection],
        order: Callable[[list[tuple[float, Connection]]], None],
    ) -> bool:
        """End one of these connections that waits; False where none does."""
        key, now_s = (share, name), self._loop.time()
        if self._busy_until_s.get(key, 0.0) > now_s:
            return False
        found = self._found.pop(key, None)
        if found is not None and found.until_s > now_s and self._end_next(key, found, of):
            return True
        waiting = [(since_s, each) for each in of if (since_s := each.waits_since_s) is not None]
        if not waiting:
            if len(self._busy_until_s) >= NAMES_MAX:
                self._busy_until_s.clear()
            self._busy_until_s[key] = now_s + ALL_BUSY_S
            return False
        order(waiting)
        return self._end_next(key, _Found(deque(waiting[: 1 + len(waiting) // FOUND_SHARE]), now_s + FOUND_S), of)

    def _end_next(self, key: tuple[Share, str], found: _Found, of: Collection[Connection]) -> bool:
        """End the first of those that were found that has waited ever since, and keep the rest for the next one."""
        while found.next:
            since_s, each = found.next.popleft()
            if each in of and each.waits_since_s == since_s:
                self.ended[each.end_for_others()] += 1
                self.leave(each)
                if found.next:
                    if len(self._found) >= NAMES_MAX:
                        self._found.clear()
                    self._found[key] = found
                return True
        return False

    @staticmethod
    def _heaviest_first(waiting: list[tuple[float, Connection]]) -> None:
        sites = Counter(site_of(each.address) for _, each in waiting)
        accounts = Counter(each.account for _, each in waiting)
        sites[""] = accounts[""] = 1  # whose they are is not known: none of them is one of many
        waiting.sort(key=lambda pair: (-max(sites[site_of(pair[1].address)], accounts[pair[1].account]), pair[0]))

    @staticmethod
    def _join(index: dict[str, dict[Connection, None]], name: str, connection: Connection) -> None:
        if name:
            own = index.get(name)
            if own is None:
                own = index[name] = {}
            own[connection] = None

    @staticmethod
    def _part(index: dict[str, dict[Connection, None]], name: str, connection: Connection) -> None:
        own = index.get(name)
        if own is not None and own.pop(connection, own) is None and not own:
            del index[name]


def _longest_first(waiting: list[tuple[float, Connection]]) -> None:
    waiting.sort(key=lambda pair: pair[0])
