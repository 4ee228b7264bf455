"""The debits that wait for Postgres in one writer of this process, and whose turn it is.

An account whose row somebody else has locked keeps nobody waiting: its debits stand aside, those that come later with
them, and are tried again after a pause that grows. Those that are soon to be tried again are tried with the first of
them, so that many locked accounts hold the others up no oftener than a few do.
"""

from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 2.0
LASTING_PAUSE_S: Final = 1.0
"""An account that is left alone for longer has been locked several times in a row: not by somebody's commit."""
SOON_SHARE: Final = 0.5
"""Of its pause: an account is tried with others when no more than that is left of it."""


@dataclass(slots=True)
class _Aside(Generic[Item]):
    """An account's debits, and when they are to be tried again, by the queue's clock."""

    items: list[Item]
    pause_s: float
    due_s: float


class DebitQueue(Generic[Item]):
    """`account_of` names an item's account; `clock` counts seconds monotonically. Bounded by whoever fills it."""

    def __init__(self, account_of: Callable[[Item], str], clock: Callable[[], float]) -> None:
        self._account_of = account_of
        self._clock = clock
        self.ready: list[Item] = []
        """In their order."""
        self._aside: dict[str, _Aside[Item]] = {}
        self._tried: dict[str, float] = {}
        """Accounts that stood aside and are being tried again, with the pause that they had."""

    def __len__(self) -> int:
        return len(self.ready) + (sum(len(each.items) for each in self._aside.values()) if self._aside else 0)

    def __iter__(self) -> Iterator[Item]:
        yield from self.ready
        for aside in self._aside.values():
            yield from aside.items

    @property
    def locked(self) -> Set[str]:
        """Accounts whose debits stand aside, or are being tried again."""
        return self._aside.keys() | self._tried.keys()

    @property
    def lasting(self) -> frozenset[str]:
        """Those of them that have been locked for a while."""
        asides = {account_id for account_id, each in self._aside.items() if each.pause_s > LASTING_PAUSE_S}
        return frozenset(asides.union(name for name, pause_s in self._tried.items() if pause_s > LASTING_PAUSE_S))

    @property
    def due_s(self) -> float | None:
        """When the first that stand aside are to be tried again, by the clock; None where there are none."""
        return min(each.due_s for each in self._aside.values()) if self._aside else None

    def count_aside(self, account_id: str) -> int:
        """How many of an account stand aside."""
        aside = self._aside.get(account_id) if self._aside else None
        return 0 if aside is None else len(aside.items)

    def add(self, item: Item) -> bool:
        """Take an item; whether it is its turn as soon as those before it are written."""
        if self._aside and (aside := self._aside.get(self._account_of(item))) is not None:
            aside.items.append(item)
            return False
        self.ready.append(item)
        return True

    def batch(self, most: int) -> list[Item]:
        """The first of those whose turn it is, with those that stood aside for long enough before them."""
        due_s = self.due_s
        if due_s is not None and self._clock() >= due_s:
            self._take_back(self._clock())
        return self.ready[:most]

    def _take_back(self, now_s: float) -> None:
        taken: list[Item] = []
        for account_id, aside in list(self._aside.items()):
            if aside.due_s <= now_s + aside.pause_s * SOON_SHARE:
                taken += self._aside.pop(account_id).items
                self._tried[account_id] = aside.pause_s
        self.ready[:0] = taken

    def done(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        """The last batch was written, but for the items of accounts whose rows are locked."""
        del self.ready[: len(batch)]
        if locked:
            self._stand_aside(batch, locked)
        if self._tried:
            for account_id in set(map(self._account_of, batch)):
                self._tried.pop(account_id, None)

    def put_behind(self) -> None:
        """The first one goes behind the others."""
        self.ready.append(self.ready.pop(0))

    def _stand_aside(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        now_s = self._clock()
        for account_id in locked:
            before_s = self._tried.get(account_id)
            pause_s = FIRST_PAUSE_S if before_s is None else min(before_s * 2, MOST_PAUSE_S)
            self._aside[account_id] = _Aside([], pause_s, now_s + pause_s)
        later, self.ready = self.ready, []
        for item in batch:
            if self._account_of(item) in locked:
                self._aside[self._account_of(item)].items.append(item)
        for item in later:
            self.add(item)
