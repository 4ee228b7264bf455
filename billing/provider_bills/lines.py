"""Lines of providers' bills: read from what their APIs of usage and costs answer and from an invoice as CSV, and
compared with what the ledger says of the same days and models. Pure.

Sources, as of November 2026:

OpenAI      https://platform.openai.com/docs/api-reference/usage: `/v1/organization/usage/...` counts tokens by model
            and key, `/v1/organization/costs` has amounts in USD as numbers, by line item (`gpt-4o, input`) and key
Anthropic   https://docs.claude.com/en/api/usage-cost-api: `/v1/organizations/usage_report/messages` counts tokens by
            model and workspace, `cost_report` has amounts as decimal strings in cents, by description and workspace
OpenRouter  https://openrouter.ai/docs/api-reference/analytics/get-user-activity: `/api/v1/activity` has both, of one
            of the last 30 days that are over, by model and endpoint, amounts in USD as JSON numbers

Amounts are read as they are written, never as floats, and rounded to the nano-USD line by line, half to even.

A provider names the model that has answered, often with its date (`gpt-4o-2024-08-06`), where the request asked for
`gpt-4o`. So names of a day are compared by the name without its date, as soon as either side has that one; where both
sides name dates alone, by the whole name.

Every amount of either side is in exactly one category: the sums of the categories are the totals of both sides.

BillError
+-- BillRefused       what was given is no bill, or can't be asked for
+-- BillUnavailable   the provider does not answer as it should
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import msgspec

from billing.errors import MetergateError
from billing.money import MAX_NANO, NANO_PER_USD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Category = Literal["matched", "missing_here", "missing_there", "priced_differently"]
MOST_TEXT: Final = 500
CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
# A model's name with a date as OpenAI (`-2024-08-06`), Anthropic (`-20250514`) and Google's cloud (`@20250514`) write
# it, or with the alias of the newest one.
_DATED: Final = re.compile(r"(?P<name>.+?)(?:[-@](?:\d{4}-\d{2}-\d{2}|\d{8}|latest))", re.ASCII)


class BillError(MetergateError):
    """A provider's bill was not read or not compared."""


class BillRefused(BillError):
    """A query that can't be answered, or a file that is no bill; `field` names the wrong field."""

    kind = "invalid"


class BillUnavailable(BillError):
    """The provider does not answer as it should. The message holds nothing of what was sent or answered."""

    kind = "unavailable"


class Counts(NamedTuple):
    """What was counted, or billed, in nano-USD; tokens of input include the cached ones."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    amount_nano: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return both together."""
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


NOTHING: Final = Counts()


@dataclass(frozen=True, slots=True)
class BillLine:
    """A line of a bill, of a day of UTC; `key` is the provider's own id of a key, project or workspace, `line` what it
    calls the line. What a line does not say is None: some count, and others name amounts."""

    day: date
    model: str
    key: str = ""
    line: str = ""
    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    amount_nano: int | None = None

    def __post_init__(self) -> None:
        for text in (self.model, self.key, self.line):
            if len(text) > MOST_TEXT or "\0" in text:
                raise BillRefused(f"A name of {self.day} is longer than {MOST_TEXT} characters, or no text.")
        if self.amount_nano is not None and abs(self.amount_nano) > MAX_NANO:
            raise BillRefused(f"An amount of {self.day} is beyond {MAX_NANO // NANO_PER_USD} USD.")
        for counted in (self.requests, self.input_tokens, self.output_tokens):
            if counted is not None and not 0 <= counted <= MAX_NANO:
                raise BillRefused(f"A count of {self.day} is not from 0 to {MAX_NANO}.")

    @property
    def identity(self) -> tuple[date, str, str, str]:
        """Return what makes it another line than others."""
        return self.day, self.model, self.key, self.line

    @property
    def counts(self) -> Counts:
        """Return its counts and amount; missing ones are 0."""
        return Counts(self.requests or 0, self.input_tokens or 0, self.output_tokens or 0, self.amount_nano or 0)


def together(lines: Iterable[BillLine]) -> list[BillLine]:
    """Return lines with those of one identity added up, in the order of their identities."""
    found: dict[tuple[date, str, str, str], BillLine] = {}
    for line in lines:
        before = found.get(line.identity)
        found[line.identity] = line if before is None else _added(before, line)
    return [found[identity] for identity in sorted(found)]


def _added(first: BillLine, second: BillLine) -> BillLine:
    def both(mine: int | None, theirs: int | None) -> int | None:
        return mine if theirs is None else theirs if mine is None else mine + theirs

    return replace(
        first,
        requests=both(first.requests, second.requests),
        input_tokens=both(first.input_tokens, second.input_tokens),
        output_tokens=both(first.output_tokens, second.output_tokens),
        amount_nano=both(first.amount_nano, second.amount_nano),
    )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two sides may differ and match: by `nano`, or by so many hundredths of `percent` of the bill, whichever
    is more. Counts of tokens agree within the share alone."""

    nano: int = NANO_PER_USD // 100
    hundredths_of_percent: int = 100

    def __post_init__(self) -> None:
        if self.nano < 0 or not 0 <= self.hundredths_of_percent <= 10_000:
            raise ValueError("a tolerance is not below zero, nor above 100%")

    def matches(self, ours_nano: int, theirs_nano: int) -> bool:
        """Return whether two amounts are taken for the same."""
        difference = abs(ours_nano - theirs_nano)
        return difference <= self.nano or self.agrees(ours_nano, theirs_nano)

    def agrees(self, ours: int, theirs: int) -> bool:
        """Return whether two counts are taken for the same."""
        return abs(ours - theirs) * 10_000 <= abs(theirs) * self.hundredths_of_percent


@dataclass(frozen=True, slots=True)
class Compared:
    """One day and model on both sides. `tokens_agree` is None where one side counts no tokens; `keys` are the ids of
    the provider's that the bill names for it."""

    day: date
    model: str
    category: Category
    ours: Counts
    theirs: Counts
    tokens_agree: bool | None
    keys: tuple[str, ...] = ()

    @property
    def difference_nano(self) -> int:
        """Return what the bill has more than we have."""
        return self.theirs.amount_nano - self.ours.amount_nano


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, by day and model."""

    rows: tuple[Compared, ...]

    def of(self, category: Category) -> tuple[Counts, Counts]:
        """Return what both sides have in a category: ours, theirs."""
        return self._sum(row for row in self.rows if row.category == category)

    @property
    def total(self) -> tuple[Counts, Counts]:
        """Return what both sides have: ours, theirs."""
        return self._sum(self.rows)

    @property
    def difference_nano(self) -> int:
        """Return the sum of the differences of what did not match, each as above zero."""
        return sum(abs(row.difference_nano) for row in self.rows if row.category != "matched")

    @staticmethod
    def _sum(rows: Iterable[Compared]) -> tuple[Counts, Counts]:
        ours, theirs = NOTHING, NOTHING
        for row in rows:
            ours, theirs = ours.plus(row.ours), theirs.plus(row.theirs)
        return ours, theirs


def compare(ours: Mapping[tuple[date, str], Counts], bill: Iterable[BillLine], tolerance: Tolerance) -> Comparison:
    """Compare what we have of days and models with the lines of a bill. The order of either does not matter."""
    lines = list(bill)
    names: dict[date, set[str]] = defaultdict(set)
    for day, model in (*ours, *((line.day, line.model) for line in lines)):
        names[day].add(model)
    here: dict[tuple[date, str], Counts] = defaultdict(Counts)
    there: dict[tuple[date, str], list[BillLine]] = defaultdict(list)
    for (day, model), counts in ours.items():
        place = day, group_of(model, names[day])
        here[place] = here[place].plus(counts)
    for line in lines:
        there[line.day, group_of(line.model, names[line.day])].append(line)
    rows = [_compared(place, here.get(place), there.get(place, []), tolerance) for place in sorted({*here, *there})]
    return Comparison(tuple(rows))


def group_of(model: str, names: set[str]) -> str:
    """Return the name by which a model of a day is compared, of all names that either side has on that day."""
    dated = _DATED.fullmatch(model)
    return dated["name"] if dated is not None and dated["name"] in names else model


def _compared(place: tuple[date, str], ours: Counts | None, bill: list[BillLine], tolerance: Tolerance) -> Compared:
    theirs = NOTHING
    for line in bill:
        theirs = theirs.plus(line.counts)
    category: Category
    if ours is None:
        category = "missing_here"
    elif not bill:
        category = "missing_there"
    else:
        category = "matched" if tolerance.matches(ours.amount_nano, theirs.amount_nano) else "priced_differently"
    counted = ours is not None and any(line.input_tokens is not None or line.output_tokens is not None for line in bill)
    agree = None
    if counted and ours is not None:
        agree = tolerance.agrees(ours.input_tokens, theirs.input_tokens) and tolerance.agrees(
            ours.output_tokens, theirs.output_tokens
        )
    keys = tuple(sorted({line.key for line in bill if line.key}))
    return Compared(*place, category, ours or NOTHING, theirs, agree, keys)


SourceName = Literal["openai", "anthropic", "openrouter"]
SOURCES: Final[tuple[SourceName, ...]] = get_args(SourceName)
BASE_URLS: Final[Mapping[SourceName, str]] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}
MOST_INVOICE_ROWS: Final = 100_000
# What an invoice's CSV has, the first three at least; its own names of columns may be given for them.
COLUMNS: Final = ("day", "model", "amount_usd", "key", "line", "requests", "input_tokens", "output_tokens")
_NEEDED: Final = COLUMNS[:3]
_NANO_PER_CENT: Final = NANO_PER_USD // 100
_DECODE: Final = msgspec.json.Decoder(float_hook=Decimal)
_VERSION: Final = "2023-06-01"
# What reading an answer raises that is not what the API says.
_NOT_SO: Final = (
    msgspec.DecodeError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    OSError,
    InvalidOperation,
    BillRefused,
    RecursionError,
)
Query = tuple[tuple[str, str], ...]


class Question(NamedTuple):
    """What is asked for: a path below the base URL, its query, and how the answer's pages are read."""

    path: str
    query: Query
    read: Callable[[Any], list[BillLine]]


def headers_of(source: SourceName, key: str) -> dict[str, str]:
    """Return the headers that carry a key of a provider."""
    if source == "anthropic":
        return {"x-api-key": key, "anthropic-version": _VERSION}
    return {"Authorization": f"Bearer {key}"}


def questions(source: SourceName, since: date, until: date) -> list[Question]:
    """Return what is asked for the days of UTC from one on and before another."""
    begins, ends = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (since, until))
    if source == "openai":
        times = (("start_time", str(int(begins.timestamp()))), ("end_time", str(int(ends.timestamp()))))
        usage: Query = (
            *times,
            ("bucket_width", "1d"),
            ("limit", "31"),
            ("group_by[]", "model"),
            ("group_by[]", "api_key_id"),
        )
        costs: Query = (*times, ("limit", "31"), ("group_by[]", "line_item"), ("group_by[]", "api_key_id"))
        counted = ("completions", "embeddings", "moderations")
        asked = [Question(f"/organization/usage/{kind}", usage, _openai_usage(kind)) for kind in counted]
        return [*asked, Question("/organization/costs", costs, _openai_costs)]
    if source == "anthropic":
        spans = (("starting_at", f"{since}T00:00:00Z"), ("ending_at", f"{until}T00:00:00Z"), ("bucket_width", "1d"))
        groups = (("limit", "31"), ("group_by[]", "workspace_id"))
        return [
            Question(
                "/organizations/usage_report/messages", (*spans, *groups, ("group_by[]", "model")), _anthropic_usage
            ),
            Question("/organizations/cost_report", (*spans, *groups, ("group_by[]", "description")), _anthropic_costs),
        ]
    days = [since + timedelta(days=place) for place in range((until - since).days)]
    return [Question("/activity", (("date", day.isoformat()),), _openrouter) for day in days]


def read_page(question: Question, body: bytes) -> tuple[list[BillLine], str | None]:
    """Return the lines of a page, and the cursor of the next one; None after the last. Raises `BillUnavailable` for
    what is no such page."""
    try:
        page = _DECODE.decode(body)
        lines = question.read(page)
        if not page.get("has_more"):
            return lines, None
        cursor = page["next_page"]
        if not isinstance(cursor, str) or not cursor:
            raise TypeError("a page without the next one's cursor")
    except _NOT_SO as error:
        raise BillUnavailable(f"The provider's answer at {question.path} is not what its API says.") from error
    return lines, cursor


def _openai_usage(kind: str) -> Callable[[Any], list[BillLine]]:
    def read(page: Any) -> list[BillLine]:
        return [
            BillLine(
                datetime.fromtimestamp(bucket["start_time"], UTC).date(),
                result.get("model") or "",
                result.get("api_key_id") or "",
                f"usage: {kind}",
                _count(result.get("num_model_requests")),
                _count(result.get("input_tokens")),
                _count(result.get("output_tokens")),
            )
            for bucket in page["data"]
            for result in bucket.get("results") or bucket.get("result") or ()
        ]

    return read


def _openai_costs(page: Any) -> list[BillLine]:
    lines = []
    for bucket in page["data"]:
        day = datetime.fromtimestamp(bucket["start_time"], UTC).date()
        for result in bucket.get("results") or bucket.get("result") or ():
            amount, item = result["amount"], result.get("line_item") or ""
            if amount["currency"].lower() != "usd":
                raise ValueError("another currency than USD")
            model, key = item.partition(", ")[0], result.get("api_key_id") or ""
            lines.append(BillLine(day, model, key, f"cost: {item}", amount_nano=_nano(amount["value"], NANO_PER_USD)))
    return lines


def _anthropic_usage(page: Any) -> list[BillLine]:
    lines = []
    for bucket in page["data"]:
        for result in bucket["results"]:
            written = result.get("cache_creation") or {}
            tokens = (
                result["uncached_input_tokens"],
                result.get("cache_read_input_tokens") or 0,
                written.get("ephemeral_5m_input_tokens") or 0,
                written.get("ephemeral_1h_input_tokens") or 0,
            )
            lines.append(
                BillLine(
                    date.fromisoformat(bucket["starting_at"][:10]),
                    result.get("model") or "",
                    result.get("workspace_id") or "",
                    "usage: messages",
                    input_tokens=sum(map(int, tokens)),
                    output_tokens=_count(result["output_tokens"]),
                )
            )
    return lines


def _anthropic_costs(page: Any) -> list[BillLine]:
    lines = []
    for bucket in page["data"]:
        for result in bucket["results"]:
            if result["currency"].upper() != "USD":
                raise ValueError("another currency than USD")
            name = result.get("description") or result.get("cost_type") or ""
            model = result.get("model") or name
            parts = (result.get("token_type"), result.get("service_tier"), result.get("context_window"))
            line = ", ".join(["cost: " + name, *(part for part in parts if part)])
            lines.append(
                BillLine(
                    date.fromisoformat(bucket["starting_at"][:10]),
                    model,
                    result.get("workspace_id") or "",
                    line,
                    amount_nano=_nano(result["amount"], _NANO_PER_CENT),
                )
            )
    return lines


def _openrouter(page: Any) -> list[BillLine]:
    lines = []
    for result in page["data"]:
        day, model = date.fromisoformat(result["date"][:10]), result["model"]
        line = f"activity: {result.get('provider_name') or ''} {result.get('endpoint_id') or ''}".strip()
        lines.append(
            BillLine(
                day,
                model,
                "",
                line,
                _count(result["requests"]),
                _count(result["prompt_tokens"]),
                _count(result["completion_tokens"]),
                _nano(result["usage"], NANO_PER_USD),
            )
        )
        own_key = _nano(result.get("byok_usage_inference") or 0, NANO_PER_USD)
        if own_key:  # what the provider behind it was paid by a key of one's own
            lines.append(BillLine(day, model, "", f"own key: {line}", amount_nano=own_key))
    return lines


def read_invoice(text: str, names: Mapping[str, str], since: date, until: date) -> list[BillLine]:
    """Return the lines of an invoice as CSV whose days are from one on and before another. `names` gives the file's own
    names of `COLUMNS`. Raises `BillRefused`, with the row that is wrong."""
    unknown = sorted(set(names) - set(COLUMNS))
    if unknown:
        raise BillRefused(f"There is no column {unknown[0]!r}: take some of {', '.join(COLUMNS)}.", "columns")
    table = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    try:
        header: Sequence[str] = table.fieldnames or ()
    except csv.Error as error:
        raise BillRefused(f"The invoice is no CSV: {error}.", "invoice") from error
    at = {column: names.get(column, column) for column in COLUMNS}
    for column in COLUMNS:
        if at[column] not in header and (column in _NEEDED or column in names):
            raise BillRefused(f"The invoice has no column {at[column]!r}: say {column}=ITS_NAME.", "columns")
    lines = []
    try:
        for number, row in enumerate(table, 2):
            if number > MOST_INVOICE_ROWS + 1:
                raise BillRefused(f"An invoice has at most {MOST_INVOICE_ROWS} rows.", "invoice")
            lines.append(_invoice_line({column: row.get(at[column]) or "" for column in COLUMNS}, number))
    except csv.Error as error:
        raise BillRefused(f"The invoice is no CSV: {error}.", "invoice") from error
    return together(line for line in lines if since <= line.day < until)


def _invoice_line(row: Mapping[str, str], number: int) -> BillLine:
    try:
        day = date.fromisoformat(row["day"].strip()[:10])
        counted = [_count(row[name].strip() or None) for name in ("requests", "input_tokens", "output_tokens")]
        amount_nano = _nano(row["amount_usd"].strip(), NANO_PER_USD)
        requests, tokens_in, tokens_out = counted
        names = row["model"].strip(), row["key"].strip(), row["line"].strip()
        return BillLine(day, *names, requests, tokens_in, tokens_out, amount_nano)
    except (ValueError, InvalidOperation, BillRefused) as error:
        expected = "needs a day such as 2027-01-31, whole counts, and an amount such as 12.50"
        raise BillRefused(f"Row {number} of the invoice {expected}.", "invoice") from error


def _count(given: Any) -> int | None:
    """Return a whole number, also where it is written as 5.0. Raises `ValueError` for others."""
    if given is None:
        return None
    number = Decimal(given)
    if not number.is_finite() or not 0 <= number <= MAX_NANO or number != number.to_integral_value():
        raise ValueError("a count that is not whole, or beyond all bounds")
    return int(number)


def _nano(given: Any, unit_nano: int) -> int:
    """Return nano-USD of an amount in units of so many. Raises `ValueError` and `InvalidOperation`."""
    amount = Decimal(given)
    if not amount.is_finite() or not -MAX_NANO <= amount <= MAX_NANO:
        raise ValueError("an amount that is no number, or beyond all bounds")
    return int((amount * unit_nano).quantize(Decimal(1), ROUND_HALF_EVEN))
