"""The debits that wait for Postgres in one writer of this process, and whose turn it is.

An account whose row somebody else has locked keeps nobody waiting: its debits stand aside, those that come later with
them, and are tried again after a pause that grows. One pause serves all of them, so that however many accounts are
locked, the others are held up once in that time, for as long as a batch waits for a row.
"""

from collections.abc import Callable, Collection, Iterator, Sequence, Set
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 2.0
LASTING_PAUSE_S: Final = 1.0
"""An account that was still locked after such a pause is not locked by somebody's commit."""


class DebitQueue(Generic[Item]):
    """`account_of` names an item's account; `clock` counts seconds monotonically. Bounded by whoever fills it."""

    def __init__(self, account_of: Callable[[Item], str], clock: Callable[[], float]) -> None:
        self._account_of = account_of
        self._clock = clock
        self.ready: list[Item] = []
        """In their order."""
        self._aside: dict[str, list[Item]] = {}
        self._tried: set[str] = set()
        self._due_s = 0.0
        self._pause_s = FIRST_PAUSE_S

    def __len__(self) -> int:
        return len(self.ready) + (sum(map(len, self._aside.values())) if self._aside else 0)

    def __iter__(self) -> Iterator[Item]:
        yield from self.ready
        for items in self._aside.values():
            yield from items

    @property
    def locked(self) -> Set[str]:
        """Accounts whose debits stand aside, or are being tried again."""
        return self._aside.keys() | self._tried

    @property
    def lasting(self) -> Set[str]:
        """The same, where they have been locked for a while."""
        return self.locked if self._pause_s > LASTING_PAUSE_S else frozenset()

    @property
    def due_s(self) -> float | None:
        """When those that stand aside are to be tried again, by the clock; None where there are none."""
        return self._due_s if self._aside else None

    def count_aside(self, account_id: str) -> int:
        """How many of an account stand aside."""
        return len(self._aside.get(account_id, ())) if self._aside else 0

    def add(self, item: Item) -> bool:
        """Take an item; whether it is its turn as soon as those before it are written."""
        if self._aside and (aside := self._aside.get(self._account_of(item))) is not None:
            aside.append(item)
            return False
        self.ready.append(item)
        return True

    def batch(self, most: int) -> list[Item]:
        """The first of those whose turn it is, with those that stood aside for long enough before them."""
        if self._aside and self._clock() >= self._due_s:
            self.take_back()
        return self.ready[:most]

    def take_back(self) -> None:
        """Nothing stands aside any more."""
        self.ready[:0] = [item for items in self._aside.values() for item in items]
        self._tried.update(self._aside)
        self._aside.clear()

    def done(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        """The last batch was written, but for the items of accounts whose rows are locked."""
        del self.ready[: len(batch)]
        if self._tried:
            self._tried.difference_update(map(self._account_of, batch))
        if locked:
            self._stand_aside(batch, locked)
        elif not self._aside:
            self._pause_s = FIRST_PAUSE_S

    def put_behind(self) -> None:
        """The first one goes behind the others."""
        self.ready.append(self.ready.pop(0))

    def _stand_aside(self, batch: Sequence[Item], locked: Collection[str]) -> None:
        if not self._aside:
            self._due_s = self._clock() + self._pause_s
            self._pause_s = min(self._pause_s * 2, MOST_PAUSE_S)
        later, self.ready = self.ready, []
        for item in batch:
            if self._account_of(item) in locked:
                self._aside.setdefault(self._account_of(item), []).append(item)
        for item in later:
            self.add(item)
