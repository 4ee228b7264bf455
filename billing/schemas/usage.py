"""Reports for a customer about its own account: balance, transactions, usage events and totals. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, UnsetType, field

from billing.ledger.debits import REPRICE
from billing.ledger.explanations import FACTOR_DECIMALS, shown_amounts, shown_quantity
from billing.money import decimal, format_credits, format_usd
from billing.pricing.scales import marked_up_usd
from billing.principals import Status
from billing.schemas.base import Answer, ExactUsd, Filter, Moment, PageQuery, Query, Since, Usd

if TYPE_CHECKING:
    from billing.pricing.rows import PriceLine
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


class TransactionShape(Answer, frozen=True, kw_only=True):
    """A transfer as its account sees it: `amount_usd` above zero raised the balance, to `balance_usd`."""

    id: str
    kind: str
    amount_usd: Usd
    balance_usd: Usd
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
