"""One partition as this gateway knows it: its epoch, what it was agreed on with, and whether the ledger is unchanged.

This file owns how a ledger that was restored from a backup, or replaced, is told from the one that Redis was loaded
from: by what it says it is (`ledger_identity()`), and by its beats, which every gateway counts on each second and some
of which are noted in Redis: those of a ledger that was set back are fewer, however it was done.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from billing.errors import MetergateError, StoreError

if TYPE_CHECKING:
    from billing.holds.redis.connection import ServerSession


class NotReady(StoreError):
    """The partition's epoch could not be agreed on: Redis or Postgres is away."""


class LostWrites(MetergateError):
    """Redis had this account in this epoch and has it no more: it has lost writes, and needs a new epoch."""

    def __init__(self, account_id: str, epoch: int) -> None:
        super().__init__(f"Redis has lost {account_id} in epoch {epoch}")
        self.epoch = epoch


class Partition:
    """One partition as this gateway knows it.

    Its epoch is agreed on with one life of its server, and is None before, after that life, and once it was forgotten:
    a connection made anew never serves under an epoch that another one had agreed on. `clock_is_wrong`: what the server
    would admit now would count in windows that are not now. `apart`: its clock and Postgres's are not the same.

    `reached` is the newest epoch that was agreed on here: both stores may be set back to before it, and must not begin
    another one of its number, for debits and holds in this process are of it.

    `holding_back` are accounts that this gateway has not settled for the epoch that it has joined: nobody serves them.
    `held_back_by` are the gateways that held some back when this one joined, `holds_back` whether anybody does.
    `beside` are gateways of a release that keeps state in another layout: while they live they have the partition.
    """

    __slots__ = (
        "_epoch",
        "_ledger",
        "_set_back",
        "apart",
        "beside",
        "clock_is_wrong",
        "clock_offset_ms",
        "held_back_by",
        "holding_back",
        "holds_back",
        "joined_epoch",
        "life",
        "number",
        "overtaken_by",
        "reached",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.life: ServerSession | None = None
        self._epoch: int | None = None
        self.joined_epoch: int | None = None
        self.holding_back: frozenset[str] = frozenset()
        self.held_back_by: list[str] = []
        self.holds_back = False
        self.clock_offset_ms = 0
        self.apart = False
        self.beside: list[str] = []
        self.clock_is_wrong = False
        self.reached = 0
        self.overtaken_by: int | None = None
        self._ledger: str | None = None
        self._set_back = False

    @property
    def epoch(self) -> int | None:
        """Return the epoch that is agreed on; None where there is none, or where its session has ended."""
        life = self.life
        return self._epoch if life is not None and life.stands else None

    def agree(self, life: ServerSession, epoch: int, ledger: str, *, set_back: bool) -> None:
        """Take the server for one in this epoch, as it has said in this life, and so the ledger under this name.
        `set_back`: the ledger is known to have been set back before."""
        self.life, self._epoch = life, epoch
        self.reached, self._ledger, self._set_back = epoch, ledger, set_back

    def may_agree(self, epoch: int, ledger: str) -> bool:
        """Return whether it is a newer epoch than any before, or the one that was agreed on last."""
        return epoch > self.reached or (epoch, ledger) == (self.reached, self._ledger)

    def forget(self) -> None:
        """Have the epoch agreed on again before anything is sent."""
        self._epoch = None

    def doubt(self) -> None:
        """Refuse an epoch from before the ledger was set back: it is not agreed on again."""
        self.forget()
        if not self._set_back:
            self._ledger = None
        self._set_back = False

    def now_ms(self) -> int:
        """Return Redis's time as this process reckons it."""
        return int(time.monotonic() * 1000) + self.clock_offset_ms


logger = logging.getLogger(__name__)
