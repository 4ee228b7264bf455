"""One request's hold in this process, as a state machine; and all the holds of this process (`RunningHolds`).

This file owns the life of a hold: `NEXT` is the one table of its states and of what may follow each; every change goes
through it, and one that it does not list raises `IllegalTransition`. So a hold ends exactly once. A settlement that
Redis does not confirm goes the ledger's own way (rule R4) and stays `settling` until the ledger has it.

held         admitted, and nothing to be paid for has been done. Left open, it is given back.
owed         a provider has worked for it. Left open, it is settled as the debit that `owed_debit` makes.
handed_over  a task of this process serves it in place of the request that opened it. Left open, it ends as above.
settling     its debit is on its way to Redis or to the ledger.
settled      its debit is outside this process.
refused      the ledger did not take its debit: the hold had expired there, or the debit was set aside.
voided       it is given back; where Redis does not answer, the sweep gives it back.
lasting      a row in Postgres holds it from now on, in place of this process (`billing.holds.lasting`).

Beside these, a hold in an open state is `moving` while it is held again in a new epoch: settlements and voids that are
asked for meanwhile are sent after that (`Moving`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from billing.errors import MetergateError
from billing.holds.redis.batcher import Batcher, Item
from billing.holds.redis.connection import Script
from billing.holds.redis.layout import pack_hold

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from billing.holds.decision import Need
    from billing.holds.items import AdmissionTarget
    from billing.holds.partition import Partition
    from billing.holds.partitions import Partitions
    from billing.holds.redis.layout import HoldTags
    from billing.holds.redis.state import Keyspace
    from billing.holds.service import HoldSettings
    from billing.ledger.debits import Debit, Outcome

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


class RunningHolds:
    """The holds of this process, with the queues by which they reach Redis and the tasks that must end before it does:
    `live` are the holds by request id, `batchers` the partitions' queues."""

    __slots__ = ("batchers", "live", "tasks")

    def __init__(self, keyspace: Keyspace, partitions: Partitions, settings: HoldSettings) -> None:
        script = Script("hot")
        self.live: dict[str, Hold] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.batchers = [
            Batcher(
                keyspace,
                partition,
                script=script,
                max_items=settings.batch_items,
                max_unsettled=settings.max_unsettled,
                timeout_s=min(settings.redis_timeout_s, settings.settle_timeout_s),
                elastic_millionths=settings.elastic_millionths,
                elastic_output_tokens=settings.elastic_output_tokens,
            )
            for partition in partitions.all
        ]

    def submit(self, partition: Partition, item: Item) -> None:
        """Send an admission, settlement or void with whatever else this turn of the event loop brings."""
        self.batchers[partition.number].submit(item)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must finish even if whoever began it is cancelled; `Holds.drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
