"""Whose an object at a provider is. This file owns that an id is recorded once, for the account that created it.

Records that are asked for while a statement is under way go into the next one together, so that creating objects takes
one connection however many are created. What this process has recorded or read it remembers, because an object's owner
never changes; what it does not find it asks for each time, because another gateway may have recorded it since.

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
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.settings import RetentionSettings

_sql = queries("billing.owned")
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
