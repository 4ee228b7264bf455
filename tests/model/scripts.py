"""The real scripts in the real Redis, called one by one, on a clock that the test sets.

The one change to a script's text is where its time comes from; everything else is what the product runs.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from billing.holds.redis.client import RedisClient
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import (
    ACK,
    ADMIT,
    BASE,
    BATCH,
    I8,
    ITEM,
    NO_REQUEST,
    RUNG,
    SETTLE,
    AccountState,
    Counter,
    Entry,
    HoldTags,
    Keyspace,
    KeyState,
    pack_hold,
    pack_tags,
    pack_text,
)
from billing.holds.redis.layout import CORRECTION as CORRECTION_HEAD
from billing.principals import Limit, pack_limits
from billing.quotas import Quota
from tests.model.reference import Account, Admission, Correction, Hold, Names, Settlement, Subject, Void

CLOCK_LINE = b"local TIME = redis.call('TIME')"
NAMES = ("hot", "adopt", "fill", "retime", "apply", "ack", "claim", "drop", "rehold", "install", "fence", "join")


class ClockedScript(Script):
    """A script that reads its time from a key, as seconds and microseconds."""

    __slots__ = ()

    def __init__(self, name: str, clock_key: bytes) -> None:
        super().__init__(name)
        assert self.source.count(CLOCK_LINE) == 1
        self.source = self.source.replace(
            CLOCK_LINE, b"local TIME = redis.call('HMGET', '%b', 'seconds', 'micros')" % clock_key
        )
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


class PlainScript(Script):
    """A script of the test's own, with the shared texts before it where it asks for that."""

    __slots__ = ()

    def __init__(self, name: str, text: str, *, with_state: bool = False) -> None:
        super().__init__("ack")
        self.name = name
        shared = self.source[: self.source.index(b"-- Forget debits")] if with_state else b""
        self.source = shared + text.encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


DUMP = PlainScript(
    "dump",
    """
    local found = {}
    for i, key in ipairs(KEYS) do
      local kind = redis.call('TYPE', key).ok
      found[i] = kind == 'string' and redis.call('GET', key) or kind == 'hash' and redis.call('HGETALL', key) or false
    end
    return found
    """,
)


def pairs(flat: list[bytes] | None) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}


@dataclass(frozen=True)
class Dump:
    """Every byte that the partition has in Redis."""

    meta: dict[bytes, bytes]
    journal: dict[bytes, bytes]
    installed: dict[bytes, bytes]
    states: dict[str, bytes | None]

    def account(self, account_id: str) -> AccountState | None:
        raw = self.states[account_id]
        return None if raw is None else AccountState.unpack(raw)

    def key(self, key_id: str) -> KeyState | None:
        raw = self.states[key_id]
        return None if raw is None else KeyState.unpack(raw)


class Scripts:
    """One partition. `owners` are the keys' accounts."""

    def __init__(self, redis_url: str, prefix: str, owners: dict[str, str]) -> None:
        self._loop = asyncio.new_event_loop()
        self.keyspace = Keyspace(prefix)
        self._owners = owners
        self._clock = self.keyspace.name(0, "clock")
        self._scripts = {name: ClockedScript(name, self._clock) for name in NAMES}
        self._link = self._loop.run_until_complete(self._connected(redis_url))
        self._meta, self._journal = self.keyspace.meta(0), self.keyspace.journal(0)
        self._installed = self.keyspace.installed(0)

    @staticmethod
    async def _connected(redis_url: str) -> RedisClient:
        link = RedisClient(redis_url, timeout_s=30.0, connect_timeout_s=30.0)
        await link.connect()
        return link

    def close(self) -> None:
        async def end() -> None:
            keys = await self._link.command("KEYS", f"{{{self.keyspace.prefix}0}}*")
            if keys:
                await self._link.command("DEL", *keys)
            await self._link.close()

        self._loop.run_until_complete(end())
        self._loop.close()

    def state_key(self, subject: str) -> bytes:
        owner = self._owners.get(subject)
        return self.keyspace.account(subject) if owner is None else self.keyspace.key(owner, subject)

    def _call(self, name: str, keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> Any:
        return self._loop.run_until_complete(self._link.call(self._scripts[name], keys, arguments))

    def command(self, *command: bytes | str | int) -> Any:
        return self._loop.run_until_complete(self._link.command(*command))

    def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | int] = ()) -> Any:
        return self._loop.run_until_complete(self._link.call(script, keys, arguments))

    def set_clock(self, now_ms: int) -> None:
        self.command("HSET", self._clock, "seconds", now_ms // 1000, "micros", now_ms % 1000 * 1000)

    def dump(self) -> Dump:
        subjects = [*dict.fromkeys(self._owners.values()), *self._owners]
        keys = [self._meta, self._journal, self._installed, *(self.state_key(subject) for subject in subjects)]
        meta, journal, installed, *states = self.run(DUMP, keys)
        return Dump(pairs(meta), pairs(journal), pairs(installed), dict(zip(subjects, states, strict=True)))

    def restore(self, dump: Dump) -> None:
        """Bring back every byte that a dump has."""
        for key, content in ((self._meta, dump.meta), (self._journal, dump.journal), (self._installed, dump.installed)):
            self.command("DEL", key)
            if content:
                self.command("HSET", key, *(part for pair in content.items() for part in pair))
        for subject, raw in dump.states.items():
            if raw is None:
                self.lose(subject)
            else:
                self.command("SET", self.state_key(subject), raw)

    def lose(self, subject: str) -> None:
        self.command("DEL", self.state_key(subject))

    def set_open(self, epoch: int) -> int:
        joined = self.keyspace.joined(0)
        reply: int = self._call("join", [self._meta, joined, self._installed], [epoch, "gateway", 0, 0, "gateway"])[0]
        return reply

    # The scripts, with their arguments packed as the product packs them

    def hot(
        self,
        epoch: int,
        max_unsettled: int,
        items: Sequence[Admission | Settlement | Void],
        elastic: tuple[int, int] = (1_000_000, 0),
    ) -> list[Any]:
        keys = [self._meta, self._journal]
        places: dict[bytes, int] = {}
        arguments = [BATCH.pack(epoch, max_unsettled, *elastic)]
        for item in items:
            at = []
            for subject in (item.names.account, item.names.key):
                key = self.state_key(subject)
                if key not in places:
                    keys.append(key)
                    places[key] = len(keys)
                at.append(places[key])
            arguments.append(_pack_item(item, at[0], at[1]))
        replies: list[Any] = self._call("hot", keys, arguments)
        return replies

    def fence(self, epoch: int, identity: str) -> int:
        reply: int = self._call(
            "fence", [self._meta, self.keyspace.joined(0), self._installed], [epoch, identity, "ledger", 0]
        )
        return reply

    def install(self, epoch: int, account: Account, key: Subject | None) -> int:
        keys = [self._meta, self._installed, self.state_key(account.id)]
        arguments: list[bytes | str | int] = [epoch, account.id, packed_account(account), I8.pack(account.xseq)]
        if key is not None:
            keys.append(self.state_key(key.id))
            arguments += [key.id, packed_key(key)]
        reply: int = self._call("install", keys, arguments)
        return reply

    def adopt(
        self, epoch: int, account_id: str, key_id: str | None, version: int, token: str, quotas: Sequence[Quota]
    ) -> list[int]:
        keys = [self._meta, self._journal, self.state_key(account_id), self._installed]
        if key_id is not None:
            keys.append(self.state_key(key_id))
        packed = [
            quota.tag.to_bytes(4, "little") + pack_text(quota.model or "") + pack_text(quota.feature)
            for quota in quotas
        ]
        head, tail = [epoch, key_id or account_id, version, token], ["key" if key_id else "account", 0, *packed]
        reply: list[int] = self._call("adopt", keys, [*head, 0, b"", *tail])
        if reply == [3]:
            journal = pairs(self.run(DUMP, [self._journal])[0])
            reply = self._call("adopt", keys, [*head, 1, b"".join(journal), *tail])
            assert reply != [3]
        return reply

    def retime(self, epoch: int, account_id: str, hold_version: int, latest_s: int, ledger_ms: int) -> int:
        keys = [self._meta, self.state_key(account_id)]
        reply: int = self._call("retime", keys, [epoch, hold_version, latest_s, ledger_ms])
        return reply

    def fill(self, epoch: int, subject: str, token: str, bases: Sequence[tuple[int, int, int]]) -> int:
        kind = "key" if subject in self._owners else "account"
        packed = b"".join(BASE.pack(*base) for base in bases)
        keys = [self._meta, self._installed, self.state_key(subject)]
        reply: int = self._call("fill", keys, [epoch, subject, token, kind, packed])
        return reply

    def apply(self, epoch: int, account_id: str, after: int, rows: Sequence[Correction]) -> list[int]:
        keys = [self._meta, self._journal, self.state_key(account_id)]
        arguments: list[bytes | int] = [epoch, I8.pack(after)]
        for row in rows:
            place = 0
            if row.key is not None:
                state = self.state_key(row.key)
                if state not in keys:
                    keys.append(state)
                place = keys.index(state) + 1
            arguments.append(_pack_correction(row, place))
        reply: list[int] = self._call("apply", keys, arguments)
        return reply

    def ack(self, epoch: int, rows: Sequence[tuple[str, str, int | None]]) -> list[Any]:
        keys = [self._meta, self._journal]
        arguments: list[bytes | int] = [epoch]
        for request_id, account_id, xseq in rows:
            place = 0
            if xseq is not None:
                state = self.state_key(account_id)
                if state not in keys:
                    keys.append(state)
                place = keys.index(state) + 1
            arguments.append(ACK.pack(request_id.encode(), place, xseq or 0))
        first, *staying = self._call("ack", keys, arguments)
        return [first, *(request_id.decode() for request_id in staying)]

    def claim(self, epoch: int, request_id: str) -> list[Any]:
        reply: list[Any] = self._call("claim", [self._meta, self._journal], [epoch, request_id])
        return [reply[0], unpacked(reply[1])] if reply[0] == 0 else reply

    def drop(self, epoch: int, request_id: str, names: Names, xseq: int) -> int:
        keys = [self._meta, self._journal, self.state_key(names.account), self.state_key(names.key)]
        reply: int = self._call("drop", keys, [epoch, request_id, I8.pack(xseq)])
        return reply

    def rehold(self, epoch: int, request_id: str, hold: Hold) -> int:
        names = hold.names
        packed = pack_hold(
            epoch,
            hold.at_ms,
            (hold.amounts.cost, hold.amounts.input, hold.amounts.output),
            packed_names(names),
            HoldTags(sorted(hold.account_tags), sorted(hold.key_tags)),
            hold.payload,
        )
        keys = [self._meta, self._journal, self.state_key(names.account), self.state_key(names.key)]
        reply: int = self._call("rehold", keys, [epoch, request_id, packed])
        return reply


def unpacked(raw: bytes) -> Entry:
    """An entry with its tags in order."""
    entry = Entry.unpack(raw)
    return replace(entry, account_tags=tuple(sorted(entry.account_tags)), key_tags=tuple(sorted(entry.key_tags)))


def packed_names(names: Names) -> bytes:
    return b"".join(map(pack_text, (names.account, names.key, names.model, names.feature, names.gateway)))


def packed_account(account: Account) -> bytes:
    """A fresh account: nothing held."""
    return AccountState(
        account.epoch,
        account.balance,
        0,
        account.dseq,
        account.xseq,
        0,
        account.version,
        account.now_s,
        0,
        _fresh_counters(account),
    ).pack()


def packed_key(key: Subject) -> bytes:
    return KeyState(key.epoch, key.version, 0, _fresh_counters(key)).pack()


def _fresh_counters(subject: Subject) -> tuple[Counter, ...]:
    return tuple(Counter(tag, window.window_id, window.base) for tag, window in subject.windows.items())


def _pack_item(item: Admission | Settlement | Void, account_place: int, key_place: int) -> bytes:
    code = {Admission: 1, Settlement: 2, Void: 3}[type(item)]
    head = ITEM.pack(code, item.id.encode(), account_place, key_place)
    match item:
        case Admission():
            body = ADMIT.pack(
                *item.versions,
                item.credit,
                item.input_cost,
                item.unit,
                item.input,
                item.choices,
                item.least,
                item.most,
                item.not_after_ms,
                *item.max_running,
                len(item.ladder),
            ) + b"".join(RUNG.pack(*rung) for rung in item.ladder)
            limits = [tuple(Limit("key", quota) for quota in quotas) for quotas in item.limits]
            names = packed_names(item.names)
            limited = b"".join(map(pack_limits, limits)) + len(names).to_bytes(2, "little")
            return head + body + limited + names + item.payload
        case Settlement():
            used = item.amounts
            return head + SETTLE.pack(used.cost, used.input, used.output) + item.payload
        case Void():
            return head


def _pack_correction(row: Correction, place: int) -> bytes:
    used = row.amounts
    head = CORRECTION_HEAD.pack(
        row.xseq,
        row.delta,
        row.request.encode() if row.request is not None else NO_REQUEST,
        place,
        0,
        row.at_ms,
        used.requests,
        used.input,
        used.output,
        used.cost,
    )
    return head + pack_tags(sorted(row.account_tags)) + pack_tags(sorted(row.key_tags)) + pack_tags(())
