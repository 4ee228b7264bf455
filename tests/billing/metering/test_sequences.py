"""Any sequence of services' calls, compared with a plain model: each event counts once, and all holds end."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from ulid import ULID

from billing.holds.redis.layout import Keyspace
from billing.ledger.verify import verify
from billing.metering.charges import Measure, NotAdmitted, Payer
from billing.metering.events import EventConflict
from billing.metering.metering import ServiceHolds
from tests.billing.metering.support import Meters, meters
from tests.support.holds import eventually, making_worlds
from tests.support.loop_thread import LoopThread

BALANCE = 10
names = st.sampled_from(["e0", "e1", "e2"])
amounts = st.integers(0, 6)
steps = st.one_of(
    st.tuples(st.sampled_from(["debit", "hold", "usage", "settle"]), names, amounts),
    st.tuples(st.sampled_from(["void", "expire"]), names, st.just(0)),
    st.tuples(st.sampled_from(["epoch", "tidy", "lose"]), st.just(""), st.just(2)),
)


@dataclass
class Record:
    """What should have come of it."""

    events: dict[str, tuple[str, int]] = field(default_factory=dict)
    holds: dict[str, tuple[str, int]] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)
    lost: int = 0

    @property
    def balance(self) -> int:
        return BALANCE - sum(self.charged.values())

    @property
    def held(self) -> int:
        return self.lost + sum(amount for state, amount in self.holds.values() if state == "held")

    def made(self, kind: str, name: str, amount: int) -> str:
        """What a debit, usage or hold is answered with."""
        if name in self.events:
            return "replayed" if self.events[name] == (kind, amount) else "conflict"
        if kind != "usage" and self.balance - self.held < amount:
            return "refused"
        self.events[name] = kind, amount
        if kind == "hold":
            self.holds[name] = "held", amount
        else:
            self.charged[name] = amount
        return "made"

    def ended(self, name: str, amount: int) -> str:
        """Return the answer of a settlement."""
        state, _ = self.holds[name]
        if state in ("held", "expired"):
            self.holds[name] = "settled", amount
            self.charged[name] = amount
            return "made"
        return "replayed" if (state, self.charged.get(name)) == ("settled", amount) else "conflict"

    def given_back(self, name: str) -> str:
        state, amount = self.holds[name]
        if state == "held":
            self.holds[name] = "voided", amount
            return "made"
        return "conflict" if state == "settled" else "replayed"


class Play:
    """One sequence, of an account of its own."""

    def __init__(self, of: Meters, account_id: str) -> None:
        self.of, self.payer, self.record, self.ids = of, Payer("aura", account_id), Record(), dict[str, str]()

    async def step(self, what: str, name: str, amount: int) -> None:
        world, record = self.of.world, self.record
        if what in ("debit", "usage", "hold"):
            assert await self.asked(what, name, amount) == record.made(what, name, amount)
        elif name and name not in record.holds:
            return
        elif what == "settle":
            assert await self.settled(name, amount) == record.ended(name, amount)
        elif what == "void":
            assert await self.voided(name) == record.given_back(name)
        elif what == "expire":
            await world.database.execute(
                "UPDATE service_holds SET expires_at = now() - interval '1 second' WHERE id = $1", self.ids[name]
            )
            await world.engine.lasting.expire()
            state, held = record.holds[name]
            record.holds[name] = ("expired" if state == "held" else state), held
        elif what == "epoch":
            for partition in world.engine.partitions.all:
                await world.engine.partitions.renew(partition)
            record.lost = 0  # who is not in Postgres is held again by nobody
        elif what == "tidy":
            await world.engine.lasting.tidy(age_ms=-60_000)
            record.lost = 0
        elif what == "lose" and record.balance - record.held >= amount:
            record.lost += amount
            await self.lost(amount)
        if what in ("usage", "settle"):  # which Redis is told of in a moment
            await world.engine.change_notifier.balance_changed(self.payer.account_id)

    async def asked(self, kind: str, name: str, amount: int) -> str:
        measure = Measure(amount_nano=amount)
        try:
            if kind == "debit":
                done = await self.of.metering.debit(self.payer, name, measure)
            elif kind == "usage":
                done = await self.of.metering.record(self.payer, name, measure, None)
            else:
                done = await self.of.holds.hold(self.payer, name, measure, None)
                self.ids[name] = msgspec.json.decode(done.answer)["id"]
        except EventConflict:
            return "conflict"
        except NotAdmitted:
            return "refused"
        return "replayed" if done.replayed else "made"

    async def settled(self, name: str, amount: int) -> str:
        try:
            done = await self.of.holds.settle(self.ids[name], f"s {name}", {"amount_nano": amount})
        except EventConflict:
            return "conflict"
        return "replayed" if done.replayed else "made"

    async def voided(self, name: str) -> str:
        try:
            _, replayed = await self.of.holds.void(self.ids[name], None)
        except EventConflict:
            return "conflict"
        return "replayed" if replayed else "made"

    async def lost(self, amount: int) -> None:
        """A gateway dies after a hold was admitted, and before its row was written."""
        dead = meters(self.of.world).holds
        assert isinstance(dead, ServiceHolds)

        async def keep(hold: Any, *_: object) -> None:
            dead.context.holds.kept(hold)
            _[-1].set_exception(ConnectionError())

        dead._keep = keep
        try:
            await dead.hold(self.payer, str(ULID()), Measure(amount_nano=amount), None)
        except ConnectionError:
            return
        raise AssertionError("it was to die")

    async def check(self) -> None:
        """Assert that both stores have what was recorded."""
        world, record, account_id = self.of.world, self.record, self.payer.account_id
        found = await world.database.rows(
            "SELECT client_request_id, charged_nano FROM usage_events WHERE account_id = $1 AND outcome = 'settled'",
            account_id,
        )
        assert sorted(map(tuple, found)) == sorted(record.charged.items())
        wanted = record.balance, record.held

        async def as_recorded() -> bool:
            live = await world.engine.change_notifier.live_balance(account_id)
            return live is None or (live.balance_nano, live.held_nano) == wanted

        await eventually(as_recorded)
        states = await world.database.rows(
            "SELECT event_id, state FROM service_holds WHERE account_id = $1", account_id
        )
        assert dict(map(tuple, states)) == {name: state for name, (state, _) in record.holds.items()}


def test_each_event_counts_once(database_url, redis_url, key_prefix):
    thread, stack = LoopThread(), AsyncExitStack()
    making = making_worlds(database_url, redis_url, Keyspace(key_prefix))
    world = thread.run(thread.run(stack.enter_async_context(making))())
    of = meters(world)

    async def play(sequence):
        account = await world.accounts.create("Test")
        await world.grants.grant(account.id, BALANCE, str(ULID()), None)
        one = Play(of, account.id)
        for step in sequence:
            await one.step(*step)
        await one.check()
        await one.step("tidy", "", 0)  # what is left of other sequences would be tidied in the next one

    @settings(max_examples=40)
    @given(st.lists(steps, max_size=14))
    def any_sequence(sequence):
        thread.run(play(sequence))

    async def sound():
        assert (await world.engine.reconciler.run()).drifts == ()
        verified = await verify(world.database)
        assert verified.ok, verified

    try:
        any_sequence()
        thread.run(sound())
    finally:
        thread.run(stack.aclose())
        thread.close()
