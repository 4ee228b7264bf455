"""One partition of Redis as this gateway knows it: the epoch that was agreed on, and with which server session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from billing.errors import MetergateError, StoreError

if TYPE_CHECKING:
    from billing.holds.redis.connection import ServerSession
    from billing.holds.redis.layout import Keyspace


class NotReady(StoreError):
    """The partition's epoch could not be agreed on: Redis or Postgres is away."""


class LostWrites(MetergateError):
    """Redis had this account in this epoch and no longer has it: it has lost writes, and needs a new epoch."""

    def __init__(self, account_id: str, epoch: int) -> None:
        super().__init__(f"Redis has lost {account_id} in epoch {epoch}")
        self.epoch = epoch


class Partition:
    """One partition as this gateway knows it. `meta`, `journal`, `installed` and `joined` are the names of its own
    keys.

    An epoch is agreed on within one session with its server. It is None before, after that session, and once it was
    forgotten: a new connection never serves under an epoch that another one had agreed on. `reached` is the newest
    epoch that was agreed on here: both stores may be set back to before it, and must not begin another one of its
    number, for debits and holds in this process are of it. `overtaken_by` is a newer epoch that Redis does not know of.

    `clock_is_wrong`: what the server would admit now would count in windows that are not now. `apart`: its clock and
    Postgres's differ.

    `quarantined` are accounts that this gateway has not settled for the epoch that it has joined: nobody serves them.
    `quarantined_by` are the gateways that had such accounts when this one joined, `has_quarantined` whether any has.
    `incompatible_peers` are gateways that keep state in another layout: while they live they have the partition.
    """

    __slots__ = (
        "_epoch",
        "_ledger",
        "_set_back",
        "apart",
        "clock_is_wrong",
        "clock_offset_ms",
        "has_quarantined",
        "incompatible_peers",
        "installed",
        "joined",
        "joined_epoch",
        "journal",
        "meta",
        "number",
        "overtaken_by",
        "quarantined",
        "quarantined_by",
        "reached",
        "session",
    )

    def __init__(self, number: int, keyspace: Keyspace) -> None:
        self.number = number
        self.meta, self.journal = keyspace.meta(number), keyspace.journal(number)
        self.installed, self.joined = keyspace.installed(number), keyspace.joined(number)
        self.session: ServerSession | None = None
        self._epoch: int | None = None
        self.joined_epoch: int | None = None
        self.quarantined: frozenset[str] = frozenset()
        self.quarantined_by: list[str] = []
        self.has_quarantined = False
        self.clock_offset_ms = 0
        self.apart = False
        self.incompatible_peers: list[str] = []
        self.clock_is_wrong = False
        self.reached = 0
        self.overtaken_by: int | None = None
        self._ledger: str | None = None
        self._set_back = False

    @property
    def epoch(self) -> int | None:
        """Return the epoch that is agreed on; None where there is none, or where its session has ended."""
        session = self.session
        return self._epoch if session is not None and session.stands else None

    def agree(self, session: ServerSession, epoch: int, ledger: str, *, set_back: bool) -> None:
        """Accept the epoch that the server has named in this session, and the ledger's name. `set_back`: the ledger is
        known to have been set back before."""
        self.session, self._epoch = session, epoch
        self.reached, self._ledger, self._set_back = epoch, ledger, set_back

    def may_agree(self, epoch: int, ledger: str) -> bool:
        """Return whether it is a newer epoch than any before, or the one that was agreed on last."""
        return epoch > self.reached or (epoch, ledger) == (self.reached, self._ledger)

    def forget(self) -> None:
        """Require that the epoch is agreed on again before anything is sent."""
        self._epoch = None

    def forget_ledger(self) -> None:
        """Refuse the present epoch for good, if it is from before the ledger was set back."""
        self.forget()
        if not self._set_back:
            self._ledger = None
        self._set_back = False

    def now_ms(self) -> int:
        """Return Redis's time, as this process reckons it."""
        return int(time.monotonic() * 1000) + self.clock_offset_ms
