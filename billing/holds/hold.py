"""One request's hold and the items by which it is admitted, settled and voided.

This file owns the life of a hold in this process: it ends exactly once. A settlement that Redis does not confirm goes
the ledger's own way (rule R4); what a reply does to the debit happens when the reply comes, whether or not anyone still
waits, so that a cancelled request loses nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from billing.errors import MetergateError
from billing.holds.decision import Need
from billing.holds.partitions import Partition
from billing.holds.redis import RedisAway, RedisError, RedisTimeout
from billing.holds.redis.layout import ITEM, OK, SETTLE, VANISHED, pack_hold
from billing.ledger.debits import Debit, Outcome, encode_debit
from billing.principals import Principal, QuotaLimits

ADMIT_CODE: Final = 1
SETTLE_CODE: Final = 2
VOID_CODE: Final = 3


class SettlementLost(MetergateError):
    """Neither Redis nor Postgres could be told of a debit in time: its answer must not end as a whole one."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The debit is outside this process. `available_nano` is None where Redis did not say."""

    available_nano: int | None


class AdmissionTarget:
    """What all holds of one key on one model have in common: the account's and the key's place in Redis, the account's
    partition, the limits, and the `names` that a journal entry carries."""

    __slots__ = (
        "account_key",
        "key_key",
        "limits",
        "most_running",
        "names",
        "partition",
        "tail",
        "versions_and_credit",
    )

    def __init__(
        self,
        principal: Principal,
        account_key: bytes,
        key_key: bytes,
        partition: Partition,
        limits: QuotaLimits,
        names: bytes,
    ) -> None:
        self.account_key = account_key
        self.key_key = key_key
        self.partition = partition
        self.limits = limits
        self.names = names
        self.versions_and_credit = (principal.account_version, principal.key_version, principal.credit_limit_nano)
        self.most_running = (principal.plan.max_parallel_requests or 0, principal.max_parallel_requests or 0)
        self.tail = limits.packed + len(names).to_bytes(2, "little") + names
        """What an admission ends with, but for its payload."""


class AdmitItem:
    """An admission on its way to Redis, packed. `on_unknown` is told where it may have been carried out or not,
    and where it was and nobody waits for it any more."""

    __slots__ = ("account_key", "answer", "body", "id", "key_key", "on_unknown", "place")

    def __init__(
        self,
        request_id: bytes,
        place: AdmissionTarget,
        body: bytes,
        answer: "asyncio.Future[tuple[list[Any] | RedisError, int]]",
        on_unknown: "Callable[[AdmitItem], None]",
    ) -> None:
        self.id = request_id
        self.place = place
        self.account_key = place.account_key
        self.key_key = place.key_key
        self.body = body
        self.answer = answer
        self.on_unknown = on_unknown

    def pack(self, account_place: int, key_place: int) -> bytes:
        return ITEM.pack(ADMIT_CODE, self.id, account_place, key_place) + self.body

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        if not self.answer.done():
            self.answer.set_result((reply, epoch))
        elif not isinstance(reply, RedisError) and reply[0] == OK:
            self.on_unknown(self)  # whoever asked is gone: the hold that this made is given back
        if isinstance(reply, RedisAway | RedisTimeout):  # other errors did nothing, and the same id may be asked again
            self.on_unknown(self)

    def abandon(self) -> None:
        """Whoever asked will not look at the answer: what it holds is given back, here where it has come already, by
        `resolve` when it comes."""
        if self.answer.cancel() or self.answer.cancelled():
            return
        reply, _ = self.answer.result()
        if not isinstance(reply, RedisError) and reply[0] == OK:
            self.on_unknown(self)


class SettleItem:
    """A settlement on its way to Redis. `on_reply` gets what came of it, exactly once; `outcome` is for whoever waits.

    It is packed when it is made: a debit that can't be must fail whoever settles it, and not the items beside it.
    """

    __slots__ = ("account_key", "body", "debit", "hold", "id", "key_key", "on_reply", "outcome")

    def __init__(
        self,
        hold: "Hold",
        debit: Debit,
        outcome: "asyncio.Future[Settled]",
        on_reply: "Callable[[SettleItem, list[Any] | RedisError, int], None]",
    ) -> None:
        self.hold = hold
        self.debit = debit
        self.outcome = outcome
        self.on_reply = on_reply
        self.id, self.account_key, self.key_key = hold.id_bytes, hold.place.account_key, hold.place.key_key
        self.body = SETTLE.pack(debit.charged_nano, debit.input_tokens, debit.output_tokens) + encode_debit(debit)

    def pack(self, account_place: int, key_place: int) -> bytes:
        return ITEM.pack(SETTLE_CODE, self.id, account_place, key_place) + self.body

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        self.on_reply(self, reply, epoch)


class VoidItem:
    """A void on its way to Redis; `answer` is whether the hold was there to be given back, None when unknown.
    `vanished_in` is the epoch in which Redis had no entry of it at all."""

    __slots__ = ("account_key", "answer", "id", "key_key", "vanished_in")

    def __init__(self, request_id: bytes, account_key: bytes, key_key: bytes) -> None:
        self.id, self.account_key, self.key_key = request_id, account_key, key_key
        self.answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self.vanished_in: int | None = None

    def pack(self, account_place: int, key_place: int) -> bytes:
        return ITEM.pack(VOID_CODE, self.id, account_place, key_place)

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        if reply == VANISHED:
            self.vanished_in = epoch
        if not self.answer.done():
            self.answer.set_result(None if isinstance(reply, RedisError) else reply[0] == 0)


class Hold:
    """A hold that was admitted: settle or void it, once. `granted_output` is the most output tokens of one choice.

    Epoch is that in which Redis has it; holding again in a new epoch moves it. `ending` says that it is being settled
    or voided, `handed_over` that a task has taken it from the request that opened it. `unresolved` makes the debit that
    it is settled as where whoever serves it fails without having ended it: set once a provider has worked for it. None:
    it is given back. `outcome` is that of its settlement, once that has begun. `waited_s` is how long it has waited for
    others to end. `on_closed` is told where the ledger turns out to have closed it while it was served.
    """

    __slots__ = (
        "admitted_at_ms",
        "available_nano",
        "cost_nano",
        "ending",
        "epoch",
        "granted_output",
        "handed_over",
        "id",
        "id_bytes",
        "minute_used",
        "need",
        "on_closed",
        "outcome",
        "payload",
        "place",
        "reholding",
        "unresolved",
        "waited_s",
    )

    def __init__(
        self,
        request_id: str,
        id_bytes: bytes,
        place: AdmissionTarget,
        need: Need,
        payload: bytes,
        reply: list[Any],
        epoch: int,
    ) -> None:
        self.id = request_id
        self.id_bytes = id_bytes
        self.place = place
        self.need = need
        self.payload = payload
        self.epoch = epoch
        self.granted_output: int = reply[1]
        self.admitted_at_ms: int = reply[2]
        self.available_nano: int = reply[3]
        self.minute_used: list[int] = reply[4:]
        self.cost_nano = need.input_cost_nano + need.unit_nano * self.granted_output
        self.waited_s = 0.0
        self.ending = False
        self.handed_over = False
        self.reholding: asyncio.Future[None] | None = None
        self.unresolved: Callable[[Hold], Debit] | None = None
        self.outcome: asyncio.Future[Settled] | None = None
        self.on_closed: Callable[[], None] | None = None

    def closed(self, outcome: Outcome) -> None:
        """The ledger has a row of it. One that expired, because another gateway took this one for dead, can't be
        charged for what it serves."""
        if outcome == "expired" and self.on_closed is not None and not self.ending:
            self.on_closed()

    def __repr__(self) -> str:
        return f"Hold({self.id})"

    @property
    def output_tokens(self) -> int:
        """Output tokens held, of all choices."""
        return self.need.choices * self.granted_output

    @property
    def tokens(self) -> int:
        """Tokens held, of input and output."""
        return self.need.input_tokens + self.need.choices * self.granted_output

    def entry(self, epoch: int, tags: tuple[Sequence[int], Sequence[int]]) -> bytes:
        """The journal's entry of this hold, as it stands in another epoch, in these counters of account and key."""
        amounts = (self.cost_nano, self.need.input_tokens, self.output_tokens)
        return pack_hold(epoch, self.admitted_at_ms, amounts, self.place.names, tags, self.payload)


def at_place(debit: Debit, epoch: int, dseq: int) -> Debit:
    """The debit with the place that Redis gave it."""
    return msgspec.structs.replace(debit, epoch=epoch, dseq=dseq)
