"""Margins, and bills of providers beside the ledger, as operators read them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from billing.money import format_usd
from billing.provider_bills.lines import CATEGORIES
from billing.schemas.base import Answer, Body, PageQuery, Query, Usd, percent_text

if TYPE_CHECKING:
    from billing.ledger.reports import Margin

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
    provider, of which transfers do not tell. `net_usd` is the margin less that. `…charged_usd` are
    the names of `…charge_usd` until the next release."""

    events: int
    cost_usd: Usd
    charge_usd: Usd
    charged_usd: Usd
    margin_usd: Usd
    margin_percent: Annotated[str | None, Meta(description="of what was charged; null where nothing was")]
    estimated_events: int
    estimated_cost_usd: Usd
    estimated_charge_usd: Usd
    estimated_charged_usd: Usd
    unpriced_events: int
    unpriced_charge_usd: Usd
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


# The fields of a margin, as columns of a table, too.
MARGIN_FIELDS: Final = tuple(each.encode_name for each in msgspec.structs.fields(MarginShape))


def margin_fields(margin: Margin) -> dict[str, Any]:
    """Return the fields of a margin: the one place that makes them, for JSON and tables."""
    used, hundredths = margin.used, margin.hundredths_of_percent
    charge_usd, estimated_usd, unpriced_usd = (
        format_usd(each.charged_nano) for each in (used, margin.estimated, margin.unpriced)
    )
    values = {
        "events": used.requests,
        "cost_usd": format_usd(used.cost_nano),
        "charge_usd": charge_usd,
        "charged_usd": charge_usd,
        "margin_usd": format_usd(margin.margin_nano),
        "margin_percent": None if hundredths is None else percent_text(hundredths),
        "estimated_events": margin.estimated.requests,
        "estimated_cost_usd": format_usd(margin.estimated.cost_nano),
        "estimated_charge_usd": estimated_usd,
        "estimated_charged_usd": estimated_usd,
        "unpriced_events": margin.unpriced.requests,
        "unpriced_charge_usd": unpriced_usd,
        "unpriced_charged_usd": unpriced_usd,
        "voided_events": margin.voided.requests,
        "returned_usd": None if margin.returned_nano is None else format_usd(margin.returned_nano),
        "net_usd": format_usd(margin.net_nano),
    }
    return {name: values[name] for name in MARGIN_FIELDS}


class BillQuery(Query, frozen=True, kw_only=True):
    """The days to show, by default the last seven, and the source of the stored bill: the provider's API, or an
    invoice."""

    since: Day | None = None
    until: Annotated[Day, Meta(description="the day after the last one")] | None = None
    source: Annotated[Literal["api", "invoice"], Meta(description="api or invoice")] = "api"


class BillBody(Body, frozen=True, kw_only=True):
    """The days whose bill is fetched, or read from `invoice`, a CSV with the columns day, model and amount_usd, and
    maybe key, line, requests, input_tokens and output_tokens; `columns` are its own names of them."""

    since: Day
    until: Day | UnsetType = UNSET
    invoice: Annotated[str, Meta(min_length=1)] | None = None
    columns: Annotated[dict[str, Annotated[str, Meta(max_length=200)]], Meta(max_length=8)] | UnsetType = UNSET


class BillSideShape(Answer, frozen=True, kw_only=True):
    """One side of a comparison: counts of requests and tokens, and USD, below zero for what was given back."""

    requests: int
    input_tokens: int
    output_tokens: int
    usd: Usd

    @classmethod
    def of_counts(cls, counts: Any) -> Self:
        """Return what one side counts."""
        return cls.of(counts, usd=format_usd(counts.amount_nano))


class BillSumShape(Answer, frozen=True, kw_only=True):
    """What both sides have: the ledger and the bill."""

    lines: int
    ledger: BillSideShape
    bill: BillSideShape


class BillRowShape(Answer, frozen=True, kw_only=True):
    """One day and model. `difference_usd` is what the bill has more; `tokens_agree` is null where one side counts none;
    `keys` are the provider's own ids that the bill names."""

    day: str
    model: str
    category: Literal["matched", "missing_here", "missing_there", "priced_differently"]
    ledger: BillSideShape
    bill: BillSideShape
    difference_usd: Usd
    tokens_agree: bool | None
    keys: list[str]


class BillShape(Answer, frozen=True, kw_only=True):
    """A provider's bill beside the ledger, of the days of UTC from `since` on and before `until`. Each day and model is
    in one category, so that these add up to both totals. `difference_usd` is the sum of the differences of what did not
    match, each taken as above zero. `data` has these rows first, at most 10,000 rows in all."""

    provider: str
    source: Literal["api", "invoice"]
    since: str
    until: str
    difference_usd: Usd
    total: BillSumShape
    categories: dict[str, BillSumShape]
    data: list[BillRowShape]
    truncated: bool

    @classmethod
    def of_bill(cls, bill: Any) -> Self:
        """Return a comparison."""
        comparison, side = bill.comparison, BillSideShape.of_counts
        rows = sorted(comparison.rows, key=lambda row: row.category == "matched")

        def added(lines: int, sides: tuple[Any, Any]) -> BillSumShape:
            return BillSumShape(lines=lines, ledger=side(sides[0]), bill=side(sides[1]))

        counted = {name: sum(row.category == name for row in rows) for name in CATEGORIES}
        return cls.of(
            bill,
            comparison,
            total=added(len(rows), comparison.total),
            categories={name: added(counted[name], comparison.of(name)) for name in CATEGORIES},
            data=[BillRowShape.of(row, ledger=side(row.ours), bill=side(row.theirs)) for row in rows[:MOST_ROWS]],
            truncated=len(rows) > MOST_ROWS,
        )


MOST_ROWS: Final = 10_000
