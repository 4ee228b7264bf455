"""The scripts, the reference and a ledger side by side, and how what hypothesis draws is fitted to their state.

model_base      this: the three, and inputs that fit
model_checks    what must hold after every step
model_traffic   what happens all day: requests, settlements, grants, corrections, the clock
model_machine   that, and what happens less often: quotas, expiry, losses, epochs
"""

import copy
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from billing.holds.redis.layout import AHEAD_S, HELD, SETTLED, AccountState, Counter, Entry
from billing.money import MAX_NANO
from billing.quotas import Metric, Quota, Window, window_end_s, window_id
from tests.model.inputs import (
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
from tests.model.reference import (
    CLOSED,
    GONE,
    OK,
    RELOAD,
    Account,
    Admission,
    Amounts,
    Hold,
    Ledger,
    Names,
    Reference,
    Row,
    Settlement,
    Void,
)
from tests.model.scripts import Dump, Scripts, unpacked


class ModelBase(RuleBasedStateMachine):
    """The gateway's side is what a gateway remembers: running requests, and debits that are not in the ledger yet."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self.real = Scripts(redis_url, f"t{secrets.token_hex(4)}", OWNERS)
        self.ref = Reference()
        self.ledger = Ledger(OWNERS)
        self.made = 0
        self.scale = SCALES[0]
        self.requests: dict[str, Hold] = {}
        self.running: list[str] = []
        self.debits: dict[str, Amounts] = {}
        self.outbox: dict[str, tuple[int, int]] = {}
        self.fills: list[tuple[str, str, int, int, int, int, tuple[Quota, ...]]] = []
        self.snapshot: tuple[Reference, Dump] | None = None
        self.went_back = False
        self.granted = dict.fromkeys(ACCOUNTS, 0)

    # Making things

    def new_id(self) -> str:
        self.made += 1
        return f"{self.made:026d}"

    def amount(self, fraction: int, jitter: int) -> int:
        return min(max(self.scale * fraction // 1000 + jitter, 0), MAX_NANO)

    def quota(self, drawn: tuple[Window, Metric, tuple[int, int, int], str | None, str]) -> Quota:
        window, metric, (count, fraction, jitter), model, feature = drawn
        limit = self.amount(fraction, jitter) if metric is Metric.cost else count
        return Quota(window, metric, limit, model, feature)

    def admission(self, ask: Ask) -> Admission:
        account_id = OWNERS[ask.key]
        input_cost, tokens, least = self.aimed(ask, self.amount(*ask.input_cost))
        ask = replace(ask, tokens=tokens, least=least)
        unit = min(self.scale // 10**5 * ask.unit[0] + ask.unit[1], (MAX_NANO - input_cost) // max(ask.least, 1))
        most = min(ask.least + ask.elastic, 2**31 - 1, (MAX_NANO - input_cost) // unit if unit else 2**31 - 1)
        ladder = self.ladder(ask, input_cost, unit * most)
        versions, limits = [], []
        for subject, off in zip((account_id, ask.key), ask.versions, strict=True):
            version = max(self.ledger.version(subject) + off, 1)
            versions.append(version)
            known = self.ledger.quotas[subject][min(version, self.ledger.version(subject)) - 1]
            limits.append(tuple(quota for quota in known if quota.applies_to(ask.model, ask.feature)))
        request_id = self.new_id()
        return Admission(
            request_id,
            Names(account_id, ask.key, ask.model, ask.feature),
            (versions[0], versions[1]),
            ask.credit,
            input_cost,
            unit,
            ask.tokens,
            ask.choices,
            ask.least,
            most,
            self.ref.now_ms + (-1 if ask.late else 500),
            ask.running,
            (limits[0], limits[1]),
            b"expired " + request_id.encode(),
            ladder,
        )

    def ladder(self, ask: Ask, input_cost: int, output_cost: int) -> tuple[tuple[int, int], ...]:
        """Input tokens and cost with further calls, those alone that can be paid at all."""
        rungs, tokens, cost = [], ask.tokens, input_cost
        for more_tokens, fraction in ask.ladder:
            tokens, cost = tokens + more_tokens, cost + self.amount(fraction, 0)
            if cost + output_cost > MAX_NANO:
                break
            rungs.append((tokens, cost))
        return tuple(rungs)

    def aimed(self, ask: Ask, input_cost: int) -> tuple[int, int, int]:
        """Input cost, input tokens and least output, such that they just fit, or just don't."""
        account, key = self.ref.account(OWNERS[ask.key]), self.ref.key(ask.key)
        plain = (input_cost, ask.tokens, ask.least)
        if account is None or key is None:
            return plain
        output_cost = ask.least * (self.scale // 10**5 * ask.unit[0] + ask.unit[1])
        if ask.aim == "balance":
            left = account.balance + ask.credit - self.ref.held(account)
            return min(max(left - output_cost + ask.by, 0), MAX_NANO), ask.tokens, ask.least
        windows = [
            (subject, window)
            for subject in (account, key)
            for window in subject.windows.values()
            if window.quota.applies_to(ask.model, ask.feature) and window.quota.limit < 10**6 * self.scale
        ]
        if ask.aim != "limit" or not windows:
            return plain
        subject, window = windows[ask.tokens % len(windows)]
        quota = window.quota
        at = window_id(quota.window, self.ref.now_of(account))
        left = max(quota.limit - sum(self.ref.used_in(subject, window, at)) + ask.by, 0)
        match quota.metric:
            case Metric.cost:
                return min(max(left - output_cost, 0), MAX_NANO), ask.tokens, ask.least
            case Metric.output_tokens:
                return input_cost, ask.tokens, min(left // ask.choices, 10**5)
            case Metric.requests:
                return plain
            case _:
                return input_cost, min(max(left - ask.choices * ask.least, 0), 2**31), ask.least

    def debit(self, request_id: str, how: str, pick: int) -> Amounts:
        """Return the charge of a request, which is chosen once."""
        if request_id not in self.debits:
            held = self.requests[request_id].amounts if request_id in self.requests else Amounts(1000, 10, 10)
            if how == "less":
                held = Amounts(pick % (held.cost + 1), pick % (held.input + 1), pick % (held.output + 1))
            elif how == "more":
                held = Amounts(held.cost + pick % 1000, held.input + pick % 50, held.output + pick % 50)
            self.debits[request_id] = held
        return self.debits[request_id]

    def names(self, request_id: str) -> Names:
        hold = self.requests.get(request_id)
        return hold.names if hold is not None else Names("acc_one", "key_1", "beta", "llm")


NOTHING = Amounts(requests=0)


@dataclass
class Ceiling:
    """The most that a window may show: its limit at the last admission, and what was added since without one."""

    quota: Quota
    most: int


class Checked(ModelBase):
    """`check` is called after every step."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        # By subject, tag and window id.
        self.ceilings: dict[tuple[str, int, int], Ceiling] = {}
        # The least that may be available to an account: what its last admission left it, as its ceilings.
        self.floors: dict[str, int] = {}
        # Requests that have been settled or voided in this epoch.
        self.ended: set[str] = set()

    def same(self, name: str, *arguments: Any, real: tuple[Any, ...] | None = None) -> Any:
        """Call the script and the reference: one reply. A story that leaves the bound of all amounts ends there."""
        answer = getattr(self.real, name)(*(arguments if real is None else real))
        expected = getattr(self.ref, name)(*arguments)
        if not self.ref.exact:
            reject()
        assert answer == expected, f"{name}: Redis says {answer}, the reference {expected}"
        return expected

    # What was promised

    def promised(self, item: Admission | Settlement | Void, reply: list[Any]) -> None:
        """Note what a reply of the hot path means for what may come after it."""
        if reply[0] != OK:
            return
        if not isinstance(item, Admission):
            assert item.id not in self.ended, "a hold has ended twice"
            self.ended.add(item.id)
            if isinstance(item, Settlement):
                hold = self.requests[item.id]
                self.exceeded(hold.names, hold.at_ms, item.amounts, hold.amounts)
            return
        assert reply[3] >= 0
        self.floors[item.names.account] = -item.credit
        for subject, limits in zip((item.names.account, item.names.key), item.limits, strict=True):
            for quota in limits:
                at = window_id(quota.window, reply[2] // 1000)
                self.ceilings[subject, quota.tag, at] = Ceiling(quota, quota.limit)

    def exceeded(self, names: Names, at_ms: int, spent: Amounts, held: Amounts = NOTHING) -> None:
        """More was spent than an admission has weighed: usage above its hold, or usage that had none."""
        if names.account in self.floors:
            self.floors[names.account] -= max(spent.cost - held.cost, 0)
        for (subject, _, at), ceiling in self.ceilings.items():
            quota = ceiling.quota
            if (
                subject in (names.account, names.key)
                and quota.applies_to(names.model, names.feature)
                and window_id(quota.window, at_ms // 1000) == at
            ):
                ceiling.most += max(spent.of(quota.metric) - held.of(quota.metric), 0)

    def forget_promises(self) -> None:
        """Everything is loaded again from the ledger, which refuses nothing."""
        self.ceilings.clear()
        self.floors.clear()
        self.ended.clear()

    # What must be so

    def check(self) -> None:
        ref, dump = self.ref, self.real.dump()
        assert dump.meta[b"epoch"] == str(ref.epoch).encode()
        assert (dump.meta[b"open"] == b"1") == ref.open
        entries = {key.decode(): unpacked(raw) for key, raw in dump.journal.items()}
        assert entries == {request_id: hold.entry() for request_id, hold in ref.journal.items()}
        for account_id in ACCOUNTS:
            account, state = ref.account(account_id), dump.account(account_id)
            assert (account is None) == (state is None or state.epoch != ref.epoch)
            if account is None or state is None:
                continue
            holds = ref.holds_of(account)
            counted = (state.balance_nano, state.held_nano, state.running, state.dseq, state.xseq, state.hold_version)
            assert counted == (
                account.balance,
                sum(hold.amounts.cost for hold in holds),
                len(holds),
                account.dseq,
                account.xseq,
                account.hold_version,
            )
            assert (state.principal_version, state.now_s) == (account.version, account.now_s)
            assert state.counters == ref.counters(account)
            self.check_ceilings(account_id, state.counters)
            if account_id in self.floors:
                assert state.balance_nano - state.held_nano >= self.floors[account_id]
            self.check_ledger(account, state, entries)
        for key_id in OWNERS:
            key, seen = ref.key(key_id), dump.key(key_id)
            assert (key is None) == (seen is None or seen.epoch != ref.epoch)
            if key is not None and seen is not None:
                assert (seen.principal_version, seen.running) == (key.version, len(ref.holds_of(key)))
                assert seen.counters == ref.counters(key)
                self.check_ceilings(key_id, seen.counters)

    def check_ceilings(self, subject: str, counters: Iterable[Counter]) -> None:
        """No window is above its limit but by what was reported above a hold or came without one. A window that has
        passed, and a counter that is counted anew (its tag is marked), promise nothing."""
        shown = {(counter.tag, counter.window_id): counter.used + counter.held for counter in counters}
        for key in [key for key in self.ceilings if key[0] == subject]:
            used = shown.get(key[1:])
            if used is None:
                del self.ceilings[key]
            else:
                assert used <= self.ceilings[key].most

    def check_ledger(self, account: Account, state: AccountState, entries: dict[str, Entry]) -> None:
        """I3: what was granted is what is available, held and spent, where grants and debits are those of the ledger
        that Redis was told of, and the debits that the ledger was not; so are the windows."""
        settled = {
            request_id: hold
            for request_id, hold in self.ref.journal.items()
            if hold.state == SETTLED and hold.epoch == self.ref.epoch and hold.names.account == account.id
        }
        waiting = {request_id: hold for request_id, hold in settled.items() if request_id not in self.ledger.rows}
        corrections = self.ledger.accounts[account.id].corrections
        untold = {row.request for row in corrections if row.xseq > account.xseq and row.request not in settled}
        told = [
            row for row in self.ledger.rows.values() if row.names.account == account.id and row.request not in untold
        ]
        told += [Row("", hold.names, self.requests[name].at_ms, hold.amounts) for name, hold in waiting.items()]
        granted = sum(row.delta for row in corrections if row.request is None and row.xseq <= account.xseq)
        available = state.balance_nano - state.held_nano
        held = sum(
            entry.cost_nano
            for entry in entries.values()
            if entry.state != SETTLED and entry.epoch == self.ref.epoch and entry.account_id == account.id
        )
        assert granted == available + held + sum(row.amounts.cost for row in told)
        if not self.went_back:  # what was admitted in windows that have not begun is outside the promise
            self.check_windows(account, told)

    def check_windows(self, account: Account, told: list[Row]) -> None:
        """Each counter of an account and its keys is what these debits and the open holds have used."""
        keys = (self.ref.key(key_id) for key_id, owner in OWNERS.items() if owner == account.id)
        for subject in (account, *(key for key in keys if key is not None)):
            holds = self.ref.holds_of(subject)
            for window in subject.windows.values():
                if not window.pending:
                    at = window.window_id
                    used = self.ledger.used(subject.id, window.quota, at, told)
                    used += sum(
                        hold.amounts.of(window.quota.metric) for hold in holds if _counts(hold, window.quota, at)
                    )
                    assert sum(self.ref.used_in(subject, window, at)) == used


def _counts(hold: Hold, quota: Quota, at: int) -> bool:
    """Whether a hold counts in window `at` of a quota."""
    applies = quota.applies_to(hold.names.model, hold.names.feature)
    return applies and window_id(quota.window, hold.at_ms // 1000) == at


# `max_unsettled` where it is not what is tried.
ROOM = 1000


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


# The first three are what Redis has kept when it comes back.
RARE = ("all", "nothing", "older", "remember", "remember", "install", "rehold", "lose", "stale")


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
            assert self.ref.held(account) == 0
            assert account.balance == self.ledger.accounts[account_id].balance
