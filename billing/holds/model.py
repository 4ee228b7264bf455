"""What admission is asked and what it decides, as values. Pure.

`Held` is a yes. `Refused` is a no that changed nothing: the balance, exhausted windows, too many at once. `Unavailable`
means that nothing could be decided. `Reload` stays within admission, which then reads the principal anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from billing.errors import MetergateError
from billing.holds.redis import layout
from billing.holds.redis.connection import RedisAway, RedisError, RedisTimeout
from billing.holds.redis.layout import ADMIT, ITEM, ITEM_OF_USER, OK, RUNG, SETTLE, VANISHED, pack_hold, pack_text
from billing.ledger.debits import Debit, encode_debit
from billing.money import MAX_NANO
from billing.plans import MAX_TOOL_CALLS
from billing.quotas import Metric

if TYPE_CHECKING:
    from billing.holds.partition import Partition
    from billing.holds.redis.layout import HoldTags, Keyspace
    from billing.ledger.debits import Debit, Outcome
    from billing.principals import Limit, Principal, QuotaLimits

logger = logging.getLogger(__name__)

MAX_OUTPUT_TOKENS: Final = 2**31 - 1


class NeedTooLarge(MetergateError, ValueError):
    """A worst case beyond 2^53 - 1 nano-USD or tokens: it can't be held, nor ever be paid."""


class Need(msgspec.Struct, frozen=True, gc=False):
    """The most that a request can use. `input_tokens` and `input_cost_nano` are for all choices together;
    `unit_nano` is the cost of one output token of every choice; output bounds are for one choice.

    `ladder` is of requests that may be granted more than one call of tools at the provider: input tokens and cost with
    two calls, with three, and so on, none below the one before it. The dearest that fits is held."""

    input_tokens: int
    input_cost_nano: int
    unit_nano: int
    choices: int
    least_output: int
    most_output: int
    ladder: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.least_output <= self.most_output <= MAX_OUTPUT_TOKENS:
            raise NeedTooLarge("the maximum of output tokens is out of bounds")
        if self.choices < 1 or min(self.input_tokens, self.input_cost_nano, self.unit_nano) < 0:
            raise ValueError("a need counts up from zero, and from one choice")
        worst = self.input_cost_nano + self.unit_nano * self.most_output
        if max(worst, self.input_tokens + self.choices * self.most_output) > MAX_NANO:
            raise NeedTooLarge("the worst case of this request is beyond 2^53 - 1 nano-USD or tokens")
        if self.ladder:
            self._check_ladder()

    def _check_ladder(self) -> None:
        before = (self.input_tokens, self.input_cost_nano)
        for tokens, cost_nano in self.ladder:
            if tokens < before[0] or cost_nano < before[1]:
                raise ValueError("a further call makes no input smaller")
            before = (tokens, cost_nano)
        if len(self.ladder) >= MAX_TOOL_CALLS:
            raise ValueError(f"at most {MAX_TOOL_CALLS} calls can be granted")
        worst = before[1] + self.unit_nano * self.most_output
        if max(worst, before[0] + self.choices * self.most_output) > MAX_NANO:
            raise NeedTooLarge("the worst case of this request is beyond 2^53 - 1 nano-USD or tokens")

    def with_calls(self, calls: int) -> Need:
        """Return the need of so many granted calls, one at least, which leaves nothing to choose."""
        if not self.ladder:
            return self
        tokens, cost_nano = (self.input_tokens, self.input_cost_nano) if calls == 1 else self.ladder[calls - 2]
        return Need(tokens, cost_nano, self.unit_nano, self.choices, self.least_output, self.most_output)

    def fitting_output(self, metric: Metric, free: int) -> int:
        """Return the most output tokens of one choice that this much of a metric is enough for beside the input; 0
        where it is not enough for the input, or output does not count in the metric."""
        match metric:
            case Metric.cost:
                left, rate = free - self.input_cost_nano, self.unit_nano
            case Metric.tokens:
                left, rate = free - self.input_tokens, self.choices
            case Metric.output_tokens:
                left, rate = free, self.choices
            case _:
                return 0
        return max(0, left // rate) if rate and self.most_output else 0

    def least(self, metric: Metric) -> int:
        """Return the least that is needed of a metric, with one granted call."""
        match metric:
            case Metric.requests:
                return 1
            case Metric.cost:
                return self.input_cost_nano + self.unit_nano * self.least_output
            case Metric.tokens:
                return self.input_tokens + self.choices * self.least_output
            case Metric.input_tokens:
                return self.input_tokens
            case Metric.output_tokens:
                return self.choices * self.least_output

    def ever_fits(self, limits: QuotaLimits) -> bool:
        """Return whether every limit would take this if nothing of it were used."""
        return all(
            self.least(limit.quota.metric) <= limit.quota.limit
            for subject in (limits.account, limits.key, limits.user)
            for limit in subject
        )


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A counter that can't take the request: `used` of its limit is settled, `held` by running requests; `requested` is
    the least that it needs."""

    limit: Limit
    used: int
    held: int
    requested: int

    @property
    def is_held(self) -> bool:
        """Return whether the request would fit if nothing ran."""
        return self.used + self.requested <= self.limit.quota.limit

    @property
    def never_fits(self) -> bool:
        """Return whether the request is larger than the whole limit."""
        return self.requested > self.limit.quota.limit


@dataclass(frozen=True, slots=True)
class InsufficientBalance:
    """The balance less holds plus credit limit is below what the request needs at least; `held_nano` are the holds.
    `fitting_output` are the output tokens of one choice that would fit now: 0 where the input does not."""

    available_nano: int
    required_nano: int
    held_nano: int
    fitting_output: int = 0

    @property
    def is_held(self) -> bool:
        """Return whether the request would fit if nothing ran."""
        return self.available_nano + self.held_nano >= self.required_nano


@dataclass(frozen=True, slots=True)
class QuotaExceeded:
    """Every exhausted counter, at Redis's time. `fitting_output` are the output tokens of one choice that would fit in
    all of them now, and `fitting_ever` those that would if nothing ran, or if that is not enough for any, in windows of
    which nothing is used: 0 each where the input does not."""

    exhausted: tuple[Exhausted, ...]
    at_ms: int
    fitting_output: int = 0
    fitting_ever: int = 0

    @property
    def is_held(self) -> bool:
        """Return whether the request would fit if nothing ran."""
        return all(each.is_held for each in self.exhausted)


@dataclass(frozen=True, slots=True)
class TooManyRunning:
    """`max_parallel_requests` of the key, or of the plan, is reached."""

    subject: str
    is_held: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nothing could be decided: Redis or Postgres away, an epoch that is not open yet, or a full backlog."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reload:
    """The principal, or what else the request was made from, has changed since it was read."""


Refused = InsufficientBalance | QuotaExceeded | TooManyRunning


def refusal(reply: list[Any], limits: QuotaLimits, need: Need) -> Refused:
    """Return what an admission's reply of `layout.BALANCE`, `layout.QUOTA` or `layout.CONCURRENCY` says."""
    if reply[0] == layout.BALANCE:
        _, available, required, held = reply
        return InsufficientBalance(available, required, held, need.fitting_output(Metric.cost, available))
    if reply[0] == layout.CONCURRENCY:
        return TooManyRunning("key" if reply[1] else "plan")
    exhausted, fitting, unheld, empty = [], [], [], []
    for start in range(2, len(reply), 5):
        subject, index, used, held, requested = reply[start : start + 5]
        limit = (limits.account, limits.key, limits.user)[subject][index]
        exhausted.append(Exhausted(limit, used, held, requested))
        metric, most = limit.quota.metric, limit.quota.limit
        fitting.append(need.fitting_output(metric, most - used - held))
        unheld.append(need.fitting_output(metric, most - used))
        empty.append(need.fitting_output(metric, most))
    return QuotaExceeded(tuple(exhausted), reply[1], min(fitting), min(unheld) or min(empty))


# --- One request's hold in this process, as a state machine; and all the holds of this process (`RunningHolds`).
#
# This file owns the life of a hold: `NEXT` is the one table of its states and of what may follow each; every change
# goes
# through it, and one that it does not list raises `IllegalTransition`. So a hold ends exactly once. A settlement that
# Redis does not confirm goes the ledger's own way (rule R4) and stays `settling` until the ledger has it.
#
# held         admitted, and nothing to be paid for has been done. Left open, it is given back.
# owed         a provider has worked for it. Left open, it is settled as the debit that `owed_debit` makes.
# handed_over  a task of this process serves it in place of the request that opened it. Left open, it ends as above.
# settling     its debit is on its way to Redis or to the ledger.
# settled      its debit is outside this process.
# refused      the ledger did not take its debit: the hold had expired there, or the debit was set aside.
# voided       it is given back; where Redis does not answer, the sweep gives it back.
# lasting      a row in Postgres holds it from now on, in place of this process (`billing.holds.lasting`).
#
# Beside these, a hold in an open state is `moving` while it is held again in a new epoch: settlements and voids that
# are
# asked for meanwhile are sent after that (`Moving`).


State = Literal["held", "owed", "handed_over", "settling", "settled", "refused", "voided", "lasting"]

NEXT: Final[Mapping[State, frozenset[State]]] = {
    "held": frozenset(("owed", "handed_over", "settling", "voided", "lasting")),
    "owed": frozenset(("held", "handed_over", "settling", "voided")),
    "handed_over": frozenset(("settling", "voided", "lasting")),
    "settling": frozenset(("settled", "refused")),
    "settled": frozenset(),
    "refused": frozenset(),
    "voided": frozenset(),
    "lasting": frozenset(),
}
OPEN: Final[frozenset[State]] = frozenset(("held", "owed", "handed_over"))
"""States in which nobody has begun to end the hold."""


class IllegalTransition(MetergateError, RuntimeError):
    """A hold was asked to enter a state that can't follow its own: a fault of the caller's."""


class SettlementLost(MetergateError):
    """Neither Redis nor Postgres could be told of a debit in time: its answer must not end as a whole one."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The debit is outside this process. `available_nano` is None where Redis did not say."""

    available_nano: int | None


class Hold:
    """A hold that was admitted: settle or void it, once. `granted_output` is the most output tokens of one choice,
    `granted_calls` the most calls of tools at the provider, where the request left them open; `need` is with so many.

    `epoch` is that in which Redis has it; holding again in a new epoch moves it. `outcome` is that of its settlement,
    once that has begun. `waited_s` is how long the request waited before the question that it was admitted by.
    `on_closed` is called where the ledger turns out to have closed it while it was served.
    """

    __slots__ = (
        "_state",
        "admitted_at_ms",
        "available_nano",
        "cost_nano",
        "epoch",
        "granted_calls",
        "granted_output",
        "id",
        "id_bytes",
        "minute_used",
        "moving",
        "need",
        "on_closed",
        "outcome",
        "owed_debit",
        "payload",
        "target",
        "waited_s",
    )

    def __init__(
        self,
        request_id: str,
        id_bytes: bytes,
        target: AdmissionTarget,
        need: Need,
        payload: bytes,
        reply: list[Any],
        epoch: int,
    ) -> None:
        """Take what Redis has answered to an admission, from its second field on: output tokens granted, time in Unix
        milliseconds, nano-USD available, the rung of the need's ladder, and what is used of the limits by the
        minute."""
        self.id = request_id
        self.id_bytes = id_bytes
        self.target = target
        self.granted_calls: int = reply[4] + 1
        self.need = need = need.with_calls(self.granted_calls)
        self.payload = payload
        self.epoch = epoch
        self.granted_output: int = reply[1]
        self.admitted_at_ms: int = reply[2]
        self.available_nano: int = reply[3]
        self.minute_used: list[int] = reply[5:]
        self.cost_nano = need.input_cost_nano + need.unit_nano * self.granted_output
        self.waited_s = 0.0
        self._state: State = "held"
        self.moving: asyncio.Future[None] | None = None
        self.owed_debit: Callable[[Hold], Debit] | None = None
        self.outcome: asyncio.Future[Settled] | None = None
        self.on_closed: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"Hold({self.id}, {self._state})"

    @property
    def state(self) -> State:
        """Return the state, as listed at the top of this file."""
        return self._state

    @property
    def is_open(self) -> bool:
        """Return whether nobody has begun to end it."""
        return self._state in OPEN

    def enter(self, state: State) -> None:
        """Enter a state that carries nothing with it. Raises `IllegalTransition`, as the other changes of state do."""
        if state not in NEXT[self._state]:
            raise self._illegal(state)
        self._state = state

    def owe(self, debit: Callable[[Hold], Debit]) -> None:
        """Record that a provider has worked for it; `debit` makes the debit by which it is settled if nothing else ends
        it."""
        if "owed" not in NEXT[self._state]:
            raise self._illegal("owed")
        self._state = "owed"
        self.owed_debit = debit

    def owe_nothing(self) -> None:
        """Note that the provider has refused the request after all: nothing is to be paid."""
        self.enter("held")
        self.owed_debit = None

    def begin_settling(self, outcome: asyncio.Future[Settled]) -> None:
        """Note that its debit is on its way; `outcome` becomes what comes of that."""
        if "settling" not in NEXT[self._state]:
            raise self._illegal("settling")
        self._state = "settling"
        self.outcome = outcome

    def _illegal(self, state: State) -> IllegalTransition:
        return IllegalTransition(f"the hold of request {self.id} is {self._state}: {state} can't follow")

    def closed(self, outcome: Outcome) -> None:
        """Take note that the ledger has a row of it. One that expired, because another gateway took this one for dead,
        can't be charged for what it serves: `on_closed` is called while it is open."""
        if outcome == "expired" and self.on_closed is not None and self._state in OPEN:
            self.on_closed()

    @property
    def output_tokens(self) -> int:
        """Return output tokens held, of all choices."""
        return self.need.choices * self.granted_output

    @property
    def tokens(self) -> int:
        """Return tokens held, of input and output."""
        return self.need.input_tokens + self.need.choices * self.granted_output

    def entry(self, epoch: int, tags: HoldTags) -> bytes:
        """Return the journal's entry of this hold, as it stands in another epoch, in these counters."""
        amounts = (self.cost_nano, self.need.input_tokens, self.output_tokens)
        return pack_hold(epoch, self.admitted_at_ms, amounts, self.target.names, tags, self.payload)


class Moving:
    """A block in which open holds are held again in a new epoch. Their settlements and voids leave after it, by the
    epoch that each hold has then. Raises `IllegalTransition` for a hold that is not open, or moves already."""

    __slots__ = ("_done", "_holds")

    def __init__(self, holds: Sequence[Hold]) -> None:
        self._holds = holds
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> None:
        for hold in self._holds:
            if not hold.is_open or hold.moving is not None:
                raise IllegalTransition(f"{hold!r} can't be held again: it is ending, or moves already")
        for hold in self._holds:
            hold.moving = self._done

    def __exit__(self, *_: object) -> None:
        for hold in self._holds:
            hold.moving = None
        self._done.set_result(None)


def as_counted(debit: Debit, epoch: int, dseq: int) -> Debit:
    """Return the debit with the epoch and the sequence number that Redis gave it."""
    return msgspec.structs.replace(debit, epoch=epoch, dseq=dseq)


# --- Admissions, settlements and voids as items of one script call: what they pack, and what Redis answers to each.
#
# A settlement's reply has its effect when it comes, whether or not anyone still waits, so that a cancelled request
# loses
# nothing; an admission that nobody waits for any more is given back.


ADMIT_CODE: Final = 1
SETTLE_CODE: Final = 2
VOID_CODE: Final = 3
OF_USER: Final = 3
"""Added to a code where the item counts for a user, too."""


class AdmissionTarget:
    """What all holds of one key on one model have in common: the account's and the key's names in Redis, the account's
    partition, the limits, and the `names` that a journal entry carries. `user_key` is the name of the key's user while
    that has limits, and `any_user_key` that of one who may get some."""

    __slots__ = (
        "account_key",
        "any_user_key",
        "key_key",
        "limits",
        "most_running",
        "names",
        "partition",
        "tail",
        "user_key",
        "versions_and_credit",
    )

    def __init__(
        self, principal: Principal, keyspace: Keyspace, partition: Partition, model: str, feature: str, gateway_id: str
    ) -> None:
        account_id, key_id = principal.account_id, principal.key_id
        self.account_key = keyspace.account(account_id)
        self.key_key = keyspace.key(account_id, key_id)
        user_id = principal.user_id
        self.any_user_key = None if user_id is None else keyspace.user(account_id, user_id)
        self.user_key = self.any_user_key if principal.user_quotas else None
        self.partition = partition
        self.limits = principal.limits_for(model, feature)
        self.names = b"".join(map(pack_text, (account_id, key_id, model, feature, gateway_id)))
        self.versions_and_credit = (principal.account_version, principal.key_version, principal.credit_limit_nano)
        self.most_running = (principal.plan.max_parallel_requests or 0, principal.max_parallel_requests or 0)
        self.tail = self.limits.packed + len(self.names).to_bytes(2, "little") + self.names
        """What an admission ends with, but for its payload."""


class AdmitItem:
    """An admission on its way to Redis, packed; Redis refuses to carry it out from `until_ms` (Unix time) on.
    `on_unknown` is called where it may have been carried out or not, and where it was and nobody waits for it."""

    __slots__ = ("account_key", "answer", "body", "id", "key_key", "on_unknown", "target", "user_key")

    def __init__(
        self,
        request_id: str,
        target: AdmissionTarget,
        need: Need,
        payload: bytes,
        until_ms: int,
        answer: asyncio.Future[tuple[list[Any] | RedisError, int]],
        on_unknown: Callable[[AdmitItem], None],
    ) -> None:
        self.id = request_id.encode()
        self.target = target
        self.account_key = target.account_key
        self.key_key = target.key_key
        self.user_key = target.user_key
        self.body = (
            ADMIT.pack(
                *target.versions_and_credit,
                need.input_cost_nano,
                need.unit_nano,
                need.input_tokens,
                need.choices,
                need.least_output,
                need.most_output,
                until_ms,
                *target.most_running,
                len(need.ladder),
            )
            + (b"".join(RUNG.pack(*rung) for rung in need.ladder) if need.ladder else b"")
            + target.tail
            + payload
        )
        self.answer = answer
        self.on_unknown = on_unknown

    def pack(self, account_place: int, key_place: int, user_place: int = 0) -> bytes:
        """Return the item as the script takes it: see `Item.pack`."""
        if user_place:
            return ITEM_OF_USER.pack(ADMIT_CODE + OF_USER, self.id, account_place, key_place, user_place) + self.body
        return ITEM.pack(ADMIT_CODE, self.id, account_place, key_place) + self.body

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Give the reply to the request that waits for it."""
        if not self.answer.done():
            self.answer.set_result((reply, epoch))
        elif not isinstance(reply, RedisError) and reply[0] == OK:
            self.on_unknown(self)  # the request is gone: the hold that this made is given back
        if isinstance(reply, RedisAway | RedisTimeout):  # other errors did nothing, and the same id may be asked again
            self.on_unknown(self)

    def abandon(self) -> None:
        """Give back its hold, because nobody waits for the answer: now if the answer has come, else in `resolve`."""
        if self.answer.cancel() or self.answer.cancelled():
            return
        reply, _ = self.answer.result()
        if not isinstance(reply, RedisError) and reply[0] == OK:
            self.on_unknown(self)


class SettleItem:
    """A settlement on its way to Redis. `on_reply` gets what came of it, exactly once; `outcome` is for whoever waits.

    It is packed when it is made: a debit that can't be must fail whoever settles it, and not the items beside it.
    """

    __slots__ = ("account_key", "body", "debit", "hold", "id", "key_key", "on_reply", "outcome", "user_key")

    def __init__(
        self,
        hold: Hold,
        debit: Debit,
        outcome: asyncio.Future[Settled],
        on_reply: Callable[[SettleItem, list[Any] | RedisError, int], None],
    ) -> None:
        self.hold = hold
        self.debit = debit
        self.outcome = outcome
        self.on_reply = on_reply
        self.id, self.account_key, self.key_key = hold.id_bytes, hold.target.account_key, hold.target.key_key
        self.user_key = hold.target.user_key
        self.body = SETTLE.pack(debit.charged_nano, debit.input_tokens, debit.output_tokens) + encode_debit(debit)

    def pack(self, account_place: int, key_place: int, user_place: int = 0) -> bytes:
        """Return the item as the script takes it: see `Item.pack`."""
        if user_place:
            return ITEM_OF_USER.pack(SETTLE_CODE + OF_USER, self.id, account_place, key_place, user_place) + self.body
        return ITEM.pack(SETTLE_CODE, self.id, account_place, key_place) + self.body

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Give the reply to the settlement that waits for it."""
        self.on_reply(self, reply, epoch)


class VoidItem:
    """A void on its way to Redis; `answer` is whether the hold was there to be given back, None when unknown.
    `vanished_in` is the epoch in which Redis had no entry of it at all. `user_key` is the name of the key's user, with
    limits or without: they may have come since."""

    __slots__ = ("account_key", "answer", "id", "key_key", "user_key", "vanished_in")

    def __init__(self, request_id: bytes, account_key: bytes, key_key: bytes, user_key: bytes | None) -> None:
        self.id, self.account_key, self.key_key, self.user_key = request_id, account_key, key_key, user_key
        self.answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self.vanished_in: int | None = None

    def pack(self, account_place: int, key_place: int, user_place: int = 0) -> bytes:
        """Return the item as the script takes it: see `Item.pack`."""
        if user_place:
            return ITEM_OF_USER.pack(VOID_CODE + OF_USER, self.id, account_place, key_place, user_place)
        return ITEM.pack(VOID_CODE, self.id, account_place, key_place)

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Answer whether the hold is void by this, None where Redis did not say; note the epoch that lacked it."""
        if reply == VANISHED:
            self.vanished_in = epoch
        if not self.answer.done():
            self.answer.set_result(None if isinstance(reply, RedisError) else reply[0] == 0)


# --- x


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """Bounds of admission and settlement."""

    batch_items: int = 32
    max_unsettled: int = 100_000
    redis_timeout_s: float = 0.5
    settle_timeout_s: float = 0.5
    ledger_timeout_s: float = 10.0
    admission_wait_s: float = 2.0
    elastic_millionths: int = 250_000
    elastic_output_tokens: int = 4_096
    queue_requests: int = 256
