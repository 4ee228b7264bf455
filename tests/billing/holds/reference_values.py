"""The values that the reference is told in and made of: requests, holds, debits, subjects and their windows."""

from dataclasses import dataclass, field, replace

from billing.holds.redis.layout import SETTLED, Entry
from billing.quotas import Metric, Quota, window_id


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
    ladder: tuple[tuple[int, int], ...] = ()
    """Input tokens and cost with one more call each."""

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
