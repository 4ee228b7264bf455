"""What happens all day: requests are admitted and end, debits reach the ledger, Redis is told, the clock goes on."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from billing.holds.redis.layout import AHEAD_S, HELD, SETTLED
from billing.money import MAX_NANO
from billing.quotas import window_end_s
from tests.billing.holds.model_checks import NOTHING, Checked
from tests.billing.holds.model_inputs import (
    ACCOUNTS,
    FEATURES,
    MODELS,
    OWNERS,
    SCALES,
    SHARES,
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
from tests.billing.holds.reference import GONE, OK
from tests.billing.holds.reference_ledger import Row
from tests.billing.holds.reference_values import Admission, Amounts, Hold, Names, Settlement, Void
from tests.billing.holds.scripts import Dump

ROOM = 1000
"""`max_unsettled` where it is not what is tried."""


class Traffic(Checked):
    """Requests and their debits."""

    @initialize(
        scale=st.sampled_from(SCALES),
        elastic=st.sampled_from(SHARES),
        start_ms=st.integers(0, 400_000),
        data=st.data(),
    )
    def begin(self, scale: int, elastic: tuple[int, int], start_ms: int, data: st.DataObject) -> None:
        """Accounts with money, subjects with quotas, all of it loaded and open."""
        self.scale, self.elastic = scale, elastic
        self.ref.now_ms = START_S * 1000 + start_ms
        self.real.set_clock(self.ref.now_ms)
        for subject in SUBJECTS:
            chosen = data.draw(st.lists(quotas, max_size=4), label=subject)
            self.set_quotas(subject, chosen)
        for account_id in ACCOUNTS:
            self.grant(account_id, data.draw(st.integers(500, 12_000)), 0)
        self.same("fence", 1, "first")
        for key_id in OWNERS:
            self.install(key_id, stale=False)
        self.set_open()

    @rule(step=steps)
    def advance(self, step: tuple[Any, int]) -> None:
        """The server's clock goes on, to just before or after a window's end, or is set back."""
        self.step(step)

    def step(self, step: tuple[Any, int]) -> None:
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
        """Requests of anybody."""
        self.send(items, ROOM)

    @rule(
        items=st.lists(asks, min_size=3, max_size=8), key=st.sampled_from(tuple(OWNERS)), model=st.sampled_from(MODELS)
    )
    def rush(self, items: list[Any], key: str, model: str) -> None:
        """Many requests of one key on one model: they want the same money and windows."""
        self.send([replace(ask, key=key, model=model) for ask in items], ROOM)

    @rule(items=st.lists(endings, min_size=1, max_size=5))
    @precondition(lambda self: self.running)
    def end(self, items: list[Any]) -> None:
        """Requests settle, or are given back."""
        self.send(items, ROOM)

    @rule(items=st.lists(endings, min_size=1, max_size=3), data=st.data())
    @precondition(lambda self: self.running)
    def end_again(self, items: list[Any], data: st.DataObject) -> None:
        """The same endings twice, in any order, some of them in a second call: the first of a request's counts."""
        made = self.fitted(items)
        both = data.draw(st.permutations([*made, *made]), label="order")
        cut = data.draw(st.integers(1, len(both)), label="cut")
        self.call(both[:cut], ROOM)
        self.call(both[cut:], ROOM)
        before = self.real.dump()
        assert all(reply[0] == GONE for reply in self.same("hot", self.ref.epoch, ROOM, made))
        assert self.real.dump() == before

    @rule(items=st.lists(st.one_of(asks, endings), min_size=1, max_size=6), room=st.sampled_from((ROOM, ROOM, 3, 6)))
    def turn(self, items: list[Any], room: int) -> None:
        """All kinds in one call, as a turn of a gateway's event loop sends them, where the journal may be full."""
        self.send(items, room)

    def send(self, items: list[Any], room: int) -> None:
        self.call(self.fitted(items), room)

    def fitted(self, items: list[Any]) -> list[Admission | Settlement | Void]:
        """Requested admissions, and ends of requests that run, are admitted in the same call, or have ended."""
        made: list[Admission | Settlement | Void] = []
        for item in items:
            if isinstance(item, Ask):
                made.append(self.admission(item))
                continue
            what, pick, how, amount = item
            beside = {ask.id: ask for ask in made if isinstance(ask, Admission)}
            known = [*self.running, *beside]
            if not known or pick % 5 == 0:
                known = [*self.requests, "0" * 26]
            request_id = known[-1 - pick % min(len(known), 8)]
            ask = beside.get(request_id)
            names = self.names(request_id) if ask is None else ask.names
            if what == "void":
                made.append(Void(request_id, names))
                continue
            if ask is not None and request_id not in self.debits:
                self.debits[request_id] = ask.amounts(ask.least)
            made.append(Settlement(request_id, names, self.debit(request_id, how, amount), b"debit"))
        return made

    def call(self, made: list[Admission | Settlement | Void], room: int) -> None:
        before = self.real.dump()
        self.sent(made, self.same("hot", self.ref.epoch, room, made, self.elastic), before)

    def sent(self, made: list[Admission | Settlement | Void], replies: list[Any], before: Dump) -> None:
        """What the gateway makes of the replies. Whatever was refused has changed nothing."""
        if all(reply[0] != OK for reply in replies):
            assert self.real.dump() == before
        for item, reply in zip(made, replies, strict=True):
            if isinstance(item, Admission):
                if reply[0] == OK:
                    amounts = item.at(reply[4]).amounts(reply[1])
                    self.requests[item.id] = Hold(HELD, 0, reply[2], item.names, amounts, item.payload)
                    self.running.append(item.id)
            else:
                if item.id in self.running:
                    self.running.remove(item.id)
                if isinstance(item, Settlement) and reply[0] == OK:
                    self.outbox[item.id] = (self.ref.epoch or 0, reply[1])
            self.promised(item, reply)
        self.check()

    def subjects(self) -> list[Any]:
        found = [*map(self.ref.account, ACCOUNTS), *map(self.ref.key, OWNERS)]
        return [subject for subject in found if subject is not None]

    @rule(account_id=st.sampled_from(ACCOUNTS), fraction=st.integers(-300, 3000), jitter=jitters)
    def grant(self, account_id: str, fraction: int, jitter: int) -> None:
        """Credit is given, or taken back; Redis is not told yet."""
        delta = self.scale * fraction // 1000 + jitter
        balance = self.ledger.accounts[account_id].balance
        delta = max(min(delta, MAX_NANO - 10**6 - self.granted[account_id], MAX_NANO - balance), -MAX_NANO - balance)
        if delta:
            self.granted[account_id] += max(delta, 0)
            self.ledger.grant(account_id, delta)

    @rule(account_id=st.sampled_from(ACCOUNTS), most=st.integers(1, 4), stale=st.sampled_from((0, 0, 0, -1, 1)))
    def sync(self, account_id: str, most: int, stale: int) -> None:
        """Apply some corrections in Redis; a call that expects another number than Redis's changes nothing."""
        account = self.ref.account(account_id)
        after = (account.xseq if account is not None else 0) + stale
        known = [window.quota for subject in self.subjects() for window in subject.windows.values()]
        wanted = {quota.tag: quota for quota in (*known, *(q for s in SUBJECTS for q in self.ledger.quotas[s][-1]))}
        rows = self.ledger.corrections_after(account_id, after, wanted.values())[:most]
        held = {row.xseq: self.held_by(row.request) for row in rows if row.request is not None}
        self.same("apply", self.ref.epoch, account_id, after, rows)
        for row in rows if account is not None and stale == 0 else ():
            if row.request is None:
                if account_id in self.floors:
                    self.floors[account_id] += min(row.delta, 0)
            elif (amounts := held[row.xseq]) is not None:
                names = Names(account_id, row.key or "", row.model, row.feature)
                self.exceeded(names, row.at_ms, row.amounts, amounts)
        self.check()

    def held_by(self, request_id: str) -> Amounts | None:
        """What a request's hold in Redis weighs there; None for one that Redis has settled itself."""
        hold = self.ref.journal.get(request_id)
        if hold is None or hold.epoch != self.ref.epoch:
            return NOTHING
        return None if hold.state == SETTLED else hold.amounts

    def sync_all(self, account_id: str) -> None:
        while (account := self.ref.account(account_id)) and account.xseq < self.ledger.accounts[account_id].xseq:
            self.sync(account_id, 1000, 0)

    @rule(pick=picks, how=st.sampled_from(("less", "equal", "more")), amount=picks, arrived=st.booleans())
    @precondition(lambda self: self.requests)
    def ledger_way(self, pick: int, how: str, amount: int, arrived: bool) -> None:
        """A settlement whose fate is unknown is written to the ledger itself. Redis may have done it all the same: then
        it must not forget the entry, which a drain finds at once, before it knows of the ledger's correction."""
        known = self.running if arrived and self.running else list(self.requests)
        request_id = known[pick % len(known)]
        hold = self.requests[request_id]
        amounts = self.debit(request_id, how, amount)
        if arrived:
            self.call([Settlement(request_id, hold.names, amounts, b"debit")], ROOM)
            self.outbox.pop(request_id, None)  # its gateway was not told
        self.ledger.write(Row(request_id, hold.names, hold.at_ms, amounts))
        if request_id in self.running:
            self.running.remove(request_id)
        if arrived:
            self.flush(True, ROOM, False)

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

    # How things come to be in Redis

    def set_quotas(self, subject: str, drawn: list[Any]) -> None:
        """A new version of a subject's quotas; Redis is not told."""
        made = [self.quota(quota) for quota in drawn]
        self.ledger.quotas[subject].append(tuple({quota.tag: quota for quota in made}.values()))

    def install(self, key_id: str, stale: bool) -> None:
        """A key and its account are loaded from the ledger; `stale`: a correction too late to be in what was read."""
        epoch, account_id = self.ref.epoch or 0, OWNERS[key_id]
        known = self.ref.account(account_id)
        now_s = self.ref.now_ms // 1000
        if known is not None and known.now_s <= now_s + AHEAD_S:
            now_s = self.ref.now_of(known)
        account = self.ledger.load_account(account_id, epoch, now_s)
        key = self.ledger.load_key(key_id, epoch, now_s)
        if stale and known is not None:
            account.xseq += 1
        self.same("install", epoch, account, key)
        self.check()

    def set_open(self) -> None:
        epoch = self.ref.epoch or 0
        assert self.real.set_open(epoch) == 1
        self.ref.open = True
        self.check()
