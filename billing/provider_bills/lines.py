"""Lines of a provider's bill, and how they are compared with what the ledger says of the same days and models. Pure.

A provider names the model that has answered, often with its date (`gpt-4o-2024-08-06`), where the request asked for
`gpt-4o`. So names of a day are compared by the name without its date, as soon as either side has that one; where both
sides name dates alone, by the whole name.

Every amount of either side is in exactly one category: the sums of the categories are the totals of both sides.

BillError
+-- BillRefused       what was given is no bill, or can't be asked for
+-- BillUnavailable   the provider does not answer as it should
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from billing.errors import MetergateError
from billing.money import MAX_NANO, NANO_PER_USD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


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
            raise ValueError("a tolerance is not below zero, nor above 100 %")

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
