"""Reports of usage sums for a customer: a summary, buckets of time, the month so far. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from billing.money import format_credits, format_usd
from billing.principals import Status
from billing.schemas.base import Answer, Moment, PageQuery, Since, Usd
from billing.schemas.budgets import OwnBudgetShape
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

    from billing.ledger.sums import Group, Span, Used

GROUP_BY: Final = (
    "at most two of model, key, user, provider, endpoint, feature and tag:NAME, with a comma; or of meter, region, "
    "node, inbound_tag and direction"
)
# The fields of `UsedShape`, as columns of a table; who sees costs has `COST` as well, the last one.
SUMS: Final = (
    "events",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
    "charge_usd",
    "charged_usd",
    "bytes",
)
COST: Final = "cost_usd"

GroupBy = Annotated[
    str,
    Meta(
        max_length=200,
        description=GROUP_BY,
        examples=["model,tag:team"],
        extra_json_schema={"format": "group-by"},
    ),
]
ZoneName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        description="an IANA time zone; else the account's, or UTC",
        examples=["Europe/Berlin"],
        extra_json_schema={"format": "time-zone"},
    ),
]
Granularity = Annotated[
    Literal["minute", "hour", "day", "week", "month"], Meta(description="minute, hour, day, week or month")
]


class UsedShape(Answer, frozen=True, kw_only=True):
    """What was used: `input_tokens` includes the cached and written ones, `output_tokens` the reasoning ones;
    `charge_usd` is what was charged, and `charged_usd` its name until the next release; `bytes` are those of traffic
    that exporters count. `cost_usd` is the providers': customers have it only with `customers_see: cost`."""

    events: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    charge_usd: Usd
    charged_usd: Usd
    bytes: int = 0
    cost_usd: Usd | UnsetType = UNSET

    @classmethod
    def of_used(cls, used: Any, *, with_cost: bool, **more: Any) -> Self:
        """Return what was used; `more` are the fields that this has beside those of `UsedShape`."""
        return cls.of(**used_fields(used, with_cost=with_cost), **more)


class GroupShape(UsedShape, frozen=True, kw_only=True):
    """What one group has used; `group` has a value for each name that was asked for, null where requests have none."""

    group: dict[str, str | None]

    @classmethod
    def of_group(cls, names: Sequence[str], group: Iterable[str | None], used: Any, *, with_cost: bool) -> Self:
        """Return what a group has used."""
        return cls.of_used(used, with_cost=with_cost, group=dict(zip(names, group, strict=True)))


class SummaryQuery(PageQuery, frozen=True, kw_only=True):
    """Of which time, in whole minutes, and by what."""

    since: Since | None = None
    until: Since | None = None
    tz: ZoneName | None = None
    group_by: GroupBy = ""


class SummaryShape(Answer, frozen=True, kw_only=True):
    """What was used from `since` on and before `until` (null: since ever, until now). `total` is that of all groups, of
    which `data` is a page, the dearest first; without `group_by` it is empty."""

    since: Moment | None
    until: Moment | None
    tz: ZoneName
    group_by: list[str]
    total: UsedShape
    data: list[GroupShape]
    next_cursor: str | None


class BucketsQuery(PageQuery, frozen=True, kw_only=True):
    """Of which time, in whole minutes, in what steps, and by what."""

    granularity: Granularity = "day"
    since: Since | None = None
    until: Since | None = None
    tz: ZoneName | None = None
    group_by: GroupBy = ""


class BucketShape(UsedShape, frozen=True, kw_only=True):
    """What was used from `start` on and before `end`; `local_start` is `start` as clocks there show it. `groups` are
    those that used something."""

    start: Moment
    end: Moment
    local_start: str
    groups: list[GroupShape]

    @classmethod
    def of_bucket(cls, bucket: Any, zone: ZoneInfo, names: Sequence[str], *, with_cost: bool) -> Self:
        """Return a bucket: when it begins and ends, what all of its groups have used together, and each of them."""
        start, end, used, groups = bucket
        return cls.of_used(
            used,
            with_cost=with_cost,
            start=rfc3339(start),
            end=rfc3339(end),
            local_start=start.astimezone(zone).isoformat(timespec="seconds"),
            groups=[GroupShape.of_group(names, *each, with_cost=with_cost) for each in groups] if names else [],
        )


class BucketsShape(Answer, frozen=True, kw_only=True):
    """Buckets of time without a gap, the oldest first; `next_cursor` goes on with later ones. Those of one answer have
    at most 2,000 groups together. A bucket that alone has more comes in several answers one after the other, each time
    with all of its sums and the next of its groups."""

    granularity: Granularity
    tz: ZoneName
    group_by: list[str]
    data: list[BucketShape]
    next_cursor: str | None


class BudgetShape(Answer, frozen=True, kw_only=True):
    """The account's own limit of cost in a calendar month of UTC."""

    limit_usd: Usd
    used_usd: Usd
    left_usd: Usd
    resets_at: Moment

    @classmethod
    def of_limit(cls, limit_nano: int, used_nano: int, resets_at: datetime) -> Self:
        """Return a limit, and what is left of it."""
        left_nano = max(0, limit_nano - used_nano)
        amounts = {
            "limit_usd": format_usd(limit_nano),
            "used_usd": format_usd(used_nano),
            "left_usd": format_usd(left_nano),
        }
        return cls(**amounts, resets_at=rfc3339(resets_at))


class BillingSummaryShape(Answer, frozen=True, kw_only=True):
    """The calendar month so far, in the account's time zone. `spent_usd` is what requests admitted in it were charged;
    `by_kind` what each kind of transfer has changed the balance by; `forecast_usd` what will be spent by its end if it
    goes on as on the last whole days. `budget` is the account's own quota of cost, which refuses; `budgets` are
    those of the whole account, which tell."""

    account_id: str
    plan: str
    status: Status
    tz: ZoneName
    period_start: Moment
    period_end: Moment
    used: UsedShape
    spent_usd: Usd
    spent_credits: str
    by_kind: dict[str, Usd]
    by_feature: dict[str, Usd]
    included_usd: Usd
    included_left_usd: Usd
    forecast_usd: Usd
    budget: BudgetShape | None
    budgets: list[OwnBudgetShape]
    balance_usd: Usd
    balance_credits: str
    held_usd: Usd
    available_usd: Usd

    @classmethod
    def of_month(cls, account: Any, month: Month, live: Any, credits_per_usd: int, *, with_cost: bool) -> Self:
        """Return a month so far."""
        spent_nano = month.used.charged_nano
        return cls.of(
            account,
            live,
            month,
            account_id=account.id,
            tz=month.tz,
            used=UsedShape.of_used(month.used, with_cost=with_cost),
            spent_usd=format_usd(spent_nano),
            spent_credits=format_credits(spent_nano, credits_per_usd),
            by_kind=_usd_of(month.by_kind),
            by_feature=_usd_of(month.by_feature),
            budget=month.budget,
            budgets=[OwnBudgetShape.of_standing(each) for each in month.budgets],
            balance_usd=format_usd(live.balance_nano),
            balance_credits=format_credits(live.balance_nano, credits_per_usd),
            available_usd=format_usd(live.balance_nano - live.held_nano + account.credit_limit_nano),
        )


def sums_of(*, with_cost: bool) -> tuple[str, ...]:
    """Return the names of what `used_fields` returns."""
    return (*SUMS, COST) if with_cost else SUMS


def used_fields(used: Used, *, with_cost: bool) -> dict[str, int | str]:
    """Return the fields of what was used, `with_cost` of the providers: the one place that names them, for JSON and
    tables."""
    charge_usd = format_usd(used.charged_nano)
    fields: dict[str, int | str] = {
        "events": used.requests,
        "input_tokens": used.input_tokens,
        "cached_input_tokens": used.cached_input_tokens,
        "cache_write_tokens": used.cache_write_tokens,
        "output_tokens": used.output_tokens,
        "reasoning_tokens": used.reasoning_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
        "charge_usd": charge_usd,
        "charged_usd": charge_usd,
        "bytes": used.bytes,
    }
    return {**fields, COST: format_usd(used.cost_nano)} if with_cost else fields


def ordered(span: Span) -> list[tuple[Group, Used]]:
    """Return groups, the dearest first."""
    return sorted(
        span.items(), key=lambda item: (-item[1].charged_nano, -item[1].requests, [value or "" for value in item[0]])
    )


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month of an account so far; amounts by kind are signed as the balance was changed."""

    tz: ZoneName
    period_start: datetime
    period_end: datetime
    used: Any
    by_feature: Mapping[str, int]
    by_kind: Mapping[str, int]
    included_nano: int
    included_left_nano: int
    forecast_nano: int
    budget: BudgetShape | None
    budgets: Sequence[Any] = ()


def _usd_of(amounts_nano: Mapping[str, int]) -> dict[str, str]:
    return {name: format_usd(nano) for name, nano in sorted(amounts_nano.items())}
