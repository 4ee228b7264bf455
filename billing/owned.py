"""What accounts own at providers: objects that their requests created, and work that goes on after an answer.

An object's id is recorded once, for the account that created it, before its client sees it. Records that are asked for
while a statement is under way go into the next one together, so that creating objects takes one connection however many
are created. What this process has recorded or read it remembers, because an object's owner never changes; what it does
not find it asks for each time, because another gateway may have recorded it since.

A job is a row that the gateway which polls it leases, and is paid once. The ledger decides: by the request's own id as
long as its hold may be settled, or nobody can settle it any more; by another id, kept beside it, once the ledger says
that the hold has expired. Both ids are the job's from its beginning, so that doing it twice is harmless.

Rows of objects and of jobs are deleted once they are old, and none before its time: in small batches, by one process of
all. An object whose row is gone is nobody's, though its provider may still have it. A job is deleted after it was done
alone; what it came to stays in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from billing.database.connection import Database, DatabaseError, queries
from billing.errors import Unreadable
from billing.ledger.debits import Debit, decode_debit, encode_debit
from billing.ledger.writer import write_debits
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.change_notifier import ChangeNotifier
    from billing.settings import RetentionSettings

_sql = queries("billing")
RECORD: Final = _sql("record_objects")
FIND: Final = _sql("find_objects")
MOST_REMEMBERED: Final = 20_000
MOST_AT_ONCE: Final = 500


class OwnedObject(msgspec.Struct, frozen=True):
    """One object. `provider` and `model` are where it is and what made it there; `total_tokens` what the provider
    counted for it, None where that is not known. `tools` that run at the provider are a part of it, and may run again
    in what goes on from it: only this process remembers them, so that to others its total is not known."""

    object_id: str
    provider: str
    account_id: str
    kind: str
    model: str
    total_tokens: int | None = None
    tools: tuple[str, ...] = ()


class OwnedObjects:
    """Records and finds objects."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[tuple[str, str], OwnedObject] = OrderedDict()
        self._waiting: dict[tuple[str, str], tuple[OwnedObject, asyncio.Future[bool]]] = {}
        self._writer: asyncio.Task[None] | None = None

    async def find(self, account_id: str, object_ids: Sequence[str]) -> dict[str, OwnedObject]:
        """Return those of the objects that are the account's, by id. Raises `DatabaseError`."""
        found = {name: known for name in object_ids if (known := self._known.get((account_id, name)))}
        missing = [name for name in object_ids if name not in found and _may_be_stored(name)]
        if missing:
            for row in await self._database.rows(FIND, account_id, missing):
                owned = OwnedObject(**dict(row))
                found[owned.object_id] = owned
                self._remember(owned)
        return found

    async def record(self, owned: OwnedObject) -> bool:
        """Record an object, or the total of one that is known; return whether it is its account's. It goes on where the
        caller is cancelled. Raises `DatabaseError`."""
        key = (owned.object_id, owned.provider)
        waiting = self._waiting.get(key)
        outcome = asyncio.get_running_loop().create_future() if waiting is None else waiting[1]
        self._waiting[key] = owned, outcome
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        accepted: bool = await asyncio.shield(outcome)
        return accepted

    def note_tools(self, owned: OwnedObject, tools: tuple[str, ...]) -> None:
        """Remember that an object has these tools, too."""
        if further := tuple(tool for tool in tools if tool not in owned.tools):
            self._remember(msgspec.structs.replace(owned, tools=(*owned.tools, *further)))

    async def close(self) -> None:
        """Wait until what waits is written, or has failed."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:MOST_AT_ONCE]
                await self._write_batch([self._waiting.pop(key) for key in keys])
        finally:
            self._writer = None

    async def _write_batch(self, batch: list[tuple[OwnedObject, asyncio.Future[bool]]]) -> None:
        rows_to_write = [
            msgspec.structs.replace(owned, total_tokens=None) if owned.tools else owned for owned, _ in batch
        ]
        given = msgspec.json.encode(rows_to_write).decode()
        try:
            rows = await self._database.rows(RECORD, given)
        except DatabaseError as error:
            for _, outcome in batch:
                if not outcome.done():
                    outcome.set_exception(error)
                    outcome.exception()  # the caller may have left
            return
        accepted = {(row["object_id"], row["provider"]) for row in rows}
        for owned, outcome in batch:
            mine = (owned.object_id, owned.provider) in accepted
            if mine:
                self._remember(owned)
            if not outcome.done():
                outcome.set_result(mine)

    def _remember(self, owned: OwnedObject) -> None:
        self._known[owned.account_id, owned.object_id] = owned
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)


logger = logging.getLogger(__name__)

FORGET_OBJECTS: Final = _sql("forget_objects")
FORGET_JOBS: Final = _sql("forget_jobs")
NAME: Final = "retention"
EVERY_S: Final = 3600.0
BATCH_ROWS: Final = 1_000
# In one round, of each table.
MOST_BATCHES: Final = 1_000


class Retention:
    """Deletes old rows. `owner` names this process."""

    def __init__(
        self,
        database: Database,
        settings: RetentionSettings,
        owner: str,
        after_days: Sequence[tuple[str, int]] = (),
        beside: Sequence[str] = (),
    ) -> None:
        """`after_days` and `beside` are further statements that delete so many old rows at most, and give how many
        there were: the former are given days, too."""
        self._database = database
        self._after_days, self._beside = after_days, beside
        self._settings = settings
        self._owner = owner

    def work(self) -> Periodic:
        """Return what removes what is old."""
        lease = Lease(self._database, NAME, self._owner)
        return Periodic(name=NAME, every_s=EVERY_S, round=self.forget, lease=lease)

    async def forget(self, batch_rows: int = BATCH_ROWS) -> int:
        """Remove what is old, so many rows at once; return how many there were. Raises `DatabaseError`."""
        forgotten = 0
        old: tuple[tuple[str, int], ...] = (
            (FORGET_OBJECTS, self._settings.object_retention_days),
            (FORGET_JOBS, self._settings.job_retention_days),
            *self._after_days,
        )
        wanted = [(statement, (days, batch_rows)) for statement, days in old]
        for statement, given in (*wanted, *((each, (batch_rows,)) for each in self._beside)):
            for _ in range(MOST_BATCHES):
                rows = await self._database.value(statement, *given)
                forgotten += rows
                if rows < batch_rows:
                    break
        return forgotten


def _may_be_stored(object_id: str) -> bool:
    """Return whether an id can be one of a row: Postgres takes neither NUL nor lone surrogates."""
    return object_id.isprintable()


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
