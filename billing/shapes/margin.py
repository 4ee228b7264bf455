"""Margins, as operators read them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from billing.money import format_usd
from billing.shapes.base import Answer, PageQuery, Usd

if TYPE_CHECKING:
    from billing.ledger.margins import Margin

Day = Annotated[
    str,
    Meta(
        min_length=10,
        max_length=10,
        description="a day of UTC, such as 2027-01-31",
        examples=["2027-01-31"],
        extra_json_schema={"format": "date"},
    ),
]
By = Annotated[
    Literal["account", "model", "provider", "day"], Meta(description="one of account, model, provider and day")
]


class MarginQuery(PageQuery, frozen=True, kw_only=True):
    """Of which days, and by what. Without them this month until now, by account."""

    since: Day | None = None
    until: Annotated[Day, Meta(description="the day after the last one")] | None = None
    by: By = "account"


class MarginShape(Answer, frozen=True, kw_only=True):
    """A margin: what requests were charged less what they cost at the providers, and what of it can't be taken as it
    stands. `estimated` requests are those whose counts are not the provider's own, `unpriced` ones those whose cost no
    price row says: both are part of the sums. `voided` ones were given back, and are in none. `returned_usd` is what
    was refunded or taken off by repricing within the time, less what was charged more; null in groups by model and
    provider, of which transfers do not tell. `net_usd` is the margin less that."""

    events: int
    cost_usd: Usd
    charged_usd: Usd
    margin_usd: Usd
    margin_percent: Annotated[str | None, Meta(description="of what was charged; null where nothing was")]
    estimated_events: int
    estimated_cost_usd: Usd
    estimated_charged_usd: Usd
    unpriced_events: int
    unpriced_charged_usd: Usd
    voided_events: int
    returned_usd: Usd | None
    net_usd: Usd


class MarginGroupShape(MarginShape, frozen=True, kw_only=True):
    """The margin of one account, model, provider or day; `group` is empty where a request has none."""

    group: str


class MarginsShape(Answer, frozen=True, kw_only=True):
    """The margins of the requests that were admitted from the day `since` on and before `until`. `total` is that of all
    groups, of which `data` is a page: the highest charge first, days in their order."""

    since: str
    until: str
    by: By
    total: MarginShape
    data: list[MarginGroupShape]
    next_cursor: str | None


MARGIN_FIELDS: Final = tuple(each.encode_name for each in msgspec.structs.fields(MarginShape))
"""The fields of a margin, as columns of a table, too."""


def margin_fields(margin: Margin) -> dict[str, Any]:
    """Return the fields of a margin: the one place that makes them, for JSON and tables."""
    used, hundredths = margin.used, margin.hundredths_of_percent
    values = (
        *(used.requests, format_usd(used.cost_nano), format_usd(used.charged_nano), format_usd(margin.margin_nano)),
        None if hundredths is None else percent_text(hundredths),
        *(margin.estimated.requests, format_usd(margin.estimated.cost_nano)),
        format_usd(margin.estimated.charged_nano),
        *(margin.unpriced.requests, format_usd(margin.unpriced.charged_nano), margin.voided.requests),
        None if margin.returned_nano is None else format_usd(margin.returned_nano),
        format_usd(margin.net_nano),
    )
    return dict(zip(MARGIN_FIELDS, values, strict=True))


def percent_text(hundredths: int) -> str:
    """Return hundredths of a percent as a decimal: -1250 -> `"-12.50"`."""
    whole, rest = divmod(abs(hundredths), 100)
    return f"{'-' if hundredths < 0 else ''}{whole}.{rest:02d}"
