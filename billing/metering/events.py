"""Writing what services meter, each event once: the id of an event and its debit are written by one statement.

This file owns why nothing is lost and nothing counts twice, whatever is killed when. An answer comes after the commit,
which has the event's id, its debit and the answer, or none of them. Who gets no answer asks again under the same id:
it finds the event, and gets the first answer, or it does not, and then nothing was debited. The debit is a correction
(rule R3 of docs/protocol.md): Redis is told of it after the commit, in order and once, by whichever gateway lives, and
ends its hold by that, if it has one.

Events that come while a transaction runs share the next one. A batch that is refused is written by halves, down to the
event at fault; one with a locked account by accounts.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from billing.database.connection import (
    Database,
    DatabaseError,
    DatabaseLocked,
    DatabaseRefused,
    DatabaseUnavailable,
    UniqueViolation,
    queries,
)
from billing.ledger.debits import Debit
from billing.ledger.writer import write_claimed
from billing.metering.charges import Busy, Claim, EventConflict, EventRefused, Recorded, replayed, settled_before

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence

    from billing.errors import MetergateError

logger = logging.getLogger(__name__)

_sql = queries("billing.metering")
CLAIMED: Final = _sql("claimed_events")
ENDED: Final = _sql("service_holds_get")
# The index by which the event that ends a hold ends no other one of its account.
END_OF_HOLD: Final = "service_holds_end"
DEBITS: Final = "/api/service/debits"
USAGE: Final = "/api/service/usage"
HOLDS: Final = "/api/service/holds"
# A transaction that was hindered, or whose fate is unknown, is tried again at once, for that is harmless.
TRIES: Final = 2
# How long a batch of several accounts waits for one that is locked.
BRIEF_WAIT_S: Final = 0.025
# How many accounts are corrected in Redis by one call.
PUBLISHED_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class _Waiting:
    claim: Claim
    debit: Debit
    outcome: asyncio.Future[Recorded]


class EventWriter:
    """Writes the events of one process, in batches of at most `batch_rows`; at most `most` wait. `tell` lets Redis know
    of accounts' new corrections; `spawn` runs what must finish."""

    def __init__(
        self,
        database: Database,
        tell: Callable[[Collection[str]], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        batch_rows: int,
        most: int,
    ) -> None:
        self._database = database
        self._changed = tell
        self._spawn = spawn
        self._batch_rows = batch_rows
        self._most = most
        self._waiting: list[_Waiting] = []
        self._writes = False
        self._under_way: dict[tuple[str, str], asyncio.Future[Recorded]] = {}
        """What is being written, by account and event: as much as waits, and as many holds as are being made."""
        self._unpublished: dict[str, None] = {}
        """Accounts of whose corrections Redis has not been told."""
        self._publishes = False

    def write(self, claim: Claim, debit: Debit) -> asyncio.Future[Recorded]:
        """Write an event. What comes of it is its future's, also if nobody waits: `Recorded`, or `EventConflict`,
        `EventRefused`, `Busy`. Raises `Busy` where too many wait."""
        if len(self._waiting) >= self._most:
            raise Busy("Too many events wait for the ledger: send this again, with the same event_id.")
        outcome: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()
        self.expect(claim, outcome)
        self._waiting.append(_Waiting(claim, debit, outcome))
        if not self._writes:
            self._writes = True
            self._spawn(self._run())
        return outcome

    def expect(self, claim: Claim, outcome: asyncio.Future[Recorded]) -> None:
        """Have `find` wait for what comes of an event."""
        key = claim.account_id, claim.event_id
        self._under_way[key] = outcome

        def forget(_: object) -> None:
            if self._under_way.get(key) is outcome:
                del self._under_way[key]

        outcome.add_done_callback(forget)

    async def find(self, claim: Claim) -> Recorded | None:
        """Return the first answer to an event, None where there was none. One that this process is writing is waited
        for: what it holds may be why the same event, sent again, has no room. Raises `EventConflict`,
        `DatabaseError`."""
        outcome = self._under_way.get((claim.account_id, claim.event_id))
        if outcome is not None:
            await asyncio.wait([outcome])
        return await self.known(claim)

    async def known(self, claim: Claim) -> Recorded | None:
        """Return as `find`, of what the ledger has."""
        rows = await self._database.rows(CLAIMED, [claim.account_id], [claim.event_id])
        return replayed(claim, rows[0]["digest"], rows[0]["answer"]) if rows else None

    async def _run(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # those of this turn go together
                batch = self._batch()
                try:
                    await self._write(batch)
                except Exception as error:  # whatever it was: somebody waits for each of them
                    _fail(batch, Busy("The ledger did not take the event: send it again, with the same event_id."))
                    if not isinstance(error, DatabaseError):
                        logger.exception("events of services could not be written")
        finally:
            self._writes = False

    def _batch(self) -> list[_Waiting]:
        """Return the first that wait; of those that settle one hold the first alone."""
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        requests: set[str] = set()
        for index, each in enumerate(self._waiting):
            if len(batch) == self._batch_rows:
                left += self._waiting[index:]
                break
            (left if each.debit.request_id in requests else batch).append(each)
            requests.add(each.debit.request_id)
        self._waiting = left
        return batch

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        """Write a batch, and settle its futures. Raises `DatabaseError` where nothing, or not all, is known of it."""
        several = len({each.debit.account_id for each in batch}) > 1
        try:
            fresh = await self._tried(batch, 0.0 if several else self._database.lock_wait_s)
        except DatabaseLocked:
            if not several:
                raise
            await self._by_accounts(batch)
            return
        except DatabaseRefused as error:
            if len(batch) > 1:
                half = len(batch) // 2
                await self._write(batch[:half])
                await self._write(batch[half:])
                return
            _fail(batch, _refusal(error))
            return
        for each in batch:
            if each.debit.request_id in fresh and not each.outcome.done():
                each.outcome.set_result(Recorded(each.claim.answer))
        self._publish({each.debit.account_id for each in batch if each.debit.request_id in fresh})
        known = [each for each in batch if each.debit.request_id not in fresh]
        if known:
            await self._answer_known(known)

    async def _tried(self, batch: Sequence[_Waiting], wait_s: float) -> set[str]:
        claims = [_claimed(each) for each in batch]
        debits = [each.debit for each in batch]
        for tries_left in reversed(range(TRIES)):
            try:
                return await write_claimed(self._database, debits, claims, max(wait_s, BRIEF_WAIT_S))
            except DatabaseLocked:
                raise
            except DatabaseUnavailable:
                if not tries_left:
                    raise
        raise AssertionError("it returns, or raises")

    async def _by_accounts(self, batch: Sequence[_Waiting]) -> None:
        """Write the events of each account by themselves: one whose row is locked delays no other."""
        groups: dict[str, list[_Waiting]] = {}
        for each in batch:
            groups.setdefault(each.debit.account_id, []).append(each)
        for group in groups.values():
            try:
                await self._write(group)
            except DatabaseError as error:
                logger.info("%d events of %s wait: %s", len(group), group[0].debit.account_id, error)
                _fail(group, Busy("The account's row is locked: send this again, with the same event_id."))

    async def _answer_known(self, known: Sequence[_Waiting]) -> None:
        """Answer events that were recorded before."""
        events = [each.claim for each in known if each.claim.hold_id is None]
        ids = [claim.account_id for claim in events], [claim.event_id for claim in events]
        found: dict[tuple[str, str], Any] = {
            (row["account_id"], row["event_id"]): row for row in await self._database.rows(CLAIMED, *ids)
        }
        holds = [each.claim.hold_id for each in known if each.claim.hold_id is not None]
        ended = {row["id"]: row for row in await self._database.rows(ENDED, holds)} if holds else {}
        for each in known:
            claim = each.claim
            try:
                if claim.hold_id is None:
                    row = found[claim.account_id, claim.event_id]
                    recorded = replayed(claim, row["digest"], row["answer"])
                    if row["request_id"] == each.debit.request_id:  # this very event, by a commit of unknown fate
                        recorded = Recorded(row["answer"])
                        self._publish({claim.account_id})
                else:
                    recorded = settled_before(claim, ended[claim.hold_id])
            except EventConflict as error:
                _fail([each], error)
            else:
                if not each.outcome.done():
                    each.outcome.set_result(recorded)

    def _publish(self, accounts: set[str]) -> None:
        """Let Redis know of what was written; where it is away, the relay does so later."""
        self._unpublished.update(dict.fromkeys(accounts))
        if self._unpublished and not self._publishes:
            self._publishes = True
            self._spawn(self._publish_all())

    async def _publish_all(self) -> None:
        try:
            while self._unpublished:
                some = list(self._unpublished)[:PUBLISHED_AT_ONCE]
                for account_id in some:
                    del self._unpublished[account_id]
                await self._changed(some)
        finally:
            self._publishes = False


def _claimed(each: _Waiting) -> tuple[str | None, ...]:
    claim = each.claim
    return claim.account_id, claim.event_id, claim.digest.hex(), each.debit.request_id, claim.answer, claim.hold_id


def _refusal(error: DatabaseRefused) -> MetergateError:
    if isinstance(error, UniqueViolation):
        if str(error) == END_OF_HOLD:
            return EventConflict("This event_id was used for another hold.")
        return Busy("Its hold was taken for one of a process that had died: send this again, with the same event_id.")
    logger.warning("the ledger refuses an event of a service: %s", error)
    return EventRefused("The ledger can't take this event: the account's balance would leave its bounds.")


def _fail(batch: Sequence[_Waiting], error: MetergateError) -> None:
    for each in batch:
        if not each.outcome.done():
            each.outcome.set_exception(error)
            each.outcome.exception()  # retrieved here: there may be no caller any more
