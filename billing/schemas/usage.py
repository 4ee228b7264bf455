"""What customers read of their account: balance, transactions, usage events; and what was used, in sums: totals, a
summary, buckets of time, the month so far. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, UnsetType, field

from billing.ledger.debits import REPRICE
from billing.ledger.explanations import FACTOR_DECIMALS, shown_amounts, shown_quantity
from billing.money import decimal, format_credits, format_usd
from billing.plans import Status
from billing.pricing import marked_up_usd
from billing.schemas.base import Answer, ExactUsd, Filter, Moment, PageQuery, Query, Since, Usd
from billing.schemas.credit import OwnBudgetShape
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

    from billing.ledger.sums import Group, Span, Used
    from billing.pricing import PriceLine
    from billing.usage import Usage


UNITS: Final = ("images", "characters", "searches", "pages")


class ExpiryShape(Answer, frozen=True, kw_only=True):
    """Credit that will be taken back unless it is used before `at`."""

    at: Moment
    amount_usd: Usd


class BalanceShape(Answer, frozen=True, kw_only=True):
    """An account's money: `held_usd` is reserved for running requests, `available_usd` the balance without that, and
    as far below zero as the credit limit lets it go. `debt_usd` is how far below zero the balance is, which new credit
    pays first; `next_expiry` what of the balance expires next."""

    account_id: str
    balance_usd: Usd
    balance_credits: str
    held_usd: Usd
    available_usd: Usd
    available_credits: str
    credit_limit_usd: Usd
    debt_usd: Usd = "0.00"
    next_expiry: ExpiryShape | None = None
    status: Status
    plan: str

    @classmethod
    def of_account(cls, account: Any, live: Any, credits_per_usd: int, expiry: Any = None) -> Self:
        """Return the balance of an account."""
        available_nano = live.balance_nano - live.held_nano + account.credit_limit_nano
        return cls.of(
            live,
            account,
            account_id=account.id,
            balance_credits=format_credits(live.balance_nano, credits_per_usd),
            available_usd=format_usd(available_nano),
            available_credits=format_credits(available_nano, credits_per_usd),
            debt_usd=format_usd(max(0, -live.balance_nano)),
            next_expiry=None if expiry is None else ExpiryShape.of(expiry, amount_usd=format_usd(expiry.left_nano)),
        )


TransactionKind = Literal["changes", "purchase", "grant", "refund", "adjustment", "expiry", "dispute", "subscription"]


class TransactionsQuery(PageQuery, frozen=True, kw_only=True):
    """Which transactions: all, those of one kind, or all but usage (`changes`)."""

    kind: TransactionKind | None = None


class TransactionShape(Answer, frozen=True, kw_only=True):
    """A transfer as its account sees it: `amount_usd` above zero raised the balance, to `balance_usd`, which is null in
    a list of some kinds alone."""

    id: str
    kind: str
    amount_usd: Usd
    balance_usd: Usd | None
    request_id: str | None
    idempotency_key: str | None
    note: str | None
    created_at: Moment

    @classmethod
    def of_transaction(cls, transaction: Any, *, with_cost: bool) -> Self:
        """Return a transfer. Without the provider's cost, the key of a correction names no price row."""
        key = transaction.idempotency_key
        if not with_cost and key is not None and key.startswith(f"{REPRICE}:"):
            key = f"{REPRICE}:{transaction.request_id}"
        return cls.of(transaction, idempotency_key=key)


class EventQuery(PageQuery, frozen=True, kw_only=True):
    """Which usage events: admitted from `since` on and before `until`, of one key, of one model as it was asked for,
    and so on."""

    since: Since | None = None
    until: Since | None = None
    key_id: Filter | None = None
    user_id: Filter | None = None
    model: Filter | None = None
    provider: Filter | None = None
    endpoint: Filter | None = None
    status: Annotated[int, Meta(ge=100, le=599, description="an HTTP status, from 100 to 599")] | None = None
    tag: (
        Annotated[
            str,
            Meta(min_length=1, max_length=512, description="a tag's name, or NAME=VALUE, of at most 512 characters"),
        ]
        | None
    ) = None
    estimated: Annotated[Literal["true", "false"], Meta(description="true or false")] | None = None
    end_user: Filter | None = None
    session: Filter | None = None
    tool: Filter | None = None
    min_latency_ms: Annotated[int, Meta(ge=0, le=86_400_000, description="milliseconds")] | None = None
    order: Annotated[
        Literal["newest", "slowest"],
        Meta(description="newest first, or the slowest first of the newest 10,000 in this time"),
    ] = "newest"


class AllEventsQuery(EventQuery, frozen=True, kw_only=True):
    """Which usage events of all accounts, or of one."""

    account_id: Filter | None = None


class EventShape(Answer, frozen=True, kw_only=True):
    """A metered request. `created_at` is when it was admitted; `charge_usd` is what the account pays, and `charged_usd`
    its name until the next release. `cost_usd` is what the provider charges by the price row `price_id`: customers have
    both only with `customers_see: cost`. `units` has the counts that are not tokens."""

    id: Annotated[str, Meta(description="the request's x-request-id")]
    created_at: Moment
    account_id: str
    user_id: str | None
    key_id: str
    endpoint: str
    feature: str
    model: str
    provider: str
    provider_model: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    units: dict[str, int | float]
    charge_usd: Usd
    charged_usd: Usd
    cost_usd: Usd | UnsetType = UNSET
    price_id: str | UnsetType = UNSET
    estimated: bool
    status: int
    outcome: str
    stream: bool
    latency_ms: int | None
    ttft_ms: int | None
    tags: dict[str, str]
    end_user: str | None
    session: Annotated[str | None, Meta(description="the conversation that it belongs to, as its client names it")]
    agent: Annotated[str | None, Meta(description="which of a session's agents has sent it")]
    parent_agent: Annotated[str | None, Meta(description="which agent has begun that one")]
    tool: Annotated[str | None, Meta(description="the tool or library that sent it, where it is a known one")]
    tool_version: str | None
    attempts: Annotated[int, Meta(description="at providers, until one answered")]
    client_request_id: str | None
    upstream_request_id: str | None
    note: str | None

    @classmethod
    def of_event(cls, event: Any, *, with_cost: bool, **more: Any) -> Self:
        """Return a usage event, `with_cost` of the provider; `more` are the fields that this has beside those of
        `EventShape`."""
        hidden = {} if with_cost else {"cost_usd": UNSET, "price_id": UNSET}
        units, at = _units(event.usage), event.admitted_at
        return cls.of(event, event.usage, id=event.request_id, created_at=at, units=units, **hidden, **more)


# Fields of an event that tell of the provider's cost.
OF_COST: Final = ("cost_usd", "price_id")


def _units(usage: Usage) -> dict[str, int | float]:
    """Return what is counted by the piece; seconds are those of sound or video, and may have a fraction."""
    units: dict[str, int | float] = {name: count for name in UNITS if (count := getattr(usage, name))}
    if usage.milliseconds:
        units["seconds"] = _number(decimal(usage.milliseconds, 3))
    if usage.unit_thousandths:
        units["units"] = _number(decimal(usage.unit_thousandths, 3))
    return {**units, **(usage.named or {})}


def _number(text: str) -> int | float:
    """Return a quantity as JSON's number; it is shown, and nothing is priced by it."""
    return float(text) if "." in text else int(text)


class LineShape(Answer, frozen=True, kw_only=True):
    """One line of the arithmetic: tokens have a price per million, hours of storage one an hour, units one each. Prices
    and amounts are exact. `provider_model` stands where several models worked for a request."""

    price_class: str = field(name="class")
    quantity: int | float
    price_usd_per_million: ExactUsd | UnsetType = UNSET
    price_usd_per_hour: ExactUsd | UnsetType = UNSET
    price_usd: ExactUsd | UnsetType = UNSET
    amount_usd: ExactUsd
    provider_model: str | UnsetType = UNSET

    @classmethod
    def of_line(cls, line: PriceLine, amount_usd: str, markup_scaled: int = 0) -> Self:
        """Return one line, at its price with a markup."""
        rate_usd, hourly = marked_up_usd(line.rate_nano, markup_scaled), line.price_class == "hour"
        per_million = line.per_million or line.price_class == "million"
        return cls(
            price_class=line.price_class,
            quantity=_number(shown_quantity(line)),
            price_usd_per_million=rate_usd if per_million else UNSET,
            price_usd_per_hour=rate_usd if hourly else UNSET,
            price_usd=UNSET if per_million or hourly else rate_usd,
            amount_usd=amount_usd,
            provider_model=UNSET if line.model is None else line.model,
        )


class ExplainedEventShape(EventShape, frozen=True, kw_only=True):
    """A metered request with the lines of its arithmetic; without any where the amount was not made from counts. With
    `cost_usd` the lines are at the provider's prices, and their sum, rounded up once, is the cost; without it they are
    at the customer's own prices, and their sum, rounded up once, is the charge."""

    multiplier: str | None
    multiplier_factor: str
    markup_percent: str | UnsetType = UNSET
    lines: list[LineShape]

    @classmethod
    def of_explanation(cls, explanation: Any, *, with_cost: bool) -> Self:
        """Return a usage event with its lines, `with_cost` of the provider."""
        event, lines = explanation.event, explanation.lines if explanation.adds_up else ()
        markup_scaled = 0 if with_cost else event.markup_scaled
        amounts = shown_amounts(lines, markup_scaled)
        return cls.of_event(
            event,
            with_cost=with_cost,
            multiplier_factor=decimal(explanation.factor_scaled, FACTOR_DECIMALS),
            markup_percent=decimal(event.markup_scaled, FACTOR_DECIMALS) if with_cost else UNSET,
            lines=[LineShape.of_line(*each, markup_scaled) for each in zip(lines, amounts, strict=True)],
        )


class TotalsQuery(Query, frozen=True, kw_only=True):
    """Whose totals: the account's, one key's, or those of one user's keys; of which time, in whole minutes."""

    key_id: Filter | None = None
    user_id: Filter | None = None
    since: Since | None = None
    until: Since | None = None


class TotalsShape(Answer, frozen=True, kw_only=True):
    """Totals of usage, of all time if no time is given. `charge_usd` is what was charged; `cost_usd` is that sum, too,
    whoever asks: the name is that of another product, whose clients read it here."""

    events: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    charge_usd: Usd
    cost_usd: Usd

    @classmethod
    def of_totals(cls, totals: Any) -> Self:
        """Return totals."""
        return cls.of(totals, events=totals.requests, cost_usd=format_usd(totals.charged_nano))


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
