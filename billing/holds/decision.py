"""What admission is asked and what it decides, as values. Pure.

`Held` is a yes. `Refused` is a no that changed nothing: the balance, exhausted windows, too many at once. `Unavailable`
means that nothing could be decided. `Reload` stays within admission, which then reads the principal anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from billing.errors import MetergateError
from billing.holds.redis import layout
from billing.money import MAX_NANO
from billing.plans import MAX_TOOL_CALLS
from billing.principals import Limit
from billing.quotas import Metric

if TYPE_CHECKING:
    from billing.principals import QuotaLimits

MAX_OUTPUT_TOKENS: Final = 2**31 - 1


class NeedTooLarge(MetergateError, ValueError):
    """A worst case beyond 2^53 - 1 nano-USD or tokens: it can't be held, nor ever be paid."""


class Need(msgspec.Struct, frozen=True, gc=False):
    """The most that a request can use. `input_tokens` and `input_cost_nano` are for all choices together;
    `unit_nano` is the cost of one output token of every choice; output bounds are for one choice.

    `ladder` is of requests that may be granted more than one call of tools at the provider: input tokens and cost with
    two calls, with three, and so on, none below the one before it. The dearest that fits is held."""

    input_tokens: int
    input_cost_nano: int
    unit_nano: int
    choices: int
    least_output: int
    most_output: int
    ladder: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.least_output <= self.most_output <= MAX_OUTPUT_TOKENS:
            raise NeedTooLarge("the maximum of output tokens is out of bounds")
        if self.choices < 1 or min(self.input_tokens, self.input_cost_nano, self.unit_nano) < 0:
            raise ValueError("a need counts up from zero, and from one choice")
        worst = self.input_cost_nano + self.unit_nano * self.most_output
        if max(worst, self.input_tokens + self.choices * self.most_output) > MAX_NANO:
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
        worst = before[1] + self.unit_nano * self.most_output
        if max(worst, before[0] + self.choices * self.most_output) > MAX_NANO:
            raise NeedTooLarge("the worst case of this request is beyond 2^53 - 1 nano-USD or tokens")

    def with_calls(self, calls: int) -> Need:
        """Return the need of so many granted calls, one at least, which leaves nothing to choose."""
        if not self.ladder:
            return self
        tokens, cost_nano = (self.input_tokens, self.input_cost_nano) if calls == 1 else self.ladder[calls - 2]
        return Need(tokens, cost_nano, self.unit_nano, self.choices, self.least_output, self.most_output)

    def fitting_output(self, metric: Metric, free: int) -> int:
        """Return the most output tokens of one choice that this much of a metric is enough for beside the input; 0
        where it is not enough for the input, or output does not count in the metric."""
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
    `fitting_output` are the output tokens of one choice that would fit now: 0 where the input does not."""

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
    """Every exhausted counter, at Redis's time. `fitting_output` are the output tokens of one choice that would fit in
    all of them now, and `fitting_ever` those that would if nothing ran, or if that is not enough for any, in windows of
    which nothing is used: 0 each where the input does not."""

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
    """The principal, or what else the request was made from, has changed since it was read."""


Refused = InsufficientBalance | QuotaExceeded | TooManyRunning


def refusal(reply: list[Any], limits: QuotaLimits, need: Need) -> Refused:
    """Return what an admission's reply of `layout.BALANCE`, `layout.QUOTA` or `layout.CONCURRENCY` says."""
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
