"""What the scripts promise, as a model of one partition, written from the protocol and not from the scripts.

Nothing is counted up and down here: what is held, running and used is summed anew, each time it is asked for, from the
entries of the journal and the debits that a subject was told of. Replies are those that the scripts' headers describe.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

from billing.holds.redis.layout import AHEAD_S, CLAIMED, HELD, SETTLED, STEP_S, Counter, Entry
from billing.money import MAX_NANO
from billing.quotas import Metric, Quota, Window, window_id


@dataclass(frozen=True)
class Amounts:
    """What one request holds or has used."""

    cost: int = 0
    input: int = 0
    output: int = 0
    requests: int = 1

    def of(self, metric: Metric) -> int:
        return (self.requests, self.input + self.output, self.input, self.output, self.cost)[metric]


@dataclass(frozen=True)
class Names:
    """The account, key and user of a request."""

    account: str
    key: str
    model: str
    feature: str
    gateway: str = "gateway"


@dataclass
class Hold:
    """An entry of the journal."""

    state: int
    epoch: int
    at_ms: int
    names: Names
    amounts: Amounts
    payload: bytes
    account_tags: set[int] = field(default_factory=set)
    key_tags: set[int] = field(default_factory=set)
    dseq: int = 0

    def entry(self) -> Entry:
        """As `layout` reads it, tags in order."""
        if self.state == SETTLED:
            return Entry(self.state, self.epoch, self.at_ms, self.names.account, self.payload, dseq=self.dseq)
        return Entry(
            self.state,
            self.epoch,
            self.at_ms,
            self.names.account,
            self.payload,
            cost_nano=self.amounts.cost,
            input_tokens=self.amounts.input,
            output_tokens=self.amounts.output,
            key_id=self.names.key,
            gateway=self.names.gateway,
            account_tags=tuple(sorted(self.account_tags)),
            key_tags=tuple(sorted(self.key_tags)),
        )


@dataclass(frozen=True)
class Told:
    """A debit that a subject was told of at `told_s`; `tags` are the counters that have it, None for all."""

    at_s: int
    told_s: int
    model: str
    feature: str
    amounts: Amounts
    tags: frozenset[int] | None = None


@dataclass
class Window_:
    """A counter: its current window, its value at the beginning, and the first of the told debits that counts in it."""

    quota: Quota
    window_id: int
    pending: bool = False
    base: int = 0
    base_window: int = -1
    since: int = 0

    def sees(self, told: Told) -> bool:
        if told.tags is not None and self.quota.tag not in told.tags:
            return False
        at = window_id(self.quota.window, told.at_s)
        return (
            self.quota.applies_to(told.model, told.feature)
            and at == self.window_id
            and at <= window_id(self.quota.window, told.told_s)
        )

    def follow(self, at_s: int, now_s: int) -> None:
        """A debit of a later window that has begun takes the counter there."""
        at = window_id(self.quota.window, at_s)
        if self.window_id < at <= window_id(self.quota.window, now_s):
            self.window_id = at


@dataclass
class Subject:
    """An account or a key as loaded for an epoch."""

    id: str
    epoch: int
    version: int
    windows: dict[int, Window_]
    told: list[Told] = field(default_factory=list)

    def tell(self, told: Told) -> None:
        for tag, window in self.windows.items():
            if window.quota.applies_to(told.model, told.feature) and (told.tags is None or tag in told.tags):
                window.follow(told.at_s, told.told_s)
        self.told.append(told)


@dataclass
class Account(Subject):
    balance: int = 0
    dseq: int = 0
    xseq: int = 0
    hold_version: int = 0
    now_s: int = 0


@dataclass(frozen=True)
class Admission:
    """What an admission is asked: limits are of every quota that applies."""

    id: str
    names: Names
    versions: tuple[int, int]
    credit: int
    input_cost: int
    unit: int
    input: int
    choices: int
    least: int
    most: int
    not_after_ms: int
    max_running: tuple[int, int]
    limits: tuple[tuple[Quota, ...], tuple[Quota, ...]]
    payload: bytes
    # Input tokens and cost with one more call each.
    ladder: tuple[tuple[int, int], ...] = ()

    def at(self, rung: int) -> "Admission":
        """The same with the input of one rung alone; 0 is the first input."""
        if rung == 0:
            return replace(self, ladder=())
        tokens, cost = self.ladder[rung - 1]
        return replace(self, input=tokens, input_cost=cost, ladder=())

    def amounts(self, output: int) -> Amounts:
        """Of `output` tokens a choice."""
        return Amounts(self.input_cost + output * self.unit, self.input, self.choices * output)


@dataclass(frozen=True)
class Settlement:
    id: str
    names: Names
    amounts: Amounts
    payload: bytes


@dataclass(frozen=True)
class Void:
    id: str
    names: Names


@dataclass(frozen=True)
class Correction:
    """A row of corrections, as `apply` is told it."""

    xseq: int
    delta: int
    request: str | None = None
    key: str | None = None
    at_ms: int = 0
    model: str = ""
    feature: str = ""
    amounts: Amounts = Amounts(requests=0)
    account_tags: frozenset[int] = frozenset()
    key_tags: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Row:
    """A usage event. A debit that Redis has counted has its epoch and dseq, one that it has not its xseq; both where
    it came by both ways."""

    request: str
    names: Names
    at_ms: int
    amounts: Amounts
    outcome: str = "settled"
    epoch: int | None = None
    dseq: int | None = None
    xseq: int | None = None

    def is_of(self, subject: str) -> bool:
        return subject in (self.names.account, self.names.key)


@dataclass
class LedgerAccount:
    balance: int = 0
    xseq: int = 0
    hyd_epoch: int = -1
    corrections: list[Correction] = field(default_factory=list)


class Ledger:
    """Accounts, usage rows by request, and every version of every subject's quotas (version 1 first)."""

    def __init__(self, owners: dict[str, str]) -> None:
        self.owners = owners
        self.accounts = {account: LedgerAccount() for account in owners.values()}
        self.rows: dict[str, Row] = {}
        self.quotas: dict[str, list[tuple[Quota, ...]]] = {subject: [()] for subject in (*owners.values(), *owners)}

    def version(self, subject: str) -> int:
        return len(self.quotas[subject])

    def grant(self, account_id: str, delta: int) -> None:
        account = self.accounts[account_id]
        account.balance += delta
        account.xseq += 1
        account.corrections.append(Correction(account.xseq, delta))

    def write(self, row: Row) -> Row:
        """Insert a debit, once for a request; answers what stands there now."""
        known = self.rows.get(row.request)
        if known is not None:
            if known.dseq is None and row.dseq is not None:
                known = self.rows[row.request] = replace(known, epoch=row.epoch, dseq=row.dseq)
            return known
        account = self.accounts[row.names.account]
        account.balance -= row.amounts.cost
        if row.epoch is None or row.epoch != account.hyd_epoch:
            account.xseq += 1
            row = replace(row, xseq=account.xseq)
            names = row.names
            account.corrections.append(
                Correction(
                    account.xseq,
                    -row.amounts.cost,
                    row.request,
                    names.key,
                    row.at_ms,
                    names.model,
                    names.feature,
                    row.amounts,
                )
            )
        self.rows[row.request] = row
        return row

    def used(self, subject: str, quota: Quota, at: int, rows: Iterable[Row]) -> int:
        """What these rows of a subject used in window `at` of a quota."""
        return sum(
            row.amounts.of(quota.metric)
            for row in rows
            if row.is_of(subject)
            and quota.applies_to(row.names.model, row.names.feature)
            and window_id(quota.window, row.at_ms // 1000) == at
        )

    def _windows(self, subject: str, now_s: int) -> dict[int, Window_]:
        windows = {}
        for quota in self.quotas[subject][-1]:
            at = window_id(quota.window, now_s)
            windows[quota.tag] = Window_(quota, at, False, self.used(subject, quota, at, self.rows.values()), at)
        return windows

    def load_account(self, account_id: str, epoch: int, now_s: int) -> Account:
        account = self.accounts[account_id]
        account.hyd_epoch = max(account.hyd_epoch, epoch)
        return Account(
            account_id,
            epoch,
            self.version(account_id),
            self._windows(account_id, now_s),
            balance=account.balance,
            xseq=account.xseq,
            now_s=now_s,
        )

    def load_key(self, key_id: str, epoch: int, now_s: int) -> Subject:
        return Subject(key_id, epoch, self.version(key_id), self._windows(key_id, now_s))

    def corrections_after(self, account_id: str, xseq: int, tags: Iterable[Quota]) -> list[Correction]:
        """With the tags of those of the quotas that apply."""
        quotas = tuple(tags)
        found = []
        for row in self.accounts[account_id].corrections:
            if row.xseq > xseq:
                applying = frozenset(
                    quota.tag
                    for quota in quotas
                    if row.request is not None and quota.applies_to(row.model, row.feature)
                )
                found.append(replace(row, account_tags=applying, key_tags=applying))
        return found

    def before(self, account_id: str, epoch: int, dseq: int, xseq: int) -> list[Row]:
        """Rows that Redis had counted at debit `dseq` of `epoch` and correction `xseq`."""
        return [
            row
            for row in self.rows.values()
            if row.names.account == account_id
            and (
                row.dseq <= dseq
                if row.dseq is not None and row.epoch == epoch
                else row.xseq is None or row.xseq <= xseq
            )
        ]


OK, BALANCE, QUOTA, CONCURRENCY, MISSING, RELOAD, PUSH, WAITING, CLOSED, LATE, FULL, GONE = range(12)
RESTART_MS = 2000


class Reference:
    """One partition. `now_ms` is the clock that Redis is made to show."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.epoch: int | None = None
        self.identity = ""
        self.open = False
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, Subject] = {}
        self.journal: dict[str, Hold] = {}
        self.installed: dict[str, int] = {}
        self.filling: dict[str, tuple[str, int]] = {}
        # Whether every sum has stayed within the bound of all amounts: beyond it a script's doubles are not exact.
        self.exact = True

    # What is summed

    def account(self, account_id: str) -> Account | None:
        found = self.accounts.get(account_id)
        return found if found is not None and found.epoch == self.epoch else None

    def key(self, key_id: str) -> Subject | None:
        found = self.keys.get(key_id)
        return found if found is not None and found.epoch == self.epoch else None

    def holds_of(self, subject: Subject) -> list[Hold]:
        """Open holds of the epoch, of an account or a key."""
        return [
            hold
            for hold in self.journal.values()
            if hold.state != SETTLED
            and hold.epoch == subject.epoch
            and subject.id in (hold.names.account, hold.names.key)
        ]

    def held(self, account: Account) -> int:
        return sum(hold.amounts.cost for hold in self.holds_of(account))

    def used_in(self, subject: Subject, window: Window_, at: int) -> tuple[int, int]:
        """What a counter has in window `at`: used, running requests among it, and held."""
        if at != window.window_id:
            return 0, 0
        quota = window.quota
        known = window.base if window.base_window == at else 0
        settled = sum(told.amounts.of(quota.metric) for told in subject.told[window.since :] if window.sees(told))
        held = sum(
            hold.amounts.of(quota.metric)
            for hold in self.holds_of(subject)
            if quota.applies_to(hold.names.model, hold.names.feature)
            and window_id(quota.window, hold.at_ms // 1000) == at
        )
        return (known + settled + held, 0) if quota.metric is Metric.requests else (known + settled, held)

    def counters(self, subject: Subject) -> tuple[Counter, ...]:
        """As `layout` reads them."""
        return tuple(
            Counter(
                tag | (1 << 31 if window.pending else 0),
                window.window_id,
                *self.used_in(subject, window, window.window_id),
            )
            for tag, window in subject.windows.items()
        )

    def look(self, account: Account) -> None:
        """Note when a sum exceeds its bound: usage that was charged or held again after a new epoch counts together
        with requests admitted since."""
        keys = (key for key in self.keys.values() if key.epoch == self.epoch)
        used = (counter.used + counter.held for subject in (account, *keys) for counter in self.counters(subject))
        self.exact &= max(abs(account.balance), self.held(account), *used) <= MAX_NANO

    def now_of(self, account: Account) -> int:
        """The account's time in seconds: it never goes back by itself."""
        return max(self.now_ms // 1000, account.now_s)

    # The hot path

    def hot(
        self,
        epoch: int,
        max_unsettled: int,
        items: Sequence[Admission | Settlement | Void],
        elastic: tuple[int, int] = (1_000_000, 0),
    ) -> list[Any]:
        """`elastic`: the share of an elastic hold in millionths, and its output tokens."""
        if epoch != self.epoch:
            return []
        replies: list[Any] = []
        for item in items:
            if isinstance(item, Admission):
                replies.append(self._admit(item, max_unsettled, elastic))
            elif isinstance(item, Settlement):
                replies.append(self._settle(item))
            else:
                replies.append(self._void(item))
        return replies

    def _admit(self, ask: Admission, max_unsettled: int, elastic: tuple[int, int]) -> list[Any]:
        if not self.open:
            return [CLOSED]
        if self.now_ms > ask.not_after_ms:
            return [LATE]
        account, key = self.account(ask.names.account), self.key(ask.names.key)
        if account is None or key is None:
            return [MISSING]
        stored = (account.version, key.version)
        if any(known > asked for known, asked in zip(stored, ask.versions, strict=True)):
            return [RELOAD]
        if stored != ask.versions:
            return [PUSH]
        if len(self.journal) >= max_unsettled:
            return [FULL]
        least, held = ask.amounts(ask.least), self.held(account)
        if min(account.balance + ask.credit, MAX_NANO) < least.cost:
            return [BALANCE, min(account.balance + ask.credit, MAX_NANO) - held, least.cost, held]
        if account.now_s > self.now_ms // 1000 + AHEAD_S:
            return [WAITING]
        enough = max(ask.least, min(elastic[1], ask.most))
        for rung in range(len(ask.ladder), -1, -1):
            at_rung = ask.at(rung)
            if rung:
                refused, _ = self._weighed(_stretched(ask, at_rung, elastic[0]), account, key, enough)
                if refused and refused != [WAITING]:
                    continue
            refused, free = self._weighed(at_rung, account, key, enough if rung else ask.least)
            if refused == [WAITING] or (refused and rung == 0):
                return refused
            if not refused:
                break
        for code, subject in enumerate((account, key)):
            if 0 < ask.max_running[code] <= len(self.holds_of(subject)):
                return [CONCURRENCY, code]
        most = _granted(ask, min(free, default=None), elastic)
        return self._hold(at_rung, account, key, most, rung)

    def _weighed(self, ask: Admission, account: Account, key: Subject, needed: int) -> tuple[list[Any], list[int]]:
        """What refuses so many output tokens beside the input, or nothing; and the output tokens that are free by each
        bound."""
        least, held, now_s = ask.amounts(needed), self.held(account), self.now_of(account)
        available = min(account.balance + ask.credit, MAX_NANO) - held
        short = [BALANCE, available, least.cost, held] if available < least.cost else []
        free = [(available - ask.input_cost) // ask.unit] if ask.unit else []
        exhausted: list[int] = []
        spent = False
        for code, subject in enumerate((account, key)):
            for place, quota in enumerate(ask.limits[code]):
                window = subject.windows.get(quota.tag)
                at = window_id(quota.window, now_s)
                if window is None or window.pending or window.window_id > at:
                    return [WAITING], []
                used, held = self.used_in(subject, window, at)
                if used + held + least.of(quota.metric) > quota.limit:
                    exhausted += [code, place, used, held, least.of(quota.metric)]
                    spent |= used + least.of(quota.metric) > quota.limit
                else:
                    free += _free_output(ask, quota, used + held)
        if exhausted and (spent or not short):
            return [QUOTA, now_s * 1000, *exhausted], []
        return short, free

    def _hold(self, ask: Admission, account: Account, key: Subject, most: int, rung: int) -> list[Any]:
        amounts, now_s = ask.amounts(most), self.now_of(account)
        available = min(account.balance + ask.credit, MAX_NANO) - self.held(account)
        at_ms = max(self.now_ms, now_s * 1000)
        of_account, of_key = ({quota.tag for quota in limits} for limits in ask.limits)
        self.journal[ask.id] = Hold(HELD, account.epoch, at_ms, ask.names, amounts, ask.payload, of_account, of_key)
        account.now_s = now_s
        account.hold_version += 1
        minute = []
        for subject, limits in ((account, ask.limits[0]), (key, ask.limits[1])):
            for quota in limits:
                window = subject.windows[quota.tag]
                window.window_id = window_id(quota.window, now_s)
                if quota.window is Window.minute:
                    minute.append(sum(self.used_in(subject, window, window.window_id)))
        return [OK, most, at_ms, available - amounts.cost, rung, *minute]

    def _open_hold(self, request_id: str, names: Names) -> tuple[Hold, Account, Subject] | None:
        hold, account, key = self.journal.get(request_id), self.account(names.account), self.key(names.key)
        if hold is None or hold.state != HELD or hold.epoch != self.epoch or account is None or key is None:
            return None
        return hold, account, key

    def _settle(self, item: Settlement) -> list[Any]:
        found = self._open_hold(item.id, item.names)
        if found is None:
            return [GONE, int(item.id in self.journal)]
        hold, account, key = found
        account.balance -= item.amounts.cost
        account.dseq += 1
        account.hold_version += 1
        for subject in (account, key):
            subject.tell(Told(hold.at_ms // 1000, self.now_of(account), *_of(hold.names), item.amounts))
        self.journal[item.id] = Hold(
            SETTLED, account.epoch, self.now_ms, hold.names, item.amounts, item.payload, dseq=account.dseq
        )
        self.look(account)
        return [OK, account.dseq, account.balance - self.held(account)]

    def _void(self, item: Void) -> list[Any]:
        hold = self.journal.get(item.id)
        if hold is not None and hold.state == HELD and hold.epoch != self.epoch:
            del self.journal[item.id]
            return [OK]
        found = self._open_hold(item.id, item.names)
        if found is None:
            return [GONE, int(item.id in self.journal)]
        _, account, _ = found
        del self.journal[item.id]
        account.hold_version += 1
        return [OK, account.balance - self.held(account)]

    # Corrections, expiry, acknowledgement

    def apply(self, epoch: int, account_id: str, after: int, rows: Sequence[Correction]) -> list[int]:
        if epoch != self.epoch:
            return [1]
        account = self.account(account_id)
        if account is None:
            return [2]
        if account.xseq != after:
            return [0, account.xseq]
        account.now_s = self.now_of(account)
        for row in rows:
            self._correct(account, row)
            account.xseq = row.xseq
            self.look(account)
        return [0, account.xseq]

    def _correct(self, account: Account, row: Correction) -> None:
        hold = self.journal.get(row.request) if row.request is not None else None
        here = hold is not None and hold.epoch == self.epoch
        if hold is not None and here and hold.state == SETTLED:
            return
        account.balance += row.delta
        if hold is not None and hold.state != SETTLED:
            assert row.request is not None
            del self.journal[row.request]
            account.hold_version += here
        if row.request is None:
            return
        at_s = (hold.at_ms if hold is not None and here else row.at_ms) // 1000
        for subject, tags in ((account, row.account_tags), (self.key(row.key or ""), row.key_tags)):
            if subject is not None:
                told = Told(at_s, self.now_of(account), row.model, row.feature, row.amounts, None if here else tags)
                subject.tell(told)

    def claim(self, epoch: int, request_id: str) -> list[Any]:
        if epoch != self.epoch or not self.open:
            return [1]
        hold = self.journal.get(request_id)
        if hold is None or hold.state == SETTLED:
            return [2]
        hold.state = CLAIMED
        return [0, hold.entry()]

    def drop(self, epoch: int, request_id: str, xseq: int) -> int:
        if epoch != self.epoch:
            return 1
        hold = self.journal.get(request_id)
        if hold is None or hold.state != CLAIMED:
            return 0
        if hold.epoch == epoch:
            account = self.account(hold.names.account)
            if account is None or account.xseq < xseq:
                return 2
            account.hold_version += 1
        del self.journal[request_id]
        return 0

    def ack(self, epoch: int, rows: Iterable[tuple[str, str, int | None]]) -> list[Any]:
        """`rows`: request id, account id, xseq or None where the debit is not a correction."""
        if epoch != self.epoch:
            return [1]
        staying: list[str] = []
        for request_id, account_id, xseq in rows:
            hold = self.journal.get(request_id)
            if hold is None or hold.state != SETTLED:
                continue
            if xseq is not None and hold.epoch == epoch:
                account = self.account(account_id)
                if account is None or account.xseq < xseq:
                    staying.append(request_id)
                    continue
            del self.journal[request_id]
        return [0, *staying]

    # Epochs and loading

    def fence(self, epoch: int, identity: str) -> int:
        if self.epoch is not None and self.epoch >= epoch:
            return 0
        self.epoch, self.identity, self.open = epoch, identity, False
        self.installed.clear()
        self.filling.clear()
        return 1

    def install(self, epoch: int, account: Account, key: Subject | None) -> int:
        """`account` and `key` as they were read from the ledger."""
        if epoch != self.epoch:
            return 1
        known = self.account(account.id)
        if known is not None:
            if known.xseq != account.xseq:
                return 3
        elif self.installed.get(account.id) == epoch:
            return 2
        else:
            self.installed[account.id] = epoch
            self.accounts[account.id] = account
        if key is not None and self.key(key.id) is None:
            if self.installed.get(key.id) == epoch:
                return 2
            self.installed[key.id] = epoch
            self.keys[key.id] = key
            there = self.accounts[account.id]
            there.now_s = max(there.now_s, account.now_s)
        self.look(self.accounts[account.id])
        return 0

    def rehold(self, epoch: int, request_id: str, hold: Hold) -> int:
        if epoch != self.epoch:
            return 1
        known = self.journal.get(request_id)
        if known is not None and (known.epoch == epoch or known.state != HELD):
            return 2
        account, key = self.account(hold.names.account), self.key(hold.names.key)
        if account is None or key is None:
            return 3
        account.now_s = max(account.now_s, hold.at_ms // 1000)
        account.hold_version += 1
        for subject, tags in ((account, hold.account_tags), (key, hold.key_tags)):
            for tag in tags & subject.windows.keys():
                subject.windows[tag].follow(hold.at_ms // 1000, self.now_of(account))
        self.journal[request_id] = hold
        self.look(account)
        return 0

    def adopt(
        self, epoch: int, account_id: str, key_id: str | None, version: int, token: str, quotas: Sequence[Quota]
    ) -> list[int]:
        if epoch != self.epoch:
            return [1]
        account = self.account(account_id)
        subject = account if key_id is None else self.key(key_id)
        if account is None or subject is None:
            return [2]
        now_ms = max(self.now_ms, self.now_of(account) * 1000)
        nothing = [0, account.dseq, account.xseq, now_ms, 0]
        started = self.filling.get(subject.id)
        if version < subject.version:
            return nothing
        if version == subject.version and started is not None and abs(self.now_ms - started[1]) < RESTART_MS:
            return nothing
        account.now_s = self.now_of(account)
        windows: dict[int, Window_] = {}
        fresh = []
        for quota in quotas:
            known = subject.windows.get(quota.tag)
            at = window_id(quota.window, now_ms // 1000)
            if known is None or known.pending or known.window_id > at:
                known = Window_(quota, at, True, since=len(subject.told))
                fresh.append(quota)
            windows[quota.tag] = known
        if version == subject.version:  # another gateway may know other quotas for it: nothing of its own is dropped
            windows = {**windows, **{tag: known for tag, known in subject.windows.items() if tag not in windows}}
        subject.windows, subject.version = windows, version
        for hold in self.holds_of(subject) if fresh else []:
            tags = hold.account_tags if key_id is None else hold.key_tags
            tags |= {quota.tag for quota in fresh if quota.applies_to(hold.names.model, hold.names.feature)}
        if fresh:
            self.filling[subject.id] = (token, self.now_ms)
        return [*nothing[:4], len(fresh)]

    def retime(self, epoch: int, account_id: str, hold_version: int, latest_s: int, ledger_ms: int) -> int:
        account, now_s = self.account(account_id), self.now_ms // 1000
        if epoch != self.epoch or account is None:
            return 1
        ahead_s = account.now_s - now_s
        if ahead_s <= STEP_S:
            return 0
        apart_s = AHEAD_S if ahead_s > AHEAD_S else STEP_S
        if abs(ledger_ms - self.now_ms) > apart_s * 1000:
            return 3
        if account.hold_version != hold_version:
            return 2
        if latest_s > now_s + apart_s:
            return 4
        account.now_s = max(now_s, latest_s)
        return 0

    def fill(self, epoch: int, subject_id: str, token: str, bases: Sequence[tuple[int, int, int]]) -> int:
        """`bases`: tag, window id, what was used there before the adoption."""
        subject = self.account(subject_id) or self.key(subject_id)
        if epoch != self.epoch or subject is None or self.filling.get(subject_id, ("", 0))[0] != token:
            return 1
        for tag, at, base in bases:
            window = subject.windows.get(tag)
            if window is not None and window.pending:
                window.pending, window.base, window.base_window = False, base, at
        del self.filling[subject_id]
        for account in filter(None, map(self.account, self.accounts)):
            self.look(account)
        return 0


def _of(names: Names) -> tuple[str, str]:
    return names.model, names.feature


def _stretched(ask: Admission, at_rung: Admission, millionths: int) -> Admission:
    """What must fit so that the share of what is free has room for what a rung adds to the first input."""

    def more(added: int) -> int:
        return ceil(float(added) * 1_000_000 / millionths)

    return replace(
        at_rung,
        input=ask.input + more(at_rung.input - ask.input),
        input_cost=ask.input_cost + more(at_rung.input_cost - ask.input_cost),
    )


def _granted(ask: Admission, free: int | None, elastic: tuple[int, int]) -> int:
    """The output tokens of a choice that are granted where so many are free (None: nothing bounds them)."""
    if ask.least == ask.most or free is None:
        return ask.most
    millionths, first = elastic
    return min(ask.most, max(ask.least, min(free, first), floor(free * Fraction(millionths, 1_000_000))))


def _free_output(ask: Admission, quota: Quota, used: int) -> list[int]:
    """The most output tokens of a choice that leave `used` within the quota, if it counts them."""
    left = quota.limit - used
    match quota.metric:
        case Metric.tokens:
            return [(left - ask.input) // ask.choices]
        case Metric.output_tokens:
            return [left // ask.choices]
        case Metric.cost if ask.unit:
            return [(left - ask.input_cost) // ask.unit]
        case _:
            return []
