"""What operators watch over time: money, requests, refusals and errors; how providers answer; who runs out of credit.
Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from msgspec import Meta

from billing.money import format_usd
from billing.schemas.base import Answer, Moment, Query, Since, Usd, percent_text
from billing.traffic.counts import quantile_ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from billing.ledger.reports import DryAccount, Work
    from billing.traffic.counts import LastFailure, ProviderTraffic, Step

Unit = Annotated[Literal["hour", "day"], Meta(description="hour or day, of UTC")]
# How far back providers are asked about.
Within = Annotated[Literal["15m", "1h", "24h", "7d"], Meta(description="15m, 1h, 24h or 7d")]
WITHIN: Final = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
}


class TrafficQuery(Query, frozen=True, kw_only=True):
    """From when on and before when, in steps of an hour or a day; without times the last 30 days, or 24 hours."""

    since: Since | None = None
    until: Since | None = None
    step: Unit = "day"


class TrafficSumShape(Answer, frozen=True, kw_only=True):
    """What all accounts were charged and what that cost at the providers; how many requests were refused by limits of
    customers, keys and plans (`refusals`), and how many have failed here or at a provider (`errors`)."""

    events: int
    charge_usd: Usd
    cost_usd: Usd
    margin_usd: Usd
    refusals: int
    errors: int

    @classmethod
    def of_work(cls, work: Work, step: Step | None, **more: str) -> Self:
        """Return what a step of time came to."""
        refused, errors = (0, 0) if step is None else (step.refused, step.errors)
        return cls(
            events=work.requests,
            charge_usd=format_usd(work.charged_nano),
            cost_usd=format_usd(work.cost_nano),
            margin_usd=format_usd(work.charged_nano - work.cost_nano),
            refusals=refused,
            errors=errors,
            **more,
        )


class TrafficStepShape(TrafficSumShape, frozen=True, kw_only=True):
    """The same of one hour or day, which begins at `start`."""

    start: Moment


class TrafficShape(Answer, frozen=True, kw_only=True):
    """Traffic of all accounts over time; every step is there, and `total` is the sum of all."""

    since: Moment
    until: Moment
    step: Unit
    total: TrafficSumShape
    data: list[TrafficStepShape]


class ProvidersQuery(Query, frozen=True, kw_only=True):
    """Since how long ago attempts are counted."""

    within: Within = "1h"


class LastFailureShape(Answer, frozen=True, kw_only=True):
    """The last attempt that failed: `reason` is a status, `timeout`, `unreachable`, or `busy` where the gateway's own
    connections were all in use."""

    at: Moment
    reason: str


class ProviderTrafficShape(Answer, frozen=True, kw_only=True):
    """How a provider has answered all gateways within a time: attempts, and how many failed, by their reasons. Times
    are those until an answer's head and a stream's first byte: taken from a histogram, and so approximate; null where
    there was none."""

    attempts: int
    attempts_per_minute: Annotated[str, Meta(description="a decimal", examples=["12.5"])]
    failures: int
    error_percent: Annotated[str | None, Meta(description="of the attempts; null where there was none")]
    reasons: dict[str, int]
    head_p50_ms: int | None
    head_p95_ms: int | None
    first_byte_p50_ms: int | None
    last_failure: LastFailureShape | None

    @classmethod
    def of_traffic(cls, seen: ProviderTraffic, last: LastFailure | None, within: timedelta) -> Self:
        """Return how a provider did; `within` is the length of the time."""
        tenths = seen.attempts * 600 // int(within.total_seconds())
        return cls(
            attempts=seen.attempts,
            attempts_per_minute=f"{tenths // 10}.{tenths % 10}",
            failures=seen.failures,
            error_percent=percent_text(seen.error_hundredths) if seen.attempts else None,
            reasons=dict(sorted(seen.failed.items(), key=lambda each: (-each[1], each[0]))),
            head_p50_ms=quantile_ms(seen.head, 50),
            head_p95_ms=quantile_ms(seen.head, 95),
            first_byte_p50_ms=quantile_ms(seen.first_byte, 50),
            last_failure=None if last is None else LastFailureShape.of(last),
        )


class CircuitChangeShape(Answer, frozen=True, kw_only=True):
    """When the circuit of a provider's target opened, or closed again; `reason` is the failure before."""

    at: Moment
    provider: str
    target: int
    state: Literal["open", "closed"]
    reason: str


class DryAccountShape(Answer, frozen=True, kw_only=True):
    """An account whose credit lasts for few days at what it spent a day lately. `hours_left` is 0 where there is none;
    with `recharges` it buys credit by itself."""

    account_id: str
    name: str
    available_usd: Usd
    a_day_usd: Usd
    hours_left: int
    recharges: bool

    @classmethod
    def of_account(cls, account: DryAccount) -> Self:
        """Return an account that runs dry."""
        return cls.of(account, account_id=account.id)


def steps_of(since: datetime, until: datetime, unit: timedelta) -> Sequence[datetime]:
    """Return when each step begins, of a time of whole steps of UTC."""
    return [since + unit * at for at in range((until - since) // unit)]
