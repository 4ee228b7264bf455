"""The values that admission and settlement are about: needs, decisions, holds, and what Redis is sent of them.

A request asks for a hold (`HoldRequest`). A `Decision` answers it: a `Hold`, a `Refused` that changed nothing, or
`Unavailable`, where nothing could be decided.

`NEXT` is the one table of a hold's states and of what may follow each. Every change goes through it, and one that it
does not list raises `IllegalTransition`, so a hold ends exactly once. A settlement that Redis does not confirm becomes
a direct ledger write (rule R4) and stays `settling` until the ledger has it.

asked        Redis is asked for it. Where it says no, or nobody is there any more, it stays this.
held         admitted, and nothing to be paid for has been done. Left open, it is given back.
owed         a provider has worked for it. Left open, it is settled as the debit that `owed_debit` makes.
handed_over  a task of this process serves it in place of the request that opened it. Left open, it ends as above.
settling     its debit is on its way to Redis or to the ledger.
settled      its debit is outside this process.
refused      the ledger did not take its debit: the hold had expired there, or the debit is a dead letter.
voided       it is given back; where Redis does not answer, the sweep gives it back.
lasting      a row in Postgres holds it from now on, in place of this process (`billing.holds.lasting`).

A hold in an open state is `moving` while it is held again in a new epoch: settlements and voids that are asked for
meanwhile are sent after that (`Rehold`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, Protocol

import msgspec

from billing.errors import MetergateError
from billing.holds.redis import layout
from billing.holds.redis.connection import RedisAway, RedisError, RedisTimeout
from billing.ledger.debits import encode_debit
from billing.money import MAX_NANO
from billing.principals import Limit, Principal
from billing.quotas import MAX_TOOL_CALLS, Metric

if TYPE_CHECKING:
    from billing.holds.epochs import Partition
    from billing.ledger.debits import Debit, Outcome
    from billing.principals import QuotaLimits

# What stands for the gateway in the entries of holds that outlast the process that made them. No gateway has such a
# name: theirs are ULIDs.
LASTING: Final = "service"


MAX_OUTPUT_TOKENS: Final = 2**31 - 1


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


class NeedTooLarge(MetergateError, ValueError):
    """A worst case beyond 2^53 - 1 nano-USD or tokens: it can neither be held nor ever be paid."""


class Need(msgspec.Struct, frozen=True, gc=False):
    """The most that a request can use. `input_tokens` and `input_cost_nano` are for all choices together;
    `unit_nano` is the cost of one output token of every choice; output bounds are for one choice.

    `ladder` is for requests that may be granted more than one call of tools at the provider: input tokens and cost with
    two calls, with three, and so on, none below the one before it. The most expensive rung that fits is held.
    """

    input_tokens: int
    input_cost_nano: int
    unit_nano: int
    choices: int
    least_output: int
    most_output: int
    ladder: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        tokens, cost_nano, unit_nano, choices = self.input_tokens, self.input_cost_nano, self.unit_nano, self.choices
        most = self.most_output
        if not 0 <= self.least_output <= most <= MAX_OUTPUT_TOKENS:
            raise NeedTooLarge("the maximum of output tokens is out of bounds")
        if choices < 1 or tokens < 0 or cost_nano < 0 or unit_nano < 0:
            raise ValueError("a need counts up from zero, and from one choice")
        if cost_nano + unit_nano * most > MAX_NANO or tokens + choices * most > MAX_NANO:
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
        self.with_calls(len(self.ladder) + 1)  # the last rung is the largest: it must be within bounds, too

    def with_calls(self, calls: int) -> Need:
        """Return the need with exactly so many granted calls, at least one, and no ladder."""
        if not self.ladder:
            return self
        tokens, cost_nano = (self.input_tokens, self.input_cost_nano) if calls == 1 else self.ladder[calls - 2]
        return Need(tokens, cost_nano, self.unit_nano, self.choices, self.least_output, self.most_output)

    def fitting_output(self, metric: Metric, free: int) -> int:
        """Return how many output tokens of one choice fit beside the input into so much of a metric: 0 where the input
        does not fit, or output does not count in the metric."""
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


Lesser = Callable[[Need], Awaitable[tuple[Need, bytes] | None]]


class Renew(Protocol):
    """Make a request anew; return None if nothing that it was made from has changed. With `stale` the principal is read
    from Postgres. What it raises refuses the request."""

    def __call__(self, *, stale: bool) -> Awaitable[HoldRequest | None]: ...


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a hold.

    `expired` is the encoded debit that the request becomes should this process die; `expired_hold` decides whether it
    is charged. `meanwhile` is called while Redis is asked, if the call left at once: where many ask together it would
    only delay the call. `lesser` is asked, at most once, for a smaller need, with its own `expired`, where this one
    does not fit. A request that only running requests keep out waits for them, at most `queue_s` seconds. `renew` makes
    the request anew where its principal or prices have changed; without it such a request is `Unavailable`.
    """

    id: str
    principal: Principal
    model: str
    feature: str
    need: Need
    expired: bytes
    queue_s: float = 0.0
    meanwhile: Callable[[], None] | None = None
    lesser: Lesser | None = None
    renew: Renew | None = None


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
    `fitting_output` is how many output tokens of one choice would fit now: 0 where the input does not."""

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
    """Every exhausted counter, at Redis's time. `fitting_output` is how many output tokens of one choice would fit in
    all of them now; `fitting_ever` how many would if nothing ran, or if that is not enough for any, in unused windows.
    Each is 0 where the input does not fit."""

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
    """The principal, or what else the request was made from, has changed since it was read. Admission makes the request
    anew; a caller never gets this."""


Refused = InsufficientBalance | QuotaExceeded | TooManyRunning


def refusal(reply: list[Any], limits: QuotaLimits, need: Need) -> Refused:
    """Return the refusal in an admission's reply of `layout.BALANCE`, `layout.QUOTA` or `layout.CONCURRENCY`."""
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


State = Literal["asked", "held", "owed", "handed_over", "settling", "settled", "refused", "voided", "lasting"]

NEXT: Final[Mapping[State, frozenset[State]]] = {
    "asked": frozenset(("held",)),
    "held": frozenset(("owed", "handed_over", "settling", "voided", "lasting")),
    "owed": frozenset(("held", "handed_over", "settling", "voided")),
    "handed_over": frozenset(("settling", "voided", "lasting")),
    "settling": frozenset(("settled", "refused")),
    "settled": frozenset(),
    "refused": frozenset(),
    "voided": frozenset(),
    "lasting": frozenset(),
}
# States in which nobody has begun to end the hold.
OPEN: Final[frozenset[State]] = frozenset(("held", "owed", "handed_over"))


class IllegalTransition(MetergateError):
    """A hold was asked to enter a state that can't follow its own: a fault of the caller's."""


class SettlementLost(MetergateError):
    """Neither store took a debit in time, or the ledger refused it: the answer must not look complete."""


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The debit is outside this process. `available_nano` is None where Redis did not say."""

    available_nano: int | None


class AdmissionTarget:
    """What all holds of one key on one model share: the names of its states in Redis, the account's partition, the
    limits, and the `names` that a journal entry carries. `user_key` is the state of the key's user while that has
    limits, and `any_user_key` that of a user who may get some."""

    __slots__ = (
        "account_id",
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
        self,
        principal: Principal,
        keyspace: layout.Keyspace,
        partition: Partition,
        model: str,
        feature: str,
        gateway_id: str,
    ) -> None:
        account_id, key_id = principal.account_id, principal.key_id
        self.account_key = keyspace.account(account_id)
        self.key_key = keyspace.key(account_id, key_id)
        user_id = principal.user_id
        self.any_user_key = None if user_id is None else keyspace.user(account_id, user_id)
        self.user_key = self.any_user_key if principal.user_quotas else None
        self.partition = partition
        self.account_id = account_id
        self.limits = principal.limits_for(model, feature)
        self.names = b"".join(map(layout.pack_text, (account_id, key_id, model, feature, gateway_id)))
        self.versions_and_credit = (principal.account_version, principal.key_version, principal.credit_limit_nano)
        self.most_running = (principal.plan.max_parallel_requests or 0, principal.max_parallel_requests or 0)
        # What an admission ends with, but for its payload.
        self.tail = self.limits.packed + len(self.names).to_bytes(2, "little") + self.names


ADMIT_CODE: Final = 1
SETTLE_CODE: Final = 2
VOID_CODE: Final = 3
# Added to a code where the item counts for a user, too.
OF_USER: Final = 3


class StateKeys(NamedTuple):
    """The names of a hold's states in Redis. `any_user_key` is that of the key's user, with limits or without: they may
    have come since the hold was admitted."""

    account_key: bytes
    key_key: bytes
    any_user_key: bytes | None = None


class PackedItem:
    """What admissions, settlements and voids share as items of a script call (`billing.holds.batch.Item`).

    A reply takes effect when it comes, whether or not anyone still waits, so that a cancelled request loses nothing. An
    item is packed when it is made: one that can't be must fail its own caller, and not the items beside it.
    """

    __slots__ = ("account_key", "body", "id_bytes", "key_key", "user_key")

    code: ClassVar[int]
    id_bytes: bytes
    account_key: bytes
    key_key: bytes
    user_key: bytes | None
    body: bytes

    def pack(self, account_position: int, key_position: int, user_position: int = 0) -> bytes:
        """Return the item as the script reads it; positions are positions in KEYS, from 1."""
        if user_position:
            code = self.code + OF_USER
            return (
                layout.ITEM_OF_USER.pack(code, self.id_bytes, account_position, key_position, user_position) + self.body
            )
        return layout.ITEM.pack(self.code, self.id_bytes, account_position, key_position) + self.body


def pack_admission(target: AdmissionTarget, need: Need, until_ms: int, expired: bytes) -> bytes:
    """Return what a script reads of an admission behind its item's head; `expired` is the debit that it becomes where
    its gateway dies, encoded."""
    amounts = layout.ADMIT.pack(
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
    if not need.ladder:
        return amounts + target.tail + expired
    return b"".join((amounts, *(layout.RUNG.pack(*rung) for rung in need.ladder), target.tail, expired))


def pack_settlement(debit: Debit) -> bytes:
    """Return what a script reads of a settlement behind its item's head."""
    return layout.SETTLE.pack(debit.charged_nano, debit.input_tokens, debit.output_tokens) + encode_debit(debit)


class Asker(Protocol):
    """Who asks for a hold: told once what came of that, unless the item is abandoned before."""

    def admitted(self, hold: Hold) -> None:
        """Take the hold, and see to its end."""

    def not_admitted(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Take Redis's reply, which admits nothing."""


class Admitting(Protocol):
    """Who admits: it keeps the holds, and sees to those whose fate is not known."""

    def is_answered(self) -> None: ...

    def begins(self, hold: Hold) -> None: ...

    def void_late(self, request_id: bytes, target: AdmissionTarget) -> None: ...


class Hold(PackedItem):
    """A hold of a request: asked for, and once Redis has admitted it, to be settled or voided, once.

    As an item it is its own admission, which Redis does not carry out later than it was asked for; `left` says that it
    went out at once. Where it may or may not have been carried out, and where it was and nobody waits for it, it is
    voided late.

    The rest is there once it is admitted. `granted_output` is the maximum of output tokens of one choice,
    `granted_calls` that of calls of tools at the provider, where the request left them open; `need` is with so many
    calls. `epoch` is the one in which Redis has it; holding it again in a new epoch changes that. `outcome` is that of
    its settlement, once that has begun. `waited_s` is how long the request waited before Redis was asked the question
    that admitted it. `on_closed` is called where the ledger turns out to have closed it while it was served.
    """

    __slots__ = (
        "_admitting",
        "_asker",
        "_is_out",
        "_state",
        "admitted_at_ms",
        "available_nano",
        "cost_nano",
        "epoch",
        "granted_calls",
        "granted_output",
        "id",
        "left",
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

    code = ADMIT_CODE

    epoch: int
    granted_calls: int
    granted_output: int
    admitted_at_ms: int
    available_nano: int
    minute_used: list[int]
    cost_nano: int

    def __init__(
        self, request_id: str, target: AdmissionTarget, need: Need, expired: bytes, asker: Asker, admitting: Admitting
    ) -> None:
        """`expired` is the debit that it becomes where its gateway dies, encoded."""
        self.id = request_id
        self.id_bytes = request_id.encode()
        self.target = target
        self.account_key, self.key_key, self.user_key = target.account_key, target.key_key, target.user_key
        self.need = need
        self.payload = expired
        self._asker: Asker | None = asker
        self._admitting = admitting
        self._is_out = True
        self.left = False
        self._state: State = "asked"
        self.waited_s = 0.0
        self.moving: asyncio.Future[None] | None = None
        self.owed_debit: Callable[[Hold], Debit] | None = None
        self.outcome: Settlement | None = None
        self.on_closed: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"Hold({self.id}, {self._state})"

    def ask_until(self, until_ms: int) -> None:
        """Pack its admission, which is carried out before `until_ms` (Unix time) or not at all. One that can't be
        packed fails here, and not among others."""
        self.body = pack_admission(self.target, self.need, until_ms, self.payload)

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Tell who asked what Redis has replied."""
        if self._is_out:
            self._is_out = False
            self._admitting.is_answered()
        asker = self._asker
        if not isinstance(reply, RedisError) and reply[0] == layout.OK:
            if asker is None:  # the request is gone: the hold that this made is given back
                self._admitting.void_late(self.id_bytes, self.target)
                return
            try:
                self.admit(reply, epoch)
            except Exception:  # who asked is told of the error that follows
                self._admitting.void_late(self.id_bytes, self.target)
                raise
            self._asker = None
            self._admitting.begins(self)
            asker.admitted(self)
            return
        self._asker = None
        if isinstance(reply, RedisAway | RedisTimeout):  # other errors did nothing, and the same id may be asked again
            self._admitting.void_late(self.id_bytes, self.target)
        if asker is not None:
            asker.not_admitted(reply, epoch)

    def abandon(self) -> None:
        """Give it back when Redis has answered: nobody waits for that any more."""
        self._asker = None

    def admit(self, reply: list[Any], epoch: int) -> None:
        """Become what Redis's reply says, from its second field on: output tokens granted, time in Unix milliseconds,
        nano-USD available, the rung of the need's ladder, and what is used of the limits by the minute."""
        calls: int = reply[4] + 1
        need = self.need if not self.need.ladder else self.need.with_calls(calls)
        granted: int = reply[1]
        self.cost_nano = need.input_cost_nano + need.unit_nano * granted
        self.enter("held")
        self.need, self.granted_calls, self.granted_output = need, calls, granted
        self.admitted_at_ms, self.available_nano, self.minute_used = reply[2], reply[3], reply[5:]
        self.epoch = epoch
        self.body = b""  # it is out, and a stream would keep it

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
        """Mark the hold chargeable: if it is left open, it is settled with `debit(hold)`."""
        if "owed" not in NEXT[self._state]:
            raise self._illegal("owed")
        self._state = "owed"
        self.owed_debit = debit

    def owe_nothing(self) -> None:
        """Undo `owe`: the provider has refused the request after all."""
        self.enter("held")
        self.owed_debit = None

    def begin_settling(self, outcome: Settlement | None) -> None:
        """Record that its debit is on its way; `outcome` will say what became of it, None where it is out already."""
        if "settling" not in NEXT[self._state]:
            raise self._illegal("settling")
        self._state = "settling"
        self.outcome = outcome

    def _illegal(self, state: State) -> IllegalTransition:
        return IllegalTransition(f"the hold of request {self.id} is {self._state}: {state} can't follow")

    def closed(self, outcome: Outcome) -> None:
        """Handle a row of it in the ledger. One that expired, because another gateway took this one for dead, can't be
        charged for what it serves: `on_closed` is called while it is open."""
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

    def entry(self, epoch: int, tags: layout.HoldTags) -> bytes:
        """Return the journal's entry of this hold for another epoch and these counters."""
        amounts = (self.cost_nano, self.need.input_tokens, self.output_tokens)
        return layout.pack_hold(epoch, self.admitted_at_ms, amounts, self.target.names, tags, self.payload)


Decision = Hold | Refused | Unavailable


class Rehold:
    """A block in which open holds are held again in a new epoch. Their settlements and voids leave after it, by the
    epoch that each hold has then. Raises `IllegalTransition` for a hold that is not open, or is being held again
    already."""

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


OnSettleReply = Callable[["Settlement", "list[Any] | RedisError", int], None]
Told = Callable[["Settlement"], None]


class Settlement(PackedItem):
    """A settlement on its way, and then what came of it: `settled`, or `lost`. `told` is called with it once that is
    known; who waits awaits it, which raises `SettlementLost`. `on_reply` gets Redis's reply, exactly once."""

    __slots__ = ("_on_reply", "_told", "_waiting", "debit", "hold", "lost", "settled")

    code = SETTLE_CODE

    def __init__(self, hold: Hold, debit: Debit, on_reply: OnSettleReply, told: Told | None = None) -> None:
        self.hold: Hold | None = hold
        self.debit = debit
        self._on_reply = on_reply
        self._told = told
        self._waiting: asyncio.Future[Settled] | None = None
        self.settled: Settled | None = None
        self.lost: SettlementLost | None = None
        self.id_bytes, self.user_key = hold.id_bytes, hold.user_key
        self.account_key, self.key_key = hold.account_key, hold.key_key
        self.body = pack_settlement(debit)

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Act on Redis's reply."""
        self._on_reply(self, reply, epoch)

    @property
    def is_over(self) -> bool:
        """Return whether it is known what came of it."""
        return self.settled is not None or self.lost is not None

    def end(self, settled: Settled) -> None:
        """Note that the debit is outside this process, unless it was given up."""
        if self.settled is None and self.lost is None:
            self.settled = settled
            self._tell()

    def lose(self, why: str) -> None:
        """Give up waiting, unless it is over."""
        if not self.is_over:
            self.lost = SettlementLost(why)
            self._tell()

    def _tell(self) -> None:
        told, self._told, self.hold = self._told, None, None  # nothing refers in a circle once it is over
        if self._waiting is not None:
            self._answer(self._waiting)
        if told is not None:
            told(self)

    def _answer(self, waiting: asyncio.Future[Settled]) -> None:
        if waiting.done():
            return
        if self.settled is not None:
            waiting.set_result(self.settled)
        elif self.lost is not None:
            waiting.set_exception(self.lost)
            waiting.exception()  # retrieved here: there may be no caller any more

    def __await__(self) -> Generator[Any, None, Settled]:
        return asyncio.shield(self.outcome()).__await__()

    def outcome(self) -> asyncio.Future[Settled]:
        """Return a future of what comes of it."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
            self._answer(self._waiting)
        return self._waiting


class VoidItem(PackedItem):
    """A void; `answer` is whether the hold was there to be given back, None when unknown. `vanished_in` is the epoch in
    which Redis had no entry of it at all."""

    __slots__ = ("answer", "vanished_in")

    code = VOID_CODE

    def __init__(self, request_id: bytes, keys: StateKeys | AdmissionTarget) -> None:
        self.id_bytes, self.body = request_id, b""
        self.account_key, self.key_key, self.user_key = keys.account_key, keys.key_key, keys.any_user_key
        self.answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self.vanished_in: int | None = None

    def resolve(self, reply: list[Any] | RedisError, epoch: int) -> None:
        """Answer whether the hold is void by this, None where Redis did not say; note the epoch that lacked it."""
        if reply == layout.VANISHED:
            self.vanished_in = epoch
        if not self.answer.done():
            self.answer.set_result(None if isinstance(reply, RedisError) else reply[0] == 0)
