"""Who has which slots of a cluster, as one of its servers tells it. What a server tells may be out of date."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from billing.holds.redis.server import Server

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots from `first` to `last`, both included. `replicas` are those that have not failed; one that is new is listed
    once its master has written to it, or 10 s later."""

    first: int
    last: int
    master: Server
    replicas: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """A master with its replicas, and how many slots it has: 0 outside a cluster."""

    master: Server
    replicas: tuple[Server, ...]
    slots: int


def read_slots(
    reply: Iterable[Sequence[Any]], asked_host: str, server_at: Callable[[Address], Server]
) -> list[SlotRange]:
    """The reply to CLUSTER SLOTS of a server at `asked_host`; `server_at` answers one server for each address."""
    ranges = []
    for first, last, *places in reply:
        master, *replicas = (server_at(_address(place, asked_host)) for place in places)
        ranges.append(SlotRange(first, last, master, tuple(replicas)))
    return ranges


def shards_of(ranges: Iterable[SlotRange]) -> tuple[Shard, ...]:
    """The masters, in the order of their slots. Every range of a master has the same replicas."""
    shards: dict[Server, Shard] = {}
    for each in ranges:
        before = shards[each.master].slots if each.master in shards else 0
        shards[each.master] = Shard(each.master, each.replicas, before + each.last - each.first + 1)
    return tuple(shards.values())


def _address(place: Sequence[Any], asked_host: str) -> Address:
    """A node's address in the reply to CLUSTER SLOTS, which leaves out the host where it does not know it: that of the
    node that was asked is meant (https://redis.io/docs/latest/commands/cluster-slots/)."""
    host = place[0].decode() if isinstance(place[0], bytes) else place[0]
    return host or asked_host, int(place[1])
