"""The names of keys in Redis, and the packed layout of what they hold, on Python's side (`lua/_state.lua` is the
other).

All that one admission or settlement touches has one hash tag, `{<prefix><partition>}`, and so one slot in a cluster.
The name of a state says the version of its layout: a release finds no bytes there that it can't read.

Integers are little-endian; amounts are nano-USD, times Unix milliseconds unless the name says `_s`. An entry of the
journal begins with the version of its layout, its state, its epoch and its time: these 14 bytes stay what they are in
every version, so that a release knows how old an entry is that it can't read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from billing.errors import NewerLayout, Unreadable

if TYPE_CHECKING:
    pass

# Of accounts and keys. A state of another version is as one that is gone: `install` finds that writes are lost, and a
# new epoch loads everything again.
STATE_VERSION: Final = 2
VERSION: Final = 1
# Versions of an entry: plain, and of a hold that counts for a user, too, whose tags it has.
OF_USER: Final = 2
NEWEST: Final = bytes((OF_USER,))
HELD: Final = ord("H")
SETTLED: Final = ord("S")
CLAIMED: Final = ord("E")
_STATES: Final = (HELD, SETTLED, CLAIMED)
PENDING: Final = 1 << 31
NO_REQUEST: Final = b" " * 26
# How far an account's time may be ahead of its server's clock, and that of Postgres's, before one of them is wrong.
AHEAD_S: Final = 3600
# How far an account's time may be ahead of its server's clock without being set right when a window is exhausted.
STEP_S: Final = 60

_ACCOUNT: Final = struct.Struct("<BIqqqqqIIIB")
_KEY: Final = struct.Struct("<BIIIB")
_ENTRY: Final = struct.Struct("<BBIq")
_AMOUNTS: Final = struct.Struct("<qqq")
_DSEQ: Final = struct.Struct("<q")

# What `hot.lua` answers to an item.
OK, BALANCE, QUOTA, CONCURRENCY, MISSING, RELOAD, PUSH, WAITING, CLOSED, LATE, FULL, GONE, USER = range(13)
# What it answers where a hold should be and no entry is: Redis has lost it, unless the ledger has closed it.
VANISHED: Final = [GONE, 0]

# What every item of the hot path begins with; a void is no more.
ITEM: Final = struct.Struct("<B26sHH")
# The same for an item that counts for a user, too.
ITEM_OF_USER: Final = struct.Struct("<B26sHHH")
ADMIT: Final = struct.Struct("<IIqqqqIIIqIIB")
# Input tokens and cost with one more call granted; as many follow as the last byte of `ADMIT` says.
RUNG: Final = struct.Struct("<qq")
SETTLE: Final = struct.Struct("<qqq")
BATCH: Final = struct.Struct("<IIII")
ACK: Final = struct.Struct("<26sHq")
CORRECTION: Final = struct.Struct("<qq26sHHqqqqq")
I8: Final = struct.Struct("<q")
COUNTER: Final = struct.Struct("<IIqq")
# A counter as `fill` gets it: tag, window id, used.
BASE: Final = struct.Struct("<IIq")
# Of a state of another version: it is in no epoch that is in force.
NO_EPOCH: Final = -1


@dataclass(frozen=True, slots=True)
class Counter:
    """What a window of a subject has used: settled, and `held` by open holds that were admitted in it. `window_id` says
    which window."""

    tag: int
    window_id: int
    used: int
    held: int = 0

    @property
    def taken(self) -> int:
        """Return what of the limit is gone for now."""
        return self.used + self.held

    @property
    def pending(self) -> bool:
        """Return whether the counter waits for what the ledger had before it."""
        return bool(self.tag & PENDING)


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account as Redis has it. `balance_nano` still has what is held."""

    epoch: int
    balance_nano: int
    held_nano: int
    dseq: int
    xseq: int
    hold_version: int
    principal_version: int
    now_s: int
    running: int
    counters: tuple[Counter, ...]

    def pack(self) -> bytes:
        """Return the state packed, as the scripts read it."""
        head = _ACCOUNT.pack(
            STATE_VERSION,
            self.epoch,
            self.balance_nano,
            self.held_nano,
            self.dseq,
            self.xseq,
            self.hold_version,
            self.principal_version,
            self.now_s,
            self.running,
            len(self.counters),
        )
        return head + _pack_counters(self.counters)

    @classmethod
    def unpack(cls, raw: bytes) -> AccountState:
        """Return the state of packed bytes; an empty one of no epoch for those of another layout."""
        if raw[0] != STATE_VERSION:
            return cls(NO_EPOCH, 0, 0, 0, 0, 0, 0, 0, 0, ())
        _, epoch, balance, held, dseq, xseq, hold_version, version, now_s, running, count = _ACCOUNT.unpack_from(raw)
        counters = _unpack_counters(raw, _ACCOUNT.size, count)
        return cls(epoch, balance, held, dseq, xseq, hold_version, version, now_s, running, counters)


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key as Redis has it, or a user of an account, whose `running` is not counted."""

    epoch: int
    principal_version: int
    running: int
    counters: tuple[Counter, ...]

    def pack(self) -> bytes:
        """Return the state packed, as the scripts read it."""
        head = _KEY.pack(STATE_VERSION, self.epoch, self.principal_version, self.running, len(self.counters))
        return head + _pack_counters(self.counters)

    @classmethod
    def unpack(cls, raw: bytes) -> KeyState:
        """Return the state of packed bytes; an empty one of no epoch for those of another layout."""
        if raw[0] != STATE_VERSION:
            return cls(NO_EPOCH, 0, 0, ())
        _, epoch, version, running, count = _KEY.unpack_from(raw)
        return cls(epoch, version, running, _unpack_counters(raw, _KEY.size, count))


def _pack_counters(counters: Sequence[Counter]) -> bytes:
    return b"".join(COUNTER.pack(counter.tag, counter.window_id, counter.used, counter.held) for counter in counters)


def _unpack_counters(raw: bytes, start: int, count: int) -> tuple[Counter, ...]:
    return tuple(Counter(*COUNTER.unpack_from(raw, start + index * COUNTER.size)) for index in range(count))


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal entry. Settled ones have `dseq`; held and claimed ones the amounts and names of their hold."""

    state: int
    epoch: int
    at_ms: int
    account_id: str
    payload: bytes
    dseq: int = 0
    cost_nano: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    key_id: str = ""
    gateway: str = ""
    account_tags: tuple[int, ...] = ()
    key_tags: tuple[int, ...] = ()
    # None where the hold counts for no user.
    user_tags: tuple[int, ...] | None = None

    @classmethod
    def unpack(cls, raw: bytes) -> Entry:
        """Raise `NewerLayout` for an entry of a newer release, `Unreadable` for what is none."""
        if raw[:1] > NEWEST and len(raw) >= _ENTRY.size:
            raise NewerLayout(f"an entry of layout {raw[0]}")
        try:
            version, state, epoch, at_ms = _ENTRY.unpack_from(raw)
            if not VERSION <= version <= OF_USER or state not in _STATES:
                raise Unreadable(f"an entry of layout {version} and state {state}")
            if state == SETTLED:
                return cls._settled(raw, epoch, at_ms)
            return cls._open(raw, state, epoch, at_ms, of_user=version == OF_USER)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise Unreadable(f"an entry of {len(raw)} bytes: {error}") from error

    @classmethod
    def _settled(cls, raw: bytes, epoch: int, at_ms: int) -> Entry:
        (dseq,) = _DSEQ.unpack_from(raw, _ENTRY.size)
        account_id, at = _text(raw, _ENTRY.size + _DSEQ.size)
        return cls(SETTLED, epoch, at_ms, account_id, raw[at:], dseq=dseq)

    @classmethod
    def _open(cls, raw: bytes, state: int, epoch: int, at_ms: int, *, of_user: bool) -> Entry:
        cost, input_tokens, output_tokens = _AMOUNTS.unpack_from(raw, _ENTRY.size)
        account_id, at = _text(raw, _ENTRY.size + _AMOUNTS.size)
        key_id, at = _text(raw, at)
        _, at = _text(raw, at)
        _, at = _text(raw, at)
        gateway, at = _text(raw, at)
        account_tags, at = _tags(raw, at)
        key_tags, at = _tags(raw, at)
        user_tags: tuple[int, ...] | None = None
        if of_user:
            user_tags, at = _tags(raw, at)
        return cls(
            state,
            epoch,
            at_ms,
            account_id,
            raw[at:],
            cost_nano=cost,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            key_id=key_id,
            gateway=gateway,
            account_tags=account_tags,
            key_tags=key_tags,
            user_tags=user_tags,
        )


def entry_at_ms(raw: bytes) -> int:
    """Return when an entry of whatever layout was written; 0 where it does not say."""
    return int(_ENTRY.unpack_from(raw)[3]) if len(raw) >= _ENTRY.size else 0


def _text(raw: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + raw[at]
    if end > len(raw):
        raise IndexError(f"a text ends at {end}")
    return raw[at + 1 : end].decode(), end


def _tags(raw: bytes, at: int) -> tuple[tuple[int, ...], int]:
    count, at = raw[at], at + 1
    return struct.unpack_from(f"<{count}I", raw, at), at + 4 * count


def pack_text(text: str) -> bytes:
    """Pack a length (u8) and the text's UTF-8; names are bounded below 256 bytes where they are made."""
    raw = text.encode()
    return bytes((len(raw),)) + raw


def pack_tags(tags: Sequence[int]) -> bytes:
    """Pack a count (u8), then the tags (u32)."""
    return struct.pack(f"<B{len(tags)}I", len(tags), *tags)


class HoldTags(NamedTuple):
    """The counters that a hold is in: of its account, its key, and its user; None where it counts for none."""

    account: Sequence[int] = ()
    key: Sequence[int] = ()
    user: Sequence[int] | None = None


def pack_hold(
    epoch: int,
    at_ms: int,
    amounts: tuple[int, int, int],
    names: bytes,
    tags: HoldTags,
    payload: bytes,
) -> bytes:
    """Return an entry H as the admission wrote it: `amounts` are cost, input and output tokens."""
    return b"".join(
        (
            _ENTRY.pack(VERSION if tags.user is None else OF_USER, HELD, epoch, at_ms),
            _AMOUNTS.pack(*amounts),
            names,
            pack_tags(tags.account),
            pack_tags(tags.key),
            b"" if tags.user is None else pack_tags(tags.user),
            payload,
        )
    )


DEFAULT_PREFIX: Final = "m"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Names of keys for a prefix and a number of partitions, which is fixed once for an installation."""

    prefix: str = DEFAULT_PREFIX
    partitions: int = 1

    def partition_of(self, account_id: str) -> int:
        """Return the number of the partition of an account."""
        return zlib.crc32(account_id.encode()) % self.partitions

    def name(self, partition: int, rest: str) -> bytes:
        """Return the name of a key of a partition, with its hash tag."""
        return f"{{{self.prefix}{partition}}}:{rest}".encode()

    def meta(self, partition: int) -> bytes:
        """Return the name of the hash: epoch, identity, open."""
        return self.name(partition, "meta")

    def journal(self, partition: int) -> bytes:
        """Return the name of the hash: request id to entry."""
        return self.name(partition, "journal")

    def installed(self, partition: int) -> bytes:
        """Return the name of the hash: subject to the epoch in which it was installed."""
        return self.name(partition, "installed")

    def joined(self, partition: int) -> bytes:
        """Return the name of the set: gateways that are ready for the epoch."""
        return self.name(partition, "joined")

    def account(self, account_id: str) -> bytes:
        """Return the name of the state of an account."""
        return self.name(self.partition_of(account_id), f"a{STATE_VERSION}:{account_id}")

    def key(self, account_id: str, key_id: str) -> bytes:
        """Return the name of the state of an API key."""
        return self.name(self.partition_of(account_id), f"k{STATE_VERSION}:{key_id}")

    def user(self, account_id: str, user_id: str) -> bytes:
        """Return the name of the state of a user of an account; a user has one in each account."""
        return self.name(self.partition_of(account_id), f"u{STATE_VERSION}:{account_id}/{user_id}")

    @property
    def attempts(self) -> bytes:
        """Return the name of the hash: address to its failed attempts to show a key."""
        return self.name(0, "attempts")

    @property
    def refused(self) -> bytes:
        """Return the name of the sorted set: API key to the time of its last refusal."""
        return self.name(0, "refused")

    def refused_of(self, key_id: str) -> bytes:
        """Return the key of the list of the last refusals of an API key."""
        return self.name(0, f"refused:{key_id}")

    @property
    def targets(self) -> bytes:
        """Return the name of the hash: target of a provider that is not well to the end of its cool-down."""
        return self.name(0, "targets")

    @property
    def target_channel(self) -> str:
        """Return the channel on which changes of targets are published."""
        return f"{self.prefix}:targets"

    @property
    def channel(self) -> str:
        """Return the channel on which changes of principals are published."""
        return f"{self.prefix}:changes"
