"""Where things lie in Redis. This file owns the names of keys and the partition of an account.

All that one admission or settlement touches has one hash tag, `{<prefix><partition>}`, and so one slot in a cluster.
The name of a state says the version of its layout: a release finds no bytes there that it can't read.
"""

import zlib
from dataclasses import dataclass
from typing import Final

from billing.holds.redis.layout import STATE_VERSION

DEFAULT_PREFIX: Final = "m"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Names of keys for a prefix and a number of partitions, which is fixed once for an installation."""

    prefix: str = DEFAULT_PREFIX
    partitions: int = 1

    def partition_of(self, account_id: str) -> int:
        return zlib.crc32(account_id.encode()) % self.partitions

    def name(self, partition: int, rest: str) -> bytes:
        return f"{{{self.prefix}{partition}}}:{rest}".encode()

    def meta(self, partition: int) -> bytes:
        """Hash: epoch, identity, open."""
        return self.name(partition, "meta")

    def journal(self, partition: int) -> bytes:
        """Hash: request id to entry."""
        return self.name(partition, "journal")

    def installed(self, partition: int) -> bytes:
        """Hash: subject to the epoch in which it was installed."""
        return self.name(partition, "installed")

    def joined(self, partition: int) -> bytes:
        """Set: gateways that are ready for the epoch."""
        return self.name(partition, "joined")

    def account(self, account_id: str) -> bytes:
        return self.name(self.partition_of(account_id), f"a{STATE_VERSION}:{account_id}")

    def key(self, account_id: str, key_id: str) -> bytes:
        return self.name(self.partition_of(account_id), f"k{STATE_VERSION}:{key_id}")

    def left_by_version_1(self, account_id: str, key_id: str | None) -> list[bytes]:
        """Where releases of layout 1 keep an account, and a key of it."""
        number = self.partition_of(account_id)
        names = [self.name(number, f"a:{account_id}")]
        return names if key_id is None else [*names, self.name(number, f"k:{key_id}")]

    @property
    def attempts(self) -> bytes:
        """Hash: address to its failed attempts to show a key."""
        return self.name(0, "attempts")

    @property
    def refused(self) -> bytes:
        """Sorted set: API key to the time of its last refusal."""
        return self.name(0, "refused")

    def refused_of(self, key_id: str) -> bytes:
        """List: the last refusals of an API key."""
        return self.name(0, f"refused:{key_id}")

    @property
    def channel(self) -> str:
        """Where changes of principals are told."""
        return f"{self.prefix}:changes"
