"""Notices of what an operator should look at: once it has lasted for a while, and once more when it has ended.

What was told of is a row of `troubles`, written with its notice, so that another gateway that goes on with this tells
nothing twice.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from billing.database.connection import queries
from billing.notices.emit import emit
from billing.work import Lease, Periodic

if TYPE_CHECKING:
    from billing.database.connection import Database

NAME: Final = "troubles"
EVERY_S: Final = 15.0
# Rounds in a row in which it is there before it is told, or is not there before its end is: a minute.
LASTING_ROUNDS: Final = 4
# Most that are told of in a round.
MOST: Final = 20
# Stands for an account in notices that are about none.
OPERATORS: Final = ""
_query = queries("billing.notices")


class TroubleNotices:
    """Tells operators of troubles; `find` returns those of now, what each is about with a sentence on it."""

    def __init__(self, database: "Database", find: Callable[[], Mapping[str, str]], owner: str) -> None:
        self._database, self._find, self._owner = database, find, owner
        self._there: dict[str, int] = {}
        self._gone: dict[str, int] = {}

    def work(self) -> Periodic:
        """Return what looks, in one gateway of all."""
        lease = Lease(self._database, NAME, self._owner)
        return Periodic(name=NAME, every_s=EVERY_S, round=self.round, lease=lease, otherwise=self._forget)

    def _forget(self) -> None:
        self._there, self._gone = {}, {}

    async def round(self) -> None:
        """Count what is there, and tell of what has lasted or ended. Raises `DatabaseError`."""
        found = self._find()
        told = {row["about"] for row in await self._database.rows(_query("troubles_told"))}
        self._there = {about: self._there.get(about, 0) + 1 for about in found if about not in told}
        self._gone = {about: self._gone.get(about, 0) + 1 for about in told if about not in found}
        lasting = [about for about, rounds in self._there.items() if rounds >= LASTING_ROUNDS]
        for about in lasting[:MOST]:
            await self._begin(about, found[about])
        for about in [about for about, rounds in self._gone.items() if rounds >= LASTING_ROUNDS][:MOST]:
            await self._end(about)

    async def _begin(self, about: str, message: str) -> None:
        async with self._database.transaction() as connection:
            if await connection.fetchval(_query("troubles_begin"), about, message) is not None:
                await emit(connection, OPERATORS, "trouble.began", {"about": about, "message": message})

    async def _end(self, about: str) -> None:
        async with self._database.transaction() as connection:
            message = await connection.fetchval(_query("troubles_end"), about)
            if message is not None:
                await emit(connection, OPERATORS, "trouble.ended", {"about": about, "message": message})
