"""Work that goes on at a provider after it has answered: a row for each job, leased by the gateway that polls it.

This file owns that a job is paid once. The ledger decides: by the request's own id as long as its hold may be settled,
or nobody can settle it any more; by another id, kept beside it, once the ledger says that the hold has expired. Both
ids are the job's from its beginning, so that doing it twice is harmless.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from billing.database.connection import Database, queries
from billing.errors import Unreadable
from billing.ledger.debits import Debit, decode_debit, encode_debit
from billing.ledger.writer import write_debits

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier

logger = logging.getLogger(__name__)

_sql = queries("billing.owned")
BEGIN, CLAIM, RENEW, RELEASE, STANDING = map(
    _sql, ("begin_job", "claim_jobs", "renew_job", "release_job", "job_standing")
)
STREAMED: Final = """UPDATE background_jobs SET streamed = true
WHERE object_id = $1 AND provider = $2 AND done_at IS NULL AND NOT streamed"""
WAS_STREAMED: Final = "SELECT streamed FROM background_jobs WHERE object_id = $1 AND provider = $2"
DONE: Final = "UPDATE background_jobs SET done_at = coalesce(done_at, now()) WHERE object_id = $1 AND provider = $2"
# A gateway whose lease ended so long ago settles nothing any more.
SILENT_S: Final = 60.0


class Job(msgspec.Struct, frozen=True):
    """One job. `debit` charges the whole hold of `request_id`; times are in Unix seconds."""

    object_id: str
    provider: str
    kind: str
    model: str
    service_tier: str | None
    request_id: str
    later_id: str
    gateway_id: str
    debit: Debit
    created_s: float
    expires_s: float


class BackgroundJobs:
    """The table of jobs, as one gateway uses it. All methods raise `DatabaseError`."""

    def __init__(self, database: Database, effects: ChangeNotifier, gateway_id: str, lease_s: float) -> None:
        self._database = database
        self._effects = effects
        self.gateway_id = gateway_id
        self._lease_s = lease_s

    async def ping(self) -> None:
        """Ask Postgres whether it is there."""
        await self._database.value("SELECT 1")

    async def begin(self, job: Job) -> None:
        """Keep a job of this gateway's own. The same again changes nothing."""
        await self._database.execute(
            BEGIN,
            job.object_id,
            job.provider,
            job.kind,
            job.model,
            job.service_tier,
            job.request_id,
            job.later_id,
            self.gateway_id,
            encode_debit(job.debit),
            job.expires_s - job.created_s,
            self._lease_s,
        )

    async def claim(self, most: int) -> list[Job]:
        """Take jobs over that nobody polls. One that a newer release has written is left to its like."""
        rows = await self._database.rows(CLAIM, self.gateway_id, self._lease_s, most)
        jobs: list[Job] = []
        for row in rows:
            try:
                jobs.append(Job(**{**row, "debit": decode_debit(row["debit"])}))
            except Unreadable as error:
                logger.error("background job %s can't be polled by this release: %s", row["request_id"], error)
        return jobs

    async def renew(self, job: Job) -> bool:
        """Renew the lease; False where another gateway has it now, or the job is done."""
        row = await self._database.row(RENEW, job.object_id, job.provider, self.gateway_id, self._lease_s)
        return row is not None

    async def release(self, job: Job) -> None:
        """Leave a job to others, at once."""
        await self._database.execute(RELEASE, job.object_id, job.provider, self.gateway_id)

    async def note_streamed(self, object_id: str, provider: str) -> None:
        """Note that a client streams the object of a job again, if it is one that is not done."""
        await self._database.execute(STREAMED, object_id, provider)

    async def was_streamed(self, job: Job) -> bool:
        """Return whether a client has streamed the object again."""
        return bool(await self._database.value(WAS_STREAMED, job.object_id, job.provider))

    async def done(self, job: Job) -> None:
        """Note that a job is paid, or costs nothing."""
        await self._database.execute(DONE, job.object_id, job.provider)

    async def pay(self, job: Job, debit: Debit | None) -> bool:
        """Settle a job whose hold is not this process's, None where it costs nothing; return whether it is paid now. It
        is not as long as the gateway that has the hold may settle it."""
        standing = (job.request_id, job.gateway_id, job.object_id, job.provider, SILENT_S)
        row = await self._database.row(STANDING, *standing)
        outcome, unheld = (None, True) if row is None else (row["outcome"], row["unheld"])
        if outcome is None and not unheld:
            return False
        if outcome != "settled" and debit is not None:
            request_id = job.request_id if outcome is None else job.later_id
            stored = await write_debits(self._database, [msgspec.structs.replace(debit, request_id=request_id)])
            if request_id in stored and stored[request_id].outcome == "expired":
                return False  # it has just expired: the next time it is paid by the other id
            await self._effects.balance_changed(debit.account_id)
        await self.done(job)
        return True
