"""Replay: the debits that spools of this machine have of processes that have ended, on their way to Postgres.

Request ids make it harmless to write one twice, so nothing needs to know how far its process had come.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from billing.database.connection import Database
from billing.errors import MetergateError
from billing.holds.outbox import Outbox
from billing.holds.spool import left_behind, read_debits, taken
from billing.ledger.debits import Debit, Written, write_free

logger = logging.getLogger(__name__)

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
        """Write the debits of spools whose processes have ended, and remove these; how many debits. Waits for a run
        under way: whoever opens an epoch must have its debits in the ledger. Raises `DatabaseError`: what was not
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
        """Raises `LeftToOthers` where this ledger has not got every account of these debits."""
        accounts = {debit.account_id for debit in debits}
        known = {row["id"] for row in await self._database.rows(KNOWN_ACCOUNTS, list(accounts))} if accounts else set()
        if accounts - known:
            raise LeftToOthers(f"{path} has debits of {len(accounts - known)} accounts that this ledger does not have")
