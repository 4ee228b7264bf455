"""Debits that Redis has not settled, written to Postgres as corrections (rule R4): of this process, and of ended ones.

`LedgerWay` takes settlements that Redis did not confirm. It owns that the outcome of such a settlement is what the
ledger has stored of its request, or that this could not be done in time, while the writing goes on; and that one writer
(`debit_writer`) takes all that wait in batches. A hot account's row is locked by one transaction at a time: a
transaction for each debit would let them through at the pace of the commits.

Replay reads the spools of this machine's processes that have ended. Request ids make it harmless to write a debit
twice, so nothing needs to know how far its process had come.
"""

from __future__ import annotations

import asyncio
import logging
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from billing.errors import MetergateError, StoreError
from billing.holds.debit_writer import DebitWriter
from billing.holds.hold import Hold, Settled, SettlementLost
from billing.holds.spool import left_behind, read_debits
from billing.ledger.writer import Written, write_free
from billing.segments import taken

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from billing.database.connection import Database
    from billing.holds.outbox import Outbox
    from billing.holds.partitions import Partition
    from billing.holds.repairs import Corrections
    from billing.ledger.debits import Debit
    from billing.ledger.writer import Stored

logger = logging.getLogger(__name__)


class _Unconfirmed:
    """A debit on its way, the outcome that is waited for, and the timer that gives up waiting. `vanished_in` is the
    epoch in which Redis should have had its hold, and had no entry of it."""

    __slots__ = ("debit", "hold", "outcome", "timer", "vanished_in")

    def __init__(self, hold: Hold, debit: Debit, outcome: asyncio.Future[Settled], vanished_in: int | None) -> None:
        self.hold = hold
        self.debit = debit
        self.outcome = outcome
        self.vanished_in = vanished_in
        self.timer: asyncio.TimerHandle | None = None

    def decided(self, stored: Stored | None) -> None:
        """Pass on what the ledger has of the request: this debit, or the one that was first."""
        if self.timer is not None:
            self.timer.cancel()
        if stored is None:
            self.hold.enter("refused")
            self.fail("the ledger refused the debit, which is set aside")
        elif stored.outcome != "settled":
            self.hold.enter("refused")
            self.fail("the hold had expired")
        else:
            self.hold.enter("settled")
            if not self.outcome.done():
                self.outcome.set_result(Settled(None))

    def late(self) -> None:
        """Give up waiting, while the writing goes on."""
        logger.error("debit %s could not leave this process in time", self.hold.id)
        self.fail("neither Redis nor Postgres could be told in time")

    def fail(self, why: str) -> None:
        """Have the outcome raise `SettlementLost`, where it is not there yet."""
        if not self.outcome.done():
            self.outcome.set_exception(SettlementLost(why))
        if not self.outcome.cancelled():
            self.outcome.exception()  # retrieved here: there may be no caller any more


class LedgerWay(DebitWriter[_Unconfirmed]):
    """Writes debits in batches of at most `batch_rows`, and lets Redis know. The outcome of one that is not written
    `timeout_s` after it came is `SettlementLost`. `live` forgets a hold once its debit is written; `spawn` runs what
    must finish; `on_lost` is called where Redis has lost a hold in an epoch; `on_failure` is as in `DebitWriter`.
    Bounded by what is admitted: every debit belongs to a request that is being served."""

    def __init__(
        self,
        database: Database,
        corrections: Corrections,
        live: dict[str, Hold],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_lost: Callable[[Partition, int], None],
        on_failure: Callable[[Exception], None],
        *,
        batch_rows: int,
        timeout_s: float,
    ) -> None:
        super().__init__(database, attrgetter("debit.account_id"), on_failure, batch_rows=batch_rows)
        self._corrections = corrections
        self._live = live
        self._spawn = spawn
        self._on_lost = on_lost
        self._timeout_s = timeout_s
        self._unpushed: dict[str, Partition] = {}
        """Accounts with corrections that Redis has not been told of."""
        self._pushes = False

    def add(self, hold: Hold, debit: Debit, outcome: asyncio.Future[Settled], vanished_in: int | None = None) -> None:
        """Take a debit that Redis has not confirmed."""
        unconfirmed = _Unconfirmed(hold, debit, outcome, vanished_in)
        unconfirmed.timer = self._loop.call_later(self._timeout_s, unconfirmed.late)
        if self.waiting.add(unconfirmed):
            self._arrived.set()

    async def run(self) -> None:
        """Write for ever, with bounded back-off while Postgres is away."""
        while True:
            await self._until_due()
            await self._flush_or_pause()

    async def drain(self) -> None:
        """Write until nothing waits, as `run` does."""
        while len(self.waiting):
            await self._until_due()
            await self._flush_or_pause()

    def _debits(self, items: list[_Unconfirmed]) -> list[Debit]:
        return [each.debit for each in items]

    async def _written(self, items: list[_Unconfirmed], stored: dict[str, Stored]) -> None:
        for each in items:
            try:
                self._decide(each, stored.get(each.debit.request_id))
            except Exception as error:  # whatever it was: the others' outcomes do not depend on it
                each.fail("its debit is in the ledger, and the hold could not be ended")
                self._on_failure(error)
        if self._unpushed and not self._pushes:
            self._pushes = True
            self._spawn(self._push())

    def _decide(self, unconfirmed: _Unconfirmed, row: Stored | None) -> None:
        """End a hold by what the ledger has of its request."""
        partition = unconfirmed.hold.target.partition
        self._live.pop(unconfirmed.hold.id, None)
        self._unpushed[unconfirmed.debit.account_id] = partition
        unconfirmed.decided(row)
        if unconfirmed.vanished_in is not None and row is not None and row.fresh:
            self._on_lost(partition, unconfirmed.vanished_in)  # nobody had ended it: an expired one has a row

    async def _push(self) -> None:
        """Let Redis know of what was written; where it is away, the relay does so later."""
        try:
            while self._unpushed:
                account_id, partition = self._unpushed.popitem()
                try:
                    await self._corrections.sync(partition, account_id)
                except StoreError as error:
                    logger.info("correction of %s reaches Redis later: %s", account_id, error)
        finally:
            self._pushes = False


KNOWN_ACCOUNTS: Final = "SELECT id FROM accounts WHERE id = ANY ($1::text[])"
REPLAYED_ROWS: Final = 500
"""Debits that are written and acknowledged at once."""
MOST_LEFT: Final = 1000
"""Spools that are left to others and remembered, so that they are not read again."""


class LeftToOthers(MetergateError):
    """A spool of another ledger, such as one that was here before, or with debits of a newer release, which that one's
    gateways read: it stays where it is."""


class AccountsLocked(MetergateError):
    """Debits of these accounts could not be written, for their rows are locked: the spool stays where it is."""

    def __init__(self, accounts: frozenset[str]) -> None:
        super().__init__(f"the rows of {len(accounts)} accounts are locked")
        self.accounts = accounts


class Replay:
    """Replays the folder of the outbox's own spool; nothing where it has none. `locked` are the accounts whose debits
    the last run could not write."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._left: set[Path] = set()
        self.locked: frozenset[str] = frozenset()
        self._running = asyncio.Lock()

    async def run(self) -> int:
        """Write the debits of spools whose processes have ended, and remove these; return how many debits. Waits for a
        run under way: whoever opens an epoch must have its debits in the ledger. Raises `DatabaseError`: what was not
        written stays then."""
        async with self._running:
            return await self._run()

    async def _run(self) -> int:
        spool, replayed = self._outbox.spool, 0
        locked: frozenset[str] = frozenset()
        for path in left_behind(spool.folder) if spool is not None else ():
            if path in self._left:
                continue
            try:
                with taken(path) as ours:
                    replayed += await self._write(path) if ours else 0
            except LeftToOthers as error:
                logger.critical("%s: it is left there", error)
                if len(self._left) < MOST_LEFT:
                    self._left.add(path)
            except AccountsLocked as error:
                locked |= error.accounts
            except OSError as error:
                logger.error("%s is replayed later: %s", path, error)
        self.locked = locked
        if replayed:
            logger.info("replayed %d debits of processes that have ended", replayed)
        return replayed

    async def _write(self, path: Path) -> int:
        newer: list[None] = []
        debits = await asyncio.to_thread(read_debits, path, lambda: newer.append(None))
        await self._check_known(path, debits)
        locked: frozenset[str] = frozenset()
        for start in range(0, len(debits), REPLAYED_ROWS):
            batch = [debit for debit in debits[start : start + REPLAYED_ROWS] if debit.account_id not in locked]
            written = await write_free(self._database, batch) if batch else Written({})
            locked |= written.locked
            done = [debit for debit in batch if debit.account_id not in locked]
            await self._outbox.acknowledge(done, written.stored)
        if locked:
            raise AccountsLocked(locked)
        if newer:
            raise LeftToOthers(f"{path} has {len(newer)} debits of a newer release")
        return len(debits)

    async def _check_known(self, path: Path, debits: Sequence[Debit]) -> None:
        """Raise `LeftToOthers` where this ledger has not got every account of these debits."""
        accounts = {debit.account_id for debit in debits}
        known = {row["id"] for row in await self._database.rows(KNOWN_ACCOUNTS, list(accounts))} if accounts else set()
        if accounts - known:
            raise LeftToOthers(f"{path} has debits of {len(accounts - known)} accounts that this ledger does not have")
