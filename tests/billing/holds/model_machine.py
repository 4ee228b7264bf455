"""Traffic, and what happens less often: quotas change, holds expire, states and epochs are lost, gateways die."""

import copy
from dataclasses import replace
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from billing.holds.redis.layout import HELD, SETTLED
from billing.quotas import window_id
from tests.billing.holds.model_inputs import ACCOUNTS, OWNERS, SUBJECTS, Ask, asks, picks, quotas
from tests.billing.holds.model_traffic import ROOM, Traffic
from tests.billing.holds.reference import CLOSED, RELOAD, Reference
from tests.billing.holds.reference_ledger import Row
from tests.billing.holds.reference_values import Amounts, Hold, Settlement, Void
from tests.billing.holds.scripts import Dump

RARE: Final = ("all", "nothing", "older", "remember", "remember", "install", "rehold", "lose", "stale")
"""The first three are what Redis has kept when it comes back."""


class Machine(Traffic):
    """All the rules."""

    @rule(
        subject=st.sampled_from(SUBJECTS),
        drawn=st.lists(quotas, min_size=1, max_size=4),
        told=st.sampled_from((2, 2, 1, 0)),
    )
    def change_quotas(self, subject: str, drawn: list[Any], told: int) -> None:
        """Give a subject new quotas: Redis adopts them with their counts, adopts them without, or has not heard of them
        yet."""
        self.set_quotas(subject, drawn)
        if told == 2:
            self.adopt_and_fill(subject)
        elif told == 1:
            self.adopt(subject, 0)

    @rule(key_id=st.sampled_from(tuple(OWNERS)), asked=asks)
    def revoke(self, key_id: str, asked: Ask) -> None:
        """Raise a key's version: admission with the version before is told to reload."""
        self.ledger.quotas[key_id].append(self.ledger.quotas[key_id][-1])
        self.adopt(key_id, 0)
        item = self.admission(replace(asked, key=key_id, versions=(0, -1), late=False))
        if self.ref.key(key_id) is not None and self.ref.account(OWNERS[key_id]) is not None:
            expected = [RELOAD] if self.ref.open else [CLOSED]
            before = self.real.dump()
            assert self.same("hot", self.ref.epoch, ROOM, [item]) == [expected]
            assert self.real.dump() == before

    @rule(subject=st.sampled_from(SUBJECTS), older=st.sampled_from((0, 0, 1)))
    @precondition(lambda self: self.fills)
    def adopt(self, subject: str, older: int) -> None:
        """Have Redis adopt a subject's newest quotas while some have no counts yet; a later adoption of older quotas
        changes nothing."""
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
        """Add to new counters the usage from before them: what the ledger has up to their adoption."""
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

    @rule(account_id=st.sampled_from(ACCOUNTS), stale=st.sampled_from((0, 0, 0, 1)), off=st.integers(-2, 2))
    @precondition(lambda self: self.went_back)
    def set_time_right(self, account_id: str, stale: int, off: int) -> None:
        """An account's time is far ahead of the clock, as a request finds out. Postgres's clock is half an hour off, or
        more than an hour."""
        account = self.ref.account(account_id)
        if account is None:
            return
        latest_s = max((hold.at_ms // 1000 for hold in self.ref.holds_of(account)), default=0)
        arguments = (account.hold_version + stale, latest_s, self.ref.now_ms + off * 1_801_000)
        self.same("retime", self.ref.epoch, account_id, *arguments)
        self.check()
        for subject in (account_id, *(key_id for key_id, owner in OWNERS.items() if owner == account_id)):
            self.adopt_and_fill(subject)

    def adopt_and_fill(self, subject: str) -> None:
        self.adopt(subject, 0)
        if self.fills and self.fills[-1][0] == subject:
            self.fill(0)

    @rule(pick=picks, charged=st.booleans(), told=st.booleans(), late=st.sampled_from(("", "settle", "void")))
    @precondition(lambda self: self.ref.journal)
    def expire(self, pick: int, charged: bool, told: bool, late: str) -> None:
        """A hold whose gateway is taken for dead: claimed, decided by the ledger, told, dropped. That gateway may be
        alive, and end its request just then."""
        request_id = list(self.ref.journal)[pick % len(self.ref.journal)]
        self.expire_one(request_id, charged, told, late)

    def expire_one(self, request_id: str, charged: bool, told: bool, late: str = "") -> None:
        reply = self.same("claim", self.ref.epoch, request_id)
        self.check()
        if reply[0] != 0:
            return
        if request_id in self.running:
            self.running.remove(request_id)
        hold = self.ref.journal[request_id]
        if late == "settle":
            self.call([Settlement(request_id, hold.names, self.debit(request_id, "equal", 0), b"debit")], ROOM)
        elif late == "void":
            self.call([Void(request_id, hold.names)], ROOM)
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
        if self.same("rehold", epoch, request_id, again) == 0:
            self.exceeded(hold.names, hold.at_ms, hold.amounts)
        self.check()

    def new_epoch(self, kept: str, *, killed: bool, opened: bool) -> None:
        """Redis comes back: as it was, empty, or as it was some time ago. A gateway that is killed with it has written
        nothing and holds nothing again; what it was about to send may still arrive."""
        if kept == "nothing":
            self.real.restore(Dump({}, {}, {}, dict.fromkeys(SUBJECTS)))
            epoch, now_ms = self.ref.epoch or 0, self.ref.now_ms
            self.ref = Reference()
            self.ref.now_ms = now_ms
        elif kept == "older" and self.snapshot is not None:
            then, dump = self.snapshot
            epoch, now_ms = self.ref.epoch or 0, self.ref.now_ms
            self.real.restore(dump)
            self.ref = copy.deepcopy(then)
            self.ref.now_ms = now_ms
        else:
            epoch = self.ref.epoch or 0
        self.same("fence", epoch + 1, f"life {epoch + 1}")
        self.forget_promises()
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
    def open_at_last(self) -> None:
        """The last gateway has joined."""
        self.set_open()

    def remember(self) -> None:
        """What a Redis that comes back older comes back as."""
        self.snapshot = (copy.deepcopy(self.ref), self.real.dump())

    def lose_state(self, subject: str, record_too: bool) -> None:
        """Delete an installed state: the loss is noticed, also when the record of it is deleted, and a new epoch
        begins."""
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
        assert self.same("hot", epoch, ROOM, [item, Void(known, item.names)]) == []
        assert self.same("apply", epoch, item.names.account, 0, []) == [1]
        assert self.same("claim", epoch, known) == [1]
        assert self.same("ack", epoch, [(known, item.names.account, None)]) == [1]
        assert self.same("adopt", epoch, item.names.account, item.names.key, 10**6, self.new_id(), ()) == [1]
        assert self.same("fill", epoch, item.names.account, self.new_id(), ()) == 1
        assert self.same("retime", epoch, item.names.account, 0, 0, self.ref.now_ms) == 1
        assert self.same("drop", epoch, known, 0, real=(epoch, known, item.names, 0)) == 1
        assert self.real.set_open(epoch) == -1
        if off < 0:
            assert self.same("fence", epoch, "old") == 0
        assert self.real.dump() == before

    def teardown(self) -> None:
        """Whatever has happened, everything ends: no hold stays, no debit waits, Redis and the ledger agree."""
        try:
            if self.ref.epoch is not None and self.ref.exact:
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
            self.flush(True, ROOM, True)
        self.outbox.clear()
        for account_id in ACCOUNTS:
            account = self.ref.account(account_id)
            assert account is not None
            assert self.ref.held(account) == 0
            assert account.balance == self.ledger.accounts[account_id].balance
