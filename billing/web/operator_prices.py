"""Operators: prices in force, the rows that each model ever had, file and ledger compared, and usages tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from billing.ledger.catalogue import MOST_PRICES
from billing.ledger.explanations import exact_usd, shown_quantity
from billing.money import format_usd
from billing.pricing import Trial, TrialRefused, find_row, try_usage, usage_of
from billing.web.lists import Column, Field, Figure, Listed, listed
from billing.web.pages import Page, View, Visit, Who

if TYPE_CHECKING:
    from billing.ledger.catalogue import StoredPrice
    from billing.pricing import PriceLine, PriceRow
    from billing.schemas.system import ModelShape

PRICES: Final = "/operator/prices"
_TABS: Final = (("In force", PRICES), ("Differences", f"{PRICES}/differences"), ("Try a usage", f"{PRICES}/try"))
_HISTORY: Final = f"{PRICES}/history?of={{of}}"
_MODELS: Final = (
    Column("Model", "id", href=_HISTORY),
    Column("Row", "row"),
    Column("Context", "context_window", "count"),
    Column("Longest answer", "max_output_tokens", "count"),
    Column("Price", "pricing", "prices"),
)
_ROWS: Final = (
    Column("From", "effective_from"),
    Column("Price", "pricing", "prices"),
    Column("Tiers", "tiers", "count"),
    Column("Variants", "variants"),
    Column("In prices.yaml", "in_file"),
    Column("In the ledger since", "stored_at", "time"),
    Column("Id", "price_id", "code"),
)
_CHANGED: Final = (Column("Model", "row", href=_HISTORY), *_ROWS)
_LINES: Final = (
    Column("Class", "name"),
    Column("Quantity", "quantity"),
    Column("Price (USD)", "rate_usd"),
    Column("Amount (USD)", "amount_usd"),
)
_EXAMPLE: Final = "input_tokens=1000 output_tokens=50"


@dataclass(frozen=True, slots=True)
class _Pricing:
    usd_per_million: dict[str, str]
    usd_per_unit: dict[str, str]


class _Row:
    """A price row as lists show it: from the ledger, which keeps it since `stored_at`, or of the file alone."""

    __slots__ = ("effective_from", "in_file", "of", "price_id", "pricing", "row", "stored_at", "tiers", "variants")

    def __init__(self, row: PriceRow, *, in_file: bool, stored: StoredPrice | None = None) -> None:
        per_million, per_unit = (
            {name: format_usd(nano) for name, nano in rates.items()} for rates in (row.per_million, row.per_unit)
        )
        self.row, self.effective_from, self.in_file = f"{row.provider}/{row.model}", row.effective_from, in_file
        self.of, self.pricing = quote(self.row, safe=""), _Pricing(per_million, per_unit)
        self.tiers, self.variants = len(row.tiers), [variant.name for variant in row.variants]
        self.price_id = row.id if stored is None else stored.price_id
        self.stored_at = None if stored is None else stored.stored_at


class _Model:
    """A model as clients ask for it, and the row that prices it."""

    __slots__ = ("context_window", "id", "max_output_tokens", "of", "pricing", "row")

    def __init__(self, model: ModelShape, row: PriceRow | None) -> None:
        self.id, self.pricing = model.id, model.pricing
        self.context_window, self.max_output_tokens = model.context_window, model.max_output_tokens
        self.row = "" if row is None else f"{row.provider}/{row.model}"
        self.of = quote(self.row or f"{model.owned_by}/{model.id}", safe="")


async def prices(visit: Visit) -> View:
    """Show what each model is priced at now."""
    asked = visit.request.query.get("model", "").lower()
    rows = {row.id: row for row in visit.services.repricing.table().rows}
    models = [each for each in visit.services.models(None) if asked in each.id.lower()]
    found = [_Model(each, rows.get(str(each.pricing.price_id))) for each in models]
    table = Listed("Per million tokens or by the unit, in USD", _MODELS, found, empty="No model is called like that.")
    filters = (Field("model", "Model", "search"),)
    return listed("Prices", table, filters=filters, tabs=_TABS, intro="They are those of prices.yaml.")


async def price_history(visit: Visit) -> View:
    """Show all rows that one model of a provider ever had."""
    of = visit.request.query.get("of", "")
    provider, _, model = of.partition("/")
    in_force = {row.id for row in visit.services.repricing.table().rows}
    stored = await visit.services.repricing.stored.of_model(provider, model)
    rows = [_Row(each.row, in_file=each.row.id in in_force, stored=each) for each in stored]
    table = Listed(f"The newest first, {MOST_PRICES} at most", _ROWS, rows, empty="The ledger has no row of that name.")
    intro = "Each debit names the row that priced it. A row stays here when the file has it no longer."
    field = Field("of", "Provider/model", "search")
    return listed(f"Prices of {of}" if of else "Prices", table, filters=(field,), tabs=_TABS, intro=intro)


async def price_differences(visit: Visit) -> View:
    """Show what the file of prices and the ledger's rows do not have in common."""
    table, kept = visit.services.repricing.table(), visit.services.repricing.stored
    new = [_Row(row, in_file=True) for row in await kept.not_stored(table)]
    old = [_Row(each.row, in_file=False, stored=each) for each in await kept.only_stored(table)]
    only_stored = Listed("In the ledger alone, those stored last first", _CHANGED, old, empty="There is none.")
    only_file = Listed("In prices.yaml alone", _CHANGED, new, empty="There is none: the ledger has every row of it.")
    figures = Figure("Rows in prices.yaml", len(table.rows), "count"), Figure("In the ledger alone", len(old), "count")
    intro = (
        "prices.yaml, as this gateway follows it, beside the rows that the ledger keeps. No request is priced any more "
        f"by rows that only the ledger has. Of each {MOST_PRICES} are shown at most."
    )
    return listed("Differences of prices", only_file, only_stored, figures=figures, tabs=_TABS, intro=intro)


async def price_try(visit: Visit) -> View:
    """Show what a usage would cost now, as `metergate operator price try` does."""
    asked = {name: value.strip() for name, value in visit.request.query.items()}
    trial: Trial | None = None
    if asked.get("model"):
        try:
            trial = _tried(visit, asked)
        except TrialRefused as refused:
            visit.problem = str(refused)
    filters = (
        Field("model", "Provider/model", "search"),
        Field("counts", "Counts", value=_EXAMPLE),
        Field("service_tier", "Service tier"),
        Field("speed", "Speed"),
        Field("region", "Region"),
    )
    lines = [] if trial is None else [_Line(each) for each in trial.lines]
    table = Listed("Line by line", _LINES, lines, empty=f"Name a model and what it used, such as {_EXAMPLE}.")
    figures: tuple[Figure, ...] = ()
    if trial is not None:
        row = trial.row
        by = f"by {row.provider}/{row.model} from {row.effective_from}" + (f", {trial.variant}" * bool(trial.variant))
        figures = (Figure("It would cost", trial.cost_nano, "money", by),)
    view = listed("Try a usage", table, filters=filters, figures=figures, tabs=_TABS)
    return view if visit.problem is None else replace(view, status=422)


def _tried(visit: Visit, asked: dict[str, str]) -> Trial:
    now_s = visit.services.clock()
    row = find_row(visit.services.repricing.table(), asked["model"], now_s)
    conditions = (asked.get(name) or None for name in ("service_tier", "speed", "region"))
    return try_usage(row, usage_of(asked.get("counts", "").split()), now_s, *conditions)


class _Line:
    """A line of a trial as the list shows it."""

    __slots__ = ("amount_usd", "name", "quantity", "rate_usd")

    def __init__(self, line: PriceLine) -> None:
        self.name, self.quantity = line.price_class, shown_quantity(line)
        self.rate_usd, self.amount_usd = format_usd(line.rate_nano), exact_usd(line.amount_scaled)


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", PRICES, prices, Who.operator),
    Page("GET", f"{PRICES}/history", price_history, Who.operator),
    Page("GET", f"{PRICES}/differences", price_differences, Who.operator),
    Page("GET", f"{PRICES}/try", price_try, Who.operator),
)
