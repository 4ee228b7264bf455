"""One account of both stores compared (invariants I2 to I4). Pure: `reconcile` reads the stores.

What Redis has was read at one moment, what Postgres has in one snapshot that has every debit which Redis had counted by
then; debits and corrections that came later are told apart by the cursors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from billing.holds.redis.layout import AccountState, Entry, KeyState
from billing.quotas import Metric, Quota, Window, window_id

if TYPE_CHECKING:
    from billing.holds.redis.layout import Counter

# By tag.
Quotas = Mapping[int, Quota]
# By metric.
Amounts = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `what` is balance, held, running, a window of a subject, or debits; amounts in its unit."""

    account_id: str
    what: str
    redis: int
    ledger: int


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """An account in Redis at one moment: its state, its keys' and users' states, its open holds, and the requests whose
    settled debits the journal had, of those that the state has counted. `steady`: nothing changed while it was
    read."""

    state: AccountState
    keys: Mapping[str, KeyState]
    holds: Sequence[Entry]
    steady: bool
    unwritten: Sequence[str] = ()
    users: Mapping[str, KeyState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserQuotas:
    """A user of an account as the ledger has it: what it may use, by which keys, and the version of the account from
    which on Redis has counted all of it."""

    quotas: Quotas
    key_ids: Collection[str]
    since: int


@dataclass(frozen=True, slots=True)
class SubjectQuotas:
    """The keys and users of an account that have windows, by id."""

    keys: Mapping[str, Quotas] = field(default_factory=dict)
    users: Mapping[str, UserQuotas] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparedCounter:
    """A counter whose window is current in Redis, of the account, or of a key or a user of it, and the holds that may
    be part of it. `key_ids` are the keys that count in it, None where all do."""

    subject: Literal["account", "key", "user"]
    id: str
    key_ids: Collection[str] | None
    quota: Quota
    counter: Counter
    holds: Sequence[Entry]

    @property
    def name(self) -> str:
        """Return how a difference names it."""
        return f"{self.id} {Window(self.quota.window).name}:{self.quota.metric.name}"


class WindowUsage:
    """What an account's requests have used according to Postgres, by window, key (None: all of the account's) and the
    names that filters ask for. What a user has used is what its keys have."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[tuple[int, str | None], list[tuple[str, str, Amounts]]] = {}

    def add(self, window: int, key_id: str, model: str, feature: str, amounts: Amounts) -> None:
        """Add to the window of a key and to that of the account; negative amounts are taken off."""
        part = (model, feature, amounts)
        self._parts.setdefault((window, None), []).append(part)
        self._parts.setdefault((window, key_id), []).append(part)

    def used(self, compared: ComparedCounter) -> int:
        """Return what the counter should be without running requests, in its metric's unit."""
        quota, key_ids = compared.quota, (None,) if compared.key_ids is None else compared.key_ids
        return sum(
            amounts[quota.metric]
            for key_id in key_ids
            for model, feature, amounts in self._parts.get((quota.window, key_id), ())
            if quota.applies_to(model, feature)
        )


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """An account in Postgres as of the debits and corrections that Redis had counted: the balance that it should have,
    how many debits of the epoch up to Redis's last are there, and what the compared counters' windows have used."""

    balance_nano: int
    debits: int
    counters: Sequence[ComparedCounter] = ()
    usage: WindowUsage = field(default_factory=WindowUsage)


def current_counters(
    snapshot: AccountSnapshot, quotas: Quotas | None, of_subjects: SubjectQuotas
) -> Iterator[ComparedCounter]:
    """Yield the counters that can be compared: those of windows that are current by the account's own time. Of an
    account that changed while it was read there are none, nor of one whose quotas are newer in the ledger (None), nor
    of a user who had none for a while and has not been loaded since."""
    state = snapshot.state
    if not snapshot.steady:
        return
    current = {window: window_id(window, state.now_s) for window in Window}
    for found in _current(quotas or {}, state.counters, current):
        yield ComparedCounter("account", "account", None, *found, snapshot.holds)
    holds: dict[str, list[Entry]] = {}
    for hold in snapshot.holds:
        holds.setdefault(hold.key_id, []).append(hold)
    for key_id, key in snapshot.keys.items():
        if key.epoch == state.epoch:
            for found in _current(of_subjects.keys.get(key_id, {}), key.counters, current):
                yield ComparedCounter("key", key_id, (key_id,), *found, holds.get(key_id, ()))
    for user_id, user in snapshot.users.items():
        known = of_subjects.users.get(user_id)
        if known is not None and user.epoch == state.epoch and user.principal_version >= known.since:
            of_user = [hold for key_id in known.key_ids for hold in holds.get(key_id, ())]
            for found in _current(known.quotas, user.counters, current):
                yield ComparedCounter("user", user_id, known.key_ids, *found, of_user)


def _current(
    quotas: Quotas, counters: Iterable[Counter], current: Mapping[Window, int]
) -> Iterator[tuple[Quota, Counter]]:
    for counter in counters:  # one that is not counted yet has another tag than its quota
        quota = quotas.get(counter.tag)
        if quota is not None and counter.window_id == current[quota.window]:
            yield quota, counter


def compare(account_id: str, redis: AccountSnapshot, ledger: LedgerSnapshot) -> Iterator[Drift | None]:
    """Yield one item for each figure that was compared: the difference, or None. Holds and windows are compared of a
    steady account alone."""
    state = redis.state

    def figure(what: str, in_redis: int, in_ledger: int) -> Drift | None:
        return None if in_redis == in_ledger else Drift(account_id, what, in_redis, in_ledger)

    yield figure("balance", state.balance_nano, ledger.balance_nano)
    yield figure("debits", state.dseq, ledger.debits)
    if not redis.steady:
        return
    yield figure("held", state.held_nano, sum(hold.cost_nano for hold in redis.holds))
    yield figure("running", state.running, len(redis.holds))
    for each in ledger.counters:
        running, held = in_use(each)
        yield figure(each.name, each.counter.used, ledger.usage.used(each) + running)
        yield figure(f"{each.name} held", each.counter.held, held)


def in_use(compared: ComparedCounter) -> tuple[int, int]:
    """Return what open holds add to a counter, in the metric's unit: to what is used, and to what is held. A running
    request is used, and holds the rest."""
    quota = compared.quota
    counting = [hold for hold in compared.holds if _counts(hold, compared)]
    match quota.metric:
        case Metric.requests:
            return len(counting), 0
        case Metric.tokens:
            return 0, sum(hold.input_tokens + hold.output_tokens for hold in counting)
        case Metric.input_tokens:
            return 0, sum(hold.input_tokens for hold in counting)
        case Metric.output_tokens:
            return 0, sum(hold.output_tokens for hold in counting)
        case Metric.cost:
            return 0, sum(hold.cost_nano for hold in counting)


def _counts(hold: Entry, compared: ComparedCounter) -> bool:
    tags = {"account": hold.account_tags, "key": hold.key_tags, "user": hold.user_tags or ()}[compared.subject]
    quota = compared.quota
    return quota.tag in tags and window_id(quota.window, hold.at_ms // 1000) == compared.counter.window_id
