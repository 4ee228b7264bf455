"""The scripts in Redis against the reference: any order of admissions, settlements, corrections, losses and epochs.

After every step the replies are the reference's, and so is every value in Redis. HYPOTHESIS_PROFILE=long looks longer,
and shrinks what was found; METERGATE_TEST_REDIS_BINARY names another server to run all of it on as well.
"""

import copy
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from billing.holds.codec import HELD, SETTLED
from billing.money import MAX_NANO
from billing.quotas import window_end_s, window_id
from tests.billing.holds.model_base import ModelBase
from tests.billing.holds.model_inputs import (
    ACCOUNTS,
    FEATURES,
    MODELS,
    OWNERS,
    SCALES,
    START_S,
    SUBJECTS,
    Ask,
    asks,
    endings,
    jitters,
    picks,
    quotas,
    steps,
)
from tests.billing.holds.reference import OK, Reference
from tests.billing.holds.reference_ledger import Row
from tests.billing.holds.reference_values import Admission, Amounts, Hold, Names, Settlement, Void
from tests.billing.holds.scripts import Dump

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "default")
SIZES: Final = {"default": (120, 40), "long": (2000, 80)}
"""Examples and steps of each machine by profile."""
BINARY: Final = "METERGATE_TEST_REDIS_BINARY"
RARE: Final = ("all", "nothing", "older", "remember", "remember", "install", "rehold", "lose", "stale")
"""The first three are what Redis has kept when it comes back."""


class Machine(ModelBase):
    """The rules: what can happen."""

    @initialize(scale=st.sampled_from(SCALES), start_ms=st.integers(0, 400_000), said=st.data())
    def begin(self, scale: int, start_ms: int, said: st.DataObject) -> None:
        self.scale = scale
        self.ref.now_ms = START_S * 1000 + start_ms
        self.real.set_clock(self.ref.now_ms)
        for subject in SUBJECTS:
            chosen = said.draw(st.lists(quotas, max_size=4), label=subject)
            self.set_quotas(subject, chosen)
        for account_id in ACCOUNTS:
            self.grant(account_id, said.draw(st.integers(500, 4000)), 0)
        self.same("fence", 1, "first")
        for key_id in OWNERS:
            self.install(key_id, stale=False)
        self.set_open()

    @rule(step=steps)
    def advance(self, step: tuple[Any, int]) -> None:
        kind, by = step
        now_ms = self.ref.now_ms
        if kind == "ms":
            now_ms += by
        elif kind == "back":
            now_ms -= by
            self.went_back = True
        else:
            end = window_end_s(kind, now_ms // 1000)
            now_ms = max((end or 0) * 1000 + by, now_ms)
        self.ref.now_ms = now_ms
        self.real.set_clock(now_ms)

    @rule(items=st.lists(asks, min_size=1, max_size=4))
    def admit(self, items: list[Any]) -> None:
        self.send(items, 1000)

    @rule(items=st.lists(endings, min_size=1, max_size=3))
    @precondition(lambda self: self.running)
    def end(self, items: list[Any]) -> None:
        self.send(items, 1000)

    @rule(
        items=st.lists(st.one_of(asks, endings), min_size=1, max_size=6),
        room=st.sampled_from((1000, 1000, 3, 6)),
    )
    def turn(self, items: list[Any], room: int) -> None:
        self.send(items, room)

    def send(self, items: list[Any], room: int) -> None:
        made: list[Admission | Settlement | Void] = []
        for item in items:
            if isinstance(item, Ask):
                made.append(self.admission(item))
                continue
            what, pick, how, amount = item
            known = [*self.running, *(ask.id for ask in made if isinstance(ask, Admission))]
            if not known or pick % 5 == 0:
                known = [*self.requests, "0" * 26]
            request_id = known[-1 - pick % min(len(known), 8)]
            names = next((ask.names for ask in made if ask.id == request_id), self.names(request_id))
            if what == "settle" and request_id not in self.debits:
                ask = next((ask for ask in made if ask.id == request_id and isinstance(ask, Admission)), None)
                if ask is not None:
                    self.debits[request_id] = ask.amounts(ask.least)
            if what == "settle":
                made.append(Settlement(request_id, names, self.debit(request_id, how, amount), b"debit"))
            else:
                made.append(Void(request_id, names))
        before = self.real.dump()
        self.sent(made, self.same("hot", self.ref.epoch, room, made), before)

    def sent(self, made: list[Admission | Settlement | Void], replies: list[Any], before: Dump) -> None:
        """What the gateway makes of the replies; and what they promise."""
        if all(reply[0] != OK for reply in replies):
            assert self.real.dump() == before
        for item, reply in zip(made, replies, strict=True):
            if isinstance(item, Admission):
                if reply[0] == OK:
                    assert reply[3] >= 0
                    self.requests[item.id] = Hold(HELD, 0, reply[2], item.names, item.amounts(reply[1]), item.payload)
                    self.running.append(item.id)
            else:
                if item.id in self.running:
                    self.running.remove(item.id)
                if isinstance(item, Settlement) and reply[0] == OK:
                    self.outbox[item.id] = (self.ref.epoch or 0, reply[1])
        for subject, window in ((s, w) for s in self.subjects() for w in s.windows.values()):
            limits = [
                quota.limit
                for item, reply in zip(made, replies, strict=True)
                if isinstance(item, Admission) and reply[0] == OK and subject.id in (item.names.account, item.names.key)
                for quota in item.limits[subject.id in OWNERS]
                if quota.tag == window.quota.tag
            ]
            if limits and not any(isinstance(item, Settlement) for item in made):
                assert self.ref.used_in(subject, window, window.window_id) <= limits[-1]
        self.check()

    def subjects(self) -> list[Any]:
        found = [*map(self.ref.account, ACCOUNTS), *map(self.ref.key, OWNERS)]
        return [subject for subject in found if subject is not None]

    @rule(account_id=st.sampled_from(ACCOUNTS), fraction=st.integers(-300, 3000), jitter=jitters)
    def grant(self, account_id: str, fraction: int, jitter: int) -> None:
        delta = self.scale * fraction // 1000 + jitter
        balance = self.ledger.accounts[account_id].balance
        delta = max(min(delta, MAX_NANO - 10**6 - self.granted[account_id], MAX_NANO - balance), -MAX_NANO - balance)
        if delta:
            self.granted[account_id] += max(delta, 0)
            self.ledger.grant(account_id, delta)

    @rule(account_id=st.sampled_from(ACCOUNTS), most=st.integers(1, 4), stale=st.sampled_from((0, 0, 0, -1, 1)))
    def sync(self, account_id: str, most: int, stale: int) -> None:
        account = self.ref.account(account_id)
        after = (account.xseq if account is not None else 0) + stale
        known = [
            quota for subject in self.subjects() for window in subject.windows.values() for quota in (window.quota,)
        ]
        wanted = {quota.tag: quota for quota in (*known, *(q for s in SUBJECTS for q in self.ledger.quotas[s][-1]))}
        rows = self.ledger.corrections_after(account_id, after, wanted.values())[:most]
        self.same("apply", self.ref.epoch, account_id, after, rows)
        self.check()

    def sync_all(self, account_id: str) -> None:
        while (account := self.ref.account(account_id)) and account.xseq < self.ledger.accounts[account_id].xseq:
            self.sync(account_id, 1000, 0)

    @rule(pick=picks, how=st.sampled_from(("less", "equal", "more")), amount=picks)
    @precondition(lambda self: self.requests)
    def ledger_way(self, pick: int, how: str, amount: int) -> None:
        """A settlement whose fate is unknown is written to the ledger itself."""
        request_id = list(self.requests)[pick % len(self.requests)]
        hold = self.requests[request_id]
        self.ledger.write(Row(request_id, hold.names, hold.at_ms, self.debit(request_id, how, amount)))
        if request_id in self.running:
            self.running.remove(request_id)

    @rule(place=st.tuples(st.sampled_from(tuple(OWNERS)), st.sampled_from(MODELS)), used=picks, told=st.booleans())
    def direct(self, place: tuple[str, str], used: int, told: bool) -> None:
        """Usage that needs no hold goes to the ledger alone."""
        request_id, (key_id, model) = self.new_id(), place
        account_id, amounts = OWNERS[key_id], Amounts(used % 101, used % 11, used % 7)
        names = Names(account_id, key_id, model, FEATURES[0])
        self.requests[request_id] = Hold(HELD, 0, self.ref.now_ms, names, amounts, b"")
        self.debits[request_id] = amounts
        self.ledger.write(Row(request_id, names, self.ref.now_ms, self.debits[request_id]))
        if told:
            self.sync_all(account_id)

    @rule(of_journal=st.booleans(), most=st.integers(1, 5), told=st.booleans())
    def flush(self, of_journal: bool, most: int, told: bool) -> None:
        """Debits reach the ledger, from memory or from the journal, and are acknowledged."""
        if of_journal:
            waiting = {
                request_id: (hold.epoch, hold.dseq)
                for request_id, hold in self.ref.journal.items()
                if hold.state == SETTLED
            }
        else:
            waiting = self.outbox
        acks = []
        for request_id in list(waiting)[:most]:
            epoch, dseq = waiting[request_id]
            hold = self.requests[request_id]
            row = self.ledger.write(
                Row(request_id, hold.names, hold.at_ms, self.debits[request_id], epoch=epoch, dseq=dseq)
            )
            self.outbox.pop(request_id, None)
            if row.xseq is not None and told:
                self.sync_all(hold.names.account)
            acks.append((request_id, hold.names.account, row.xseq))
        self.same("ack", self.ref.epoch, acks)
        self.check()

    @rule(
        subject=st.sampled_from(SUBJECTS),
        said=st.lists(quotas, min_size=1, max_size=4),
        told=st.sampled_from((2, 2, 1, 0)),
    )
    def change_quotas(self, subject: str, said: list[Any], told: int) -> None:
        self.set_quotas(subject, said)
        if told == 2:
            self.adopt_and_fill(subject)
        elif told == 1:
            self.adopt(subject, 0)

    def set_quotas(self, subject: str, said: list[Any]) -> None:
        made = [self.quota(quota) for quota in said]
        self.ledger.quotas[subject].append(tuple({quota.tag: quota for quota in made}.values()))

    @rule(subject=st.sampled_from(SUBJECTS), older=st.sampled_from((0, 0, 1)))
    @precondition(lambda self: self.fills)
    def adopt(self, subject: str, older: int) -> None:
        version = max(self.ledger.version(subject) - older, 1)
        known = self.ledger.quotas[subject][version - 1]
        token = self.new_id()
        account_id = OWNERS.get(subject, subject)
        key_id = subject if subject in OWNERS else None
        reply = self.same("adopt", self.ref.epoch, account_id, key_id, version, token, known)
        if reply[0] == 0 and reply[4]:
            self.fills.append((subject, token, self.ref.epoch or 0, reply[1], reply[2], reply[3] // 1000, known))
        self.check()

    @rule(pick=picks)
    @precondition(lambda self: self.fills)
    def fill(self, pick: int) -> None:
        subject, token, epoch, dseq, xseq, now_s, known = self.fills.pop(-1 - pick % min(len(self.fills), 3))
        account_id = OWNERS.get(subject, subject)
        for request_id, hold in list(self.ref.journal.items()):
            if hold.state == SETTLED and (hold.epoch, hold.names.account) == (epoch, account_id) and hold.dseq <= dseq:
                row = Row(request_id, hold.names, self.requests[request_id].at_ms, hold.amounts)
                self.ledger.write(replace(row, epoch=epoch, dseq=hold.dseq))
        rows = self.ledger.before(account_id, epoch, dseq, xseq)
        bases = []
        for quota in known:
            at = window_id(quota.window, now_s)
            bases.append((quota.tag, at, self.ledger.used(subject, quota, at, rows)))
        self.same("fill", epoch, subject, token, bases)
        self.check()

    def adopt_and_fill(self, subject: str) -> None:
        self.adopt(subject, 0)
        if self.fills and self.fills[-1][0] == subject:
            self.fill(0)

    @rule(pick=picks, charged=st.booleans(), told=st.booleans())
    @precondition(lambda self: self.ref.journal)
    def expire(self, pick: int, charged: bool, told: bool) -> None:
        """A hold whose gateway is taken for dead: claimed, decided by the ledger, told, dropped."""
        request_id = list(self.ref.journal)[pick % len(self.ref.journal)]
        self.expire_one(request_id, charged, told)

    def expire_one(self, request_id: str, charged: bool, told: bool) -> None:
        reply = self.same("claim", self.ref.epoch, request_id)
        self.check()
        if reply[0] != 0:
            return
        if request_id in self.running:
            self.running.remove(request_id)
        hold = self.ref.journal[request_id]
        amounts = Amounts(hold.amounts.cost // 2, hold.amounts.input, 0) if charged else Amounts(requests=0)
        row = self.ledger.write(Row(request_id, hold.names, hold.at_ms, amounts, "expired"))
        if told:
            self.sync_all(hold.names.account)
        arguments = (self.ref.epoch, request_id)
        self.same("drop", *arguments, row.xseq or 0, real=(*arguments, hold.names, row.xseq or 0))
        self.check()

    @rule(kind=st.sampled_from(RARE), subject=st.sampled_from(SUBJECTS), pick=picks, asked=asks)
    def something_rare(self, kind: str, subject: str, pick: int, asked: Ask) -> None:
        """One rule, so that hypothesis draws what happens every day more often."""
        match kind:
            case "install":
                self.install(list(OWNERS)[pick % len(OWNERS)], stale=pick % 4 == 0)
            case "rehold":
                if self.requests:
                    self.rehold_one(list(self.requests)[pick % len(self.requests)])
            case "remember":
                self.remember()
            case "lose":
                self.lose_state(subject, pick % 2 == 0)
            case "stale":
                self.stale_epoch(asked, (-1, 1)[pick % 2])
            case _:
                self.new_epoch(kind, killed=pick % 4 == 0, opened=pick % 5 != 0)

    def install(self, key_id: str, stale: bool) -> None:
        epoch, account_id = self.ref.epoch or 0, OWNERS[key_id]
        known = self.ref.account(account_id)
        now_s = self.ref.now_ms // 1000 if known is None else self.ref.now_of(known)
        account = self.ledger.load_account(account_id, epoch, now_s)
        key = self.ledger.load_key(key_id, epoch, now_s)
        if stale and known is not None:
            account.xseq += 1
        self.same("install", epoch, account, key)
        self.check()

    def rehold_one(self, request_id: str) -> None:
        """As a running request's gateway does in a new epoch; and what it must not spoil when it comes too late."""
        hold = self.requests[request_id]
        known = self.ref.journal.get(request_id)
        if request_id not in self.running and (known is None or known.state == HELD):
            return  # a gateway holds again what it knows to run
        tags = [
            {w.quota.tag for w in subject.windows.values() if w.quota.applies_to(hold.names.model, hold.names.feature)}
            for subject in (self.ref.account(hold.names.account), self.ref.key(hold.names.key))
            if subject is not None
        ]
        epoch = self.ref.epoch or 0
        again = Hold(HELD, epoch, hold.at_ms, hold.names, hold.amounts, hold.payload, *(tags if len(tags) == 2 else ()))
        self.same("rehold", epoch, request_id, again)
        self.check()

    def new_epoch(self, kept: str, *, killed: bool, opened: bool) -> None:
        """Redis comes back: as it was, empty, or as it was some time ago. A gateway that is killed with it has written
        nothing and holds nothing again; what it was about to send may still arrive."""
        if kept == "nothing":
            self.real.restore(Dump({}, {}, {}, dict.fromkeys(SUBJECTS)))
            epoch, now_ms = self.ref.epoch or 0, self.ref.now_ms
            self.ref = Reference()
            self.ref.now_ms, self.ref.epoch = now_ms, None
            self.last_epoch = epoch
        elif kept == "older" and self.snapshot is not None:
            then, dump = self.snapshot
            epoch, now_ms = self.ref.epoch or 0, self.ref.now_ms
            self.real.restore(dump)
            self.ref = copy.deepcopy(then)
            self.ref.now_ms = now_ms
        else:
            epoch = self.ref.epoch or 0
        self.same("fence", epoch + 1, f"life {epoch + 1}")
        self.check()
        if killed:
            self.outbox.clear()
        while self.outbox:
            request_id, (of_epoch, dseq) = self.outbox.popitem()
            hold = self.requests[request_id]
            self.ledger.write(
                Row(request_id, hold.names, hold.at_ms, self.debits[request_id], epoch=of_epoch, dseq=dseq)
            )
        if not killed:
            for request_id in list(self.running):
                self.install(self.requests[request_id].names.key, stale=False)
                self.rehold_one(request_id)
        if opened:
            for key_id in OWNERS:
                self.install(key_id, stale=False)
            self.set_open()

    @rule()
    @precondition(lambda self: not self.ref.open)
    def set_open(self) -> None:
        epoch = self.ref.epoch or 0
        assert self.real.set_open(epoch) == 1
        self.ref.open = True
        self.check()

    def remember(self) -> None:
        """What a Redis that comes back older comes back as."""
        self.snapshot = (copy.deepcopy(self.ref), self.real.dump())

    def lose_state(self, subject: str, record_too: bool) -> None:
        """A state that was installed and is gone is noticed, also when the record of it is gone: a new epoch."""
        if self.ref.account(subject) is None and self.ref.key(subject) is None:
            return
        self.real.lose(subject)
        if record_too:
            self.real.command("DEL", self.real.keyspace.installed(0))
        (self.ref.keys if subject in OWNERS else self.ref.accounts).pop(subject)
        key_id = subject if subject in OWNERS else next(key for key, owner in OWNERS.items() if owner == subject)
        account_id = OWNERS[key_id]
        epoch, now_s = self.ref.epoch or 0, self.ref.now_ms // 1000
        account = self.ref.account(account_id) or self.ledger.load_account(account_id, epoch, now_s)
        loaded = replace(account) if account is self.ref.account(account_id) else account
        assert self.same("install", epoch, loaded, self.ledger.load_key(key_id, epoch, now_s)) == 2
        self.new_epoch("all", killed=False, opened=True)

    def stale_epoch(self, asked: Ask, off: int) -> None:
        """Every script of another epoch does nothing."""
        epoch = (self.ref.epoch or 0) + off
        before = self.real.dump()
        item = self.admission(asked)
        known = next(iter(self.ref.journal), "0" * 26)
        assert self.same("hot", epoch, 1000, [item, Void(known, item.names)]) == []
        assert self.same("apply", epoch, item.names.account, 0, []) == [1]
        assert self.same("claim", epoch, known) == [1]
        assert self.same("ack", epoch, [(known, item.names.account, None)]) == [1]
        assert self.same("adopt", epoch, item.names.account, item.names.key, 10**6, self.new_id(), ()) == [1]
        assert self.same("fill", epoch, item.names.account, self.new_id(), ()) == 1
        assert self.same("drop", epoch, known, 0, real=(epoch, known, item.names, 0)) == 1
        assert self.real.set_open(epoch) == -1
        if off < 0:
            assert self.same("fence", epoch, "old") == 0
        assert self.real.dump() == before

    def teardown(self) -> None:
        """Whatever has happened, everything ends: no hold stays, no debit waits, Redis and the ledger agree."""
        try:
            if self.ref.epoch is not None:
                self.settle_down()
        finally:
            self.real.close()

    def settle_down(self) -> None:
        self.set_open()
        for key_id in OWNERS:
            self.install(key_id, stale=False)
        for account_id in ACCOUNTS:
            self.sync_all(account_id)
        for request_id, hold in list(self.ref.journal.items()):
            if hold.state != SETTLED:
                self.expire_one(request_id, False, True)
        while self.ref.journal:
            self.flush(True, 1000, True)
        self.outbox.clear()
        for account_id in ACCOUNTS:
            account = self.ref.account(account_id)
            assert account is not None
            assert self.ref.held(account) == 0
            assert account.balance == self.ledger.accounts[account_id].balance


class Restarts(Machine):
    """Redis goes and comes back all the time; gateways die with it, and what they sent arrives late."""

    something_rare = None  # type: ignore[assignment]

    @rule(kept=st.sampled_from(("all", "all", "older", "nothing")), killed=st.booleans(), pick=picks)
    def restart(self, kept: str, killed: bool, pick: int) -> None:
        self.new_epoch(kept, killed=killed, opened=pick % 4 > 0)

    @rule()
    def snapshot_now(self) -> None:
        self.remember()

    @rule(pick=picks)
    @precondition(lambda self: self.requests)
    def rehold(self, pick: int) -> None:
        self.rehold_one(list(self.requests)[-1 - pick % min(len(self.requests), 6)])


class Quotas(Machine):
    """Quotas change and windows pass, while nothing is lost."""

    something_rare = None  # type: ignore[assignment]

    @rule(subject=st.sampled_from(SUBJECTS), said=quotas, step=steps)
    def adopt_and_wait(self, subject: str, said: Any, step: tuple[Any, int]) -> None:
        """Time passes before the new counters are filled."""
        self.set_quotas(subject, [said])
        self.adopt(subject, 0)
        self.advance(step)


def run(make: Callable[[], Machine]) -> None:
    examples, length = SIZES[PROFILE]
    run_state_machine_as_test(
        make,  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=length,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=[phase for phase in Phase if PROFILE == "long" or phase is not Phase.shrink],
        ),
    )


@pytest.mark.parametrize("machine", [Machine, Restarts, Quotas])
def test_the_scripts_are_the_reference(redis_url: str, machine: type[Machine]) -> None:
    run(lambda: machine(redis_url))


@pytest.fixture
def other_redis_url() -> Iterator[str]:
    """The server that was named, for one test."""
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path has little room
        socket = Path(folder) / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder)
        process = subprocess.Popen([os.environ[BINARY], *options], stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                assert process.poll() is None, "the server ended"
                time.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait()


@pytest.mark.skipif(BINARY not in os.environ, reason=f"{BINARY} names no other Redis server")
def test_the_scripts_are_the_reference_on_another_server(other_redis_url: str) -> None:
    run(lambda: Machine(other_redis_url))
