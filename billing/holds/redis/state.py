"""What the scripts have written, read back and unpacked. No script and no command reads a whole journal at once: it is
read page by page.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.errors import Unreadable
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import SETTLED, AccountState, Entry, Keyspace, KeyState

if TYPE_CHECKING:
    from billing.holds.redis.client import RedisClient
    from billing.holds.redis.connection import Argument, ServerSession


# Values that one command asks for: Redis is held for well under a millisecond.
PAGE: Final = 500
ID_BYTES: Final = 26
SETTLED_BYTE: Final = bytes((SETTLED,))

OnBad = Callable[[bytes, bytes, Unreadable], None]


@dataclass(frozen=True, slots=True)
class Meta:
    """What Redis knows of a partition's epoch: its number, the server's identity and the ledger's, and how far the
    ledger had counted. 0 and None where it knows nothing."""

    epoch: int
    identity: str | None
    ledger: str | None
    beat: int


class RedisState:
    """Reads what the scripts have written for one installation. Methods raise `RedisError`."""

    def __init__(self, client: RedisClient, keyspace: Keyspace) -> None:
        self.client = client
        self.keyspace = keyspace
        self._attempt, self._refused = Script("attempt"), Script("refused")

    async def account(self, account_id: str) -> AccountState | None:
        """Return an account, in whatever epoch it was loaded; None where it is not loaded."""
        raw = await self.client.command("GET", self.keyspace.account(account_id))
        return AccountState.unpack(raw) if raw is not None else None

    async def key(self, account_id: str, key_id: str) -> KeyState | None:
        """Return a key of an account, as `account` does."""
        raw = await self.client.command("GET", self.keyspace.key(account_id, key_id))
        return KeyState.unpack(raw) if raw is not None else None

    async def user(self, account_id: str, user_id: str) -> KeyState | None:
        """Return a user of an account, as `account` does; None, too, where the user has no limits."""
        raw = await self.client.command("GET", self.keyspace.user(account_id, user_id))
        return KeyState.unpack(raw) if raw is not None else None

    async def packed_accounts(self, account_ids: Iterable[str]) -> list[bytes | None]:
        """Return accounts of one partition as `AccountState.unpack` reads them, in this order."""
        return await self._values([self.keyspace.account(account_id) for account_id in account_ids])

    async def packed_keys(self, subjects: Iterable[tuple[str, str]]) -> list[bytes | None]:
        """Return keys, by account and key id, as `KeyState.unpack` reads them; else as `packed_accounts`."""
        return await self._values([self.keyspace.key(*subject) for subject in subjects])

    async def packed_users(self, subjects: Iterable[tuple[str, str]]) -> list[bytes | None]:
        """Return users, by account and user id, as `packed_keys` does."""
        return await self._values([self.keyspace.user(*subject) for subject in subjects])

    async def _values(self, names: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for start in range(0, len(names), PAGE):
            values += await self.client.command("MGET", *names[start : start + PAGE])
        return values

    async def meta(self, session: ServerSession, number: int) -> Meta:
        """Return what the server of this session knows of a partition's epoch."""
        fields = await session.ask("HMGET", self.keyspace.meta(number), "epoch", "identity", "ledger", "beat")
        epoch, identity, ledger, beat = (None if field is None else field.decode() for field in fields)
        return Meta(int(epoch or 0), identity, ledger, int(beat or 0))

    async def entries(self, number: int, on_bad: OnBad | None = None) -> AsyncIterator[tuple[str, Entry]]:
        """Yield every entry of a partition's journal that can be read, with its request id; one may come twice.
        `on_bad` gets the others, as field, value and error."""
        async for field, raw in self.client.scan_hash(self.keyspace.journal(number), PAGE):
            try:
                if len(field) != ID_BYTES:
                    raise Unreadable(f"an entry under a name of {len(field)} bytes")
                request_id, entry = field.decode("ascii"), Entry.unpack(raw)
            except (Unreadable, UnicodeDecodeError) as error:
                if on_bad is not None:
                    on_bad(field, raw, error if isinstance(error, Unreadable) else Unreadable(str(error)))
                continue
            yield request_id, entry

    async def open_holds(self, number: int, account_id: str, key_ids: Collection[str] | None) -> list[str]:
        """Return the requests with open holds of an account, or of some of its keys, in any epoch."""
        found: dict[str, None] = {}
        async for field, raw in self.client.scan_hash(self.keyspace.journal(number), PAGE):
            if raw[1:2] == SETTLED_BYTE or len(field) != ID_BYTES:  # most of a large journal
                continue
            try:
                entry = Entry.unpack(raw)
                if entry.account_id == account_id and (key_ids is None or entry.key_id in key_ids):
                    found[field.decode("ascii")] = None
            except (Unreadable, UnicodeDecodeError):
                continue
        return list(found)

    async def still_settled(self, number: int, request_ids: Sequence[str]) -> list[str]:
        """Return those of them whose entries are settled ones: not yet acknowledged."""
        found = zip(request_ids, await self._raw_entries(number, request_ids), strict=True)
        return [request_id for request_id, raw in found if raw is not None and raw[1:2] == SETTLED_BYTE]

    async def without_entry(self, number: int, request_ids: Sequence[str]) -> list[str]:
        """Return those of them that have no entry in the journal."""
        found = zip(request_ids, await self._raw_entries(number, request_ids), strict=True)
        return [request_id for request_id, raw in found if raw is None]

    async def _raw_entries(self, number: int, request_ids: Sequence[str]) -> list[bytes | None]:
        raws: list[bytes | None] = []
        for start in range(0, len(request_ids), PAGE):
            some = request_ids[start : start + PAGE]
            raws += await self.client.command("HMGET", self.keyspace.journal(number), *some)
        return raws

    async def raw_entry(self, number: int, request_id: str) -> bytes | None:
        """Return one entry as it is."""
        raw: bytes | None = await self.client.command("HGET", self.keyspace.journal(number), request_id)
        return raw

    async def entry(self, account_id: str, request_id: str) -> Entry | None:
        """Return the entry of a request of an account; None where there is none, or it can't be read: that is left to
        whoever reads the whole journal."""
        if len(request_id) != ID_BYTES or not request_id.isascii():
            return None
        raw = await self.raw_entry(self.keyspace.partition_of(account_id), request_id)
        try:
            entry = None if raw is None else Entry.unpack(raw)
        except Unreadable:
            return None
        return entry if entry is not None and entry.account_id == account_id else None

    async def count_attempt(self, address: str, most: int, window_ms: int) -> tuple[int, int]:
        """Count a wrong key of an address, of which `most` are kept; return how many that makes in its window, and the
        milliseconds until that ends."""
        total, left_ms = await self.client.call(self._attempt, [self.keyspace.attempts], [address, most, window_ms])
        return int(total), int(left_ms)

    async def keep_refusals(
        self, records: Mapping[str, Sequence[bytes]], *, per_key: int, most_keys: int, age_ms: int, now_ms: int
    ) -> None:
        """Add records of refusals, by key id: the last `per_key` of each of the `most_keys` keys that were refused last
        are kept, for `age_ms`."""
        arguments: list[Argument] = [per_key, most_keys, age_ms, now_ms]
        for key_id, raws in records.items():
            arguments += [key_id, len(raws), *raws]
        keys = [self.keyspace.refused, *map(self.keyspace.refused_of, records)]
        gone = await self.client.call(self._refused, keys, arguments)
        if gone:
            await self.client.command("UNLINK", *(self.keyspace.refused_of(key_id.decode()) for key_id in gone))

    async def refused_keys(self) -> list[str]:
        """Return the ids of keys whose refusals are kept, the one that was refused last first."""
        found = await self.client.command("ZREVRANGE", self.keyspace.refused, 0, -1)
        return [key_id.decode() for key_id in found]

    async def refusals(self, key_id: str) -> list[bytes]:
        """Return the records of a key's refusals."""
        raws: list[bytes] = await self.client.command("LRANGE", self.keyspace.refused_of(key_id), 0, -1)
        return raws

    async def share_target(self, name: str, kept: bytes | None, message: bytes, *, keep_s: int) -> None:
        """Store the state of a provider's target, for `keep_s` after the last change of any; None: delete it. `message`
        is published to other processes."""
        if kept is None:
            await self.client.command("HDEL", self.keyspace.targets, name)
        else:
            await self.client.command("HSET", self.keyspace.targets, name, kept)
            await self.client.command("EXPIRE", self.keyspace.targets, keep_s)
        await self.client.publish(self.keyspace.target_channel, message)

    async def shared_targets(self) -> dict[bytes, bytes]:
        """Return what is kept of targets, by name."""
        found = await self.client.command("HGETALL", self.keyspace.targets)
        return dict(zip(found[::2], found[1::2], strict=True))

    def listen_targets(self, on_subscribed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Yield what other processes publish about targets, until the connection breaks."""
        return self.client.listen(self.keyspace.target_channel, on_subscribed)
