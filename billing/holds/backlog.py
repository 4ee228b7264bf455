"""How much of the installation is on its way to Postgres: what `max_unsettled` bounds.

Every hold and every settled debit is an entry in some partition's journal until Postgres has it. One partition's
script sees its own journal alone, so each gateway adds them up: it knows its own entries at every moment, and looks at
the size of all journals each second for those of the others. So the bound is exact for one gateway, and several
together exceed it by no more than the others admit within that second.

An account whose row in Postgres somebody has locked may fill a part of that alone: the rest is for the others.
"""

import asyncio
from collections.abc import Sized
from contextlib import suppress
from typing import Final, Protocol

from billing.holds.partitions import Partition, Partitions
from billing.holds.redis import RedisError
from billing.holds.redis.keyspace import Keyspace

LOCKED_SHARE: Final = 16
"""One of so many parts of all is what the debits of one locked account may take up in one process."""


class Waiting(Sized, Protocol):
    """The outbox."""

    def count_aside(self, account_id: str) -> int: ...


class Backlog:
    """`live` are this process's running holds, `outbox` its debits that Postgres has not; `most` entries are allowed in
    the installation. `asking` admissions are on their way to Redis."""

    __slots__ = ("_journals", "_live", "_most", "_others", "_outbox", "_partitions", "_sizes", "asking")

    def __init__(self, partitions: Partitions, keyspace: Keyspace, live: Sized, outbox: Waiting, most: int) -> None:
        self._partitions = partitions
        self._journals = [keyspace.journal(partition.number) for partition in partitions.all]
        self._sizes = [0] * len(self._journals)
        self._live = live
        self._outbox = outbox
        self._most = most
        self._others = 0
        self.asking = 0

    @property
    def full(self) -> bool:
        """Whether nothing more may be admitted."""
        return self._others + len(self._live) + len(self._outbox) + self.asking >= self._most

    def full_of(self, account_id: str) -> bool:
        """Whether nothing more of this account may be admitted, because its row is locked."""
        return self._outbox.count_aside(account_id) * LOCKED_SHARE >= self._most

    async def look(self) -> None:
        """See what other gateways have in the journals; of a server that does not answer what it had last."""
        own = len(self._live) + len(self._outbox)
        await asyncio.gather(*map(self._look_at, self._partitions.all))
        own = max(own, len(self._live) + len(self._outbox))
        self._others = max(0, sum(self._sizes) - own)

    async def _look_at(self, partition: Partition) -> None:
        life = partition.life
        if life is not None and life.stands:
            with suppress(RedisError):
                self._sizes[partition.number] = await life.ask("HLEN", self._journals[partition.number])
