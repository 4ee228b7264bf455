"""Tells notices, in one gateway of all: writes their mails and deliveries, and sends deliveries until they are taken.

A delivery is sent at least once, with the notice's id as `webhook-id`, by which its receiver knows a repetition.
It is tried again after pauses that double, and given up (`parked`) after so many tries; an endpoint to which all
deliveries have failed for long, or that answers 410 Gone, is disabled, and its owner told. Some are sent at once, but
one at a time to one endpoint, so that a slow one keeps no other waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.database.connection import Row, queries
from billing.mail import SERVICE, enqueue
from billing.notices.delivery import Outcome, Poster, key_of, signed_headers
from billing.notices.emit import emit
from billing.notices.formats import Notice, body_of
from billing.notices.mail_templates import letter_of
from billing.pending import Standing
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.database.connection import Connection, Database
    from billing.pending import Pending

logger = logging.getLogger(__name__)

LEASE: Final = "notices"
EVERY_S: Final = 1.0
TIDY: Final = "notices_tidy"
TIDY_EVERY_S: Final = 600.0
# Notices that are handed out in one transaction.
BATCH: Final = 100
# Deliveries of one round.
MOST: Final = 1_000
# Deliveries under way at once.
LANES: Final = 8
# People of one account that are mailed.
RECIPIENTS: Final = 20
FORGET_ROWS: Final = 1_000
# By Standard Webhooks: nothing is to be sent there any more.
GONE: Final = 410
HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "metergate-webhooks/1"}
_query = queries("billing.notices")


@dataclass(frozen=True, slots=True)
class NoticeRules:
    """After how many tries a delivery is parked, the pauses between them (from `pause_s`, doubling to `most_pause_s`),
    after how long of failures an endpoint is disabled, and for how many days notices are kept.

    `pause_s` must be longer than a delivery may take, for it is also after which another gateway takes one over."""

    attempts: int = 12
    pause_s: float = 30.0
    most_pause_s: float = 6 * 3600.0
    disable_s: float = 5 * 86_400.0
    kept_days: int = 30

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.kept_days < 1 or not 0 < self.pause_s <= self.most_pause_s or self.disable_s <= 0:
            raise ValueError("attempts, pauses and times must be above zero, and the longest pause the longest")


@dataclass(frozen=True, slots=True)
class OperatorHook:
    """NOTIFICATION_WEBHOOK: where operators have all notices sent to; signed where there is a `secret`."""

    url: str
    poster: Poster
    secret: str | None = None

    def __repr__(self) -> str:
        return "OperatorHook(...)"  # the URL may hold what lets one post there


class NoticeWorker:
    """Tells notices; `owner` names this process. `standing` is as of the last round that was this process's."""

    def __init__(
        self,
        database: Database,
        poster: Poster,
        hook: OperatorHook | None,
        rules: NoticeRules,
        new_id: Callable[[], str],
        owner: str,
    ) -> None:
        self._database, self._poster, self._hook, self._rules = database, poster, hook, rules
        self._new_id, self._owner = new_id, owner
        self._claiming = asyncio.Lock()
        self._busy: set[str] = set()
        self._none_due = False
        self.standing = Standing(database, _query("outbox_standing"))

    def work(self, pending: Pending) -> tuple[Periodic, ...]:
        """Return what tells notices, and what forgets old ones."""
        tell, tidy = (Lease(self._database, name, self._owner) for name in (LEASE, TIDY))
        return (
            Periodic(
                name="notices",
                every_s=EVERY_S,
                round=self._turn,
                lease=tell,
                due=lambda: self.standing.due(pending.work.notices),
                otherwise=self.standing.forget,
                close=self._close,
            ),
            Periodic(name=TIDY, every_s=TIDY_EVERY_S, round=self.tidy, lease=tidy),
        )

    async def _close(self) -> None:
        await self._poster.close()
        if self._hook is not None:
            await self._hook.poster.close()

    async def _turn(self) -> None:
        await self.round()
        await self.standing.refresh()

    async def tidy(self) -> None:
        """Forget notices that are old, a bounded number of them. Raises `DatabaseError`."""
        await self._database.value(_query("outbox_forget"), self._rules.kept_days, FORGET_ROWS)

    async def round(self) -> int:
        """Write what notices are to be sent and send what is due, `MOST` at most; return how many were sent. Raises
        `DatabaseError`."""
        while await self._hand_out() == BATCH:
            pass
        left = [MOST]
        self._none_due = False
        await asyncio.gather(*(self._lane(left) for _ in range(LANES)))
        return MOST - left[0]

    async def _hand_out(self) -> int:
        """Write the mails and deliveries of some notices, in one transaction; return how many notices."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_query("notices_waiting"), BATCH)
            if rows:
                await connection.fetchval(
                    _query("notices_hand_out"), [row["id"] for row in rows], self._hook is not None
                )
            for row in rows:
                await self._mail(connection, row)
        return len(rows)

    async def _mail(self, connection: Connection, notice: Row) -> None:
        letter = letter_of(SERVICE, notice["type"], notice["data"])
        if letter is None:
            return
        about = notice["data"].get("budget_id")
        for person in await connection.fetch(_query("notices_recipients"), notice["account_id"], RECIPIENTS, about):
            await enqueue(connection, self._new_id, person["email"], *letter)

    async def _lane(self, left: list[int]) -> None:
        """Send one delivery after another, of those that no other lane sends to the same endpoint."""
        while left[0] > 0:
            async with self._claiming:
                if self._none_due:  # another lane has just asked
                    return
                rules, busy = self._rules, sorted(self._busy)
                claimed = await self._database.row(_query("deliveries_claim"), rules.pause_s, rules.most_pause_s, busy)
                if claimed is None:
                    self._none_due = sorted(self._busy) == busy  # else one's endpoint has become free meanwhile
                    return
                left[0] -= 1
                self._busy.add(endpoint := claimed["endpoint_id"] or "")
            try:
                await self._deliver(claimed)
            finally:
                self._busy.discard(endpoint)
                self._none_due = False

    async def _deliver(self, claimed: Row) -> None:
        outcome = await self._send(claimed)
        if outcome is None:
            return
        if outcome.ok:
            await self._database.execute(_query("deliveries_done"), claimed["id"], outcome.status)
            return
        endpoint_id, gone = claimed["endpoint_id"], outcome.status == GONE
        given_up = gone or claimed["attempts"] >= self._rules.attempts
        logger.log(
            logging.WARNING if given_up else logging.INFO,
            "delivery %s to %s failed at try %d%s: %s",
            claimed["id"],
            endpoint_id or "NOTIFICATION_WEBHOOK",
            claimed["attempts"],
            ", and is parked" if given_up else "",
            outcome.error,
        )
        failing_s = await self._database.value(
            _query("deliveries_failed"), claimed["id"], outcome.status, outcome.error, given_up
        )
        if endpoint_id is not None and (gone or (failing_s or 0) >= self._rules.disable_s):
            await self._disable(endpoint_id, "it answered 410 Gone" if gone else "all deliveries failed for too long")

    async def _send(self, claimed: Row) -> Outcome | None:
        """Send a delivery; None: its endpoint has gone, and the delivery with it."""
        notice = Notice(
            claimed["notice_id"], claimed["type"], claimed["created_at"], claimed["account_id"], claimed["data"]
        )
        at_s = int(time.time())
        hook = self._hook
        if claimed["endpoint_id"] is None:
            if hook is None:  # configured when the delivery was written
                await self._database.execute(_query("deliveries_failed"), claimed["id"], None, "not configured", True)
                return None
            body, keys = body_of(notice), [] if hook.secret is None else [key_of(hook.secret)]
            headers = HEADERS | signed_headers(claimed["notice_id"], at_s, body, keys)
            return await hook.poster.post(hook.url, body, headers)
        target = await self._database.row(_query("endpoints_target"), claimed["endpoint_id"])
        if target is None:
            return None
        body = body_of(notice, target["format"], target["routing_key"])
        keys = [key_of(secret) for secret in (target["secret"], target["old_secret"]) if secret is not None]
        headers = HEADERS | signed_headers(claimed["notice_id"], at_s, body, keys)
        return await self._poster.post(target["url"], body, headers)

    async def _disable(self, endpoint_id: str, reason: str) -> None:
        async with self._database.transaction() as connection:
            ended = await connection.fetchrow(_query("endpoints_disable"), endpoint_id, reason)
            if ended is None:
                return
            logger.warning("webhook endpoint %s is disabled: %s", endpoint_id, reason)
            if ended["account_id"] is not None:
                data = {"endpoint_id": endpoint_id, "reason": reason}
                await emit(connection, ended["account_id"], "endpoint.disabled", data)
