"""prices.yaml into a `PriceTable`. The rows' own rules are `billing.pricing`'; this file owns how the file says them.

A row's keys are named relative to the row, whose line says which one it is. A row with `aliases` stands for one row of
each of these names, too.

`PriceFollower` follows the file while a gateway runs, and owns when another table of prices comes into force. Every
process looks at the file each POLL_S. A file that changed is read off the event loop; its rows are in the ledger
before a request is priced by one of them. A file that can't be read leaves the table before it in force, and says so in
the log, once for each change, and in a metric.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, structs

from billing.errors import MetergateError
from billing.money import MoneyError, parse_usd
from billing.pricing import (
    ANY_TOOL,
    CONDITIONS,
    FACTOR_SCALE,
    MULTIPLIERS,
    NAMED_UNITS,
    PART_KINDS,
    TOKEN_CLASSES,
    UNIT_CLASSES,
    PriceError,
    PriceRow,
    PriceTable,
    Tier,
    Variant,
    parse_factor,
)
from gateway.config.source import ConfigError, FileMarks, Problems, Value, file_marks, read_by, read_file, read_section

MAX_TOKENS: Final = 1_000_000_000
MAX_TOOL_TYPES: Final = 64
_VARIANT_KEYS: Final = (*CONDITIONS, "per_million", "per_unit", "tiers", "factor")
_TIER_KEYS: Final = ("above_input_tokens", "at_or_above", "per_million")


def _day(value: Value) -> date | None:
    """Return a date, `YYYY-MM-DD`."""
    what = 'a date such as "2024-07-18"'
    text = value.scalar(what)
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        value.expected(what)
        return None


def parse_rate(value: object) -> int:
    """Return the nano-USD of a decimal string of USD that is not below zero. Raises `MoneyError`."""
    nano = parse_usd(value)
    if nano < 0:
        raise MoneyError("a price is not below zero")
    return nano


def _sound(read: Mapping[str, int | None]) -> dict[str, int]:
    """Return what was read without a problem."""
    return {name: number for name, number in read.items() if number is not None}


def _each(value: Value, names: Collection[str], read: Callable[[Value], int | None]) -> dict[str, int]:
    """Return the numbers of a section with these keys."""
    section = value.section(names)
    return _sound({name: read(section.values[name]) for name in names if name in section.values})


def _rates(value: Value, classes: Collection[str], example: str) -> dict[str, int]:
    return _each(value, classes, lambda each: each.decimal(parse_rate, example))


def _per_million(value: Value) -> dict[str, int]:
    return _rates(value, TOKEN_CLASSES, "0.15")


def _units(value: Value) -> dict[str, int]:
    named = [name for name in value.child_names if NAMED_UNITS.fullmatch(name)]
    return _rates(value, (*UNIT_CLASSES, *named), "0.04")


def _tiers(value: Value) -> tuple[Tier, ...]:
    tiers = []
    for item in value.items():
        start = "at_or_above" if "at_or_above" in item.child_names else "above_input_tokens"
        section = item.section(_TIER_KEYS, (start, "per_million"))
        above = section.maybe("above_input_tokens", lambda value: value.whole(1, MAX_TOKENS))
        if start == "at_or_above":
            if above is not None:
                item.problem("a tier begins above a number of input tokens, or at it: give one of the two")
            at = section.maybe("at_or_above", lambda value: value.whole(2, MAX_TOKENS))
            above = None if at is None else at - 1
        rates = section.maybe("per_million", _per_million) or {}
        if section.ok and above is not None:
            tiers.append(Tier(above, rates))
    return tuple(tiers)


def _variants(value: Value) -> tuple[Variant, ...]:
    variants = []
    for item in value.items():
        section = item.section(_VARIANT_KEYS)
        when = {name: text for name in CONDITIONS if (text := section.maybe(name, Value.text)) is not None}
        per_million = section.maybe("per_million", _per_million) or {}
        per_unit, tiers = section.maybe("per_unit", _units) or {}, section.maybe("tiers", _tiers) or ()
        factor = section.maybe("factor", lambda value: value.decimal(parse_factor, "1.1"))
        if section.ok:
            try:
                variants.append(Variant(when, per_million, per_unit, tiers, FACTOR_SCALE if factor is None else factor))
            except PriceError as error:
                item.problem(str(error))
    return tuple(variants)


def _tool_call_tokens(value: Value) -> dict[str, int]:
    """Return the most input tokens that one call of a tool adds, by the tool's type; a number alone is that of all."""
    if not value.is_mapping:
        tokens = value.whole(0, MAX_TOKENS)
        return {} if tokens is None else {ANY_TOOL: tokens}
    entries = value.entries()
    if len(entries) > MAX_TOOL_TYPES:
        value.problem(f"at most {MAX_TOOL_TYPES} types of tools")
    return _sound({name: each.whole(0, MAX_TOKENS) for name, each in entries.items()})


Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]


class _Row(Struct, frozen=True):
    """A row as the file has it."""

    provider: str
    model: str
    effective_from: Annotated[date, read_by(_day)]
    per_million: Annotated[dict[str, int], read_by(_per_million)] = {}
    per_unit: Annotated[dict[str, int], read_by(_units)] = {}
    tiers: Annotated[tuple[Tier, ...], read_by(_tiers)] = ()
    multipliers: (
        Annotated[
            dict[str, int],
            read_by(lambda value: _each(value, MULTIPLIERS, lambda each: each.decimal(parse_factor, "0.5"))),
        ]
        | None
    ) = None
    part_tokens: (
        Annotated[
            dict[str, int],
            read_by(lambda value: _each(value, PART_KINDS, lambda each: each.whole(1, MAX_TOKENS))),
        ]
        | None
    ) = None
    tool_call_tokens: Annotated[dict[str, int], read_by(_tool_call_tokens)] | None = None
    max_output_tokens: Tokens | None = None
    context_window: Tokens | None = None
    hidden_reasoning: bool = False
    variants: Annotated[tuple[Variant, ...], read_by(_variants)] = ()
    cost: Literal["reported"] | None = None
    source: str | None = None
    aliases: Annotated[tuple[str, ...], read_by(lambda value: value.names("a model's name"))] = ()


def read_prices(at: Value) -> PriceTable:
    """Return the table of all rows that can be read; every other row, and one that stands there twice, is a problem."""
    rows: list[PriceRow] = []
    lines: dict[tuple[str, str, date], int] = {}
    for item in at.items():
        value = Value(item.file, "", item.node, item.line)
        for row in _read_rows(value):
            name = (row.provider, row.model, row.effective_from)
            if name in lines:
                value.problem(
                    f"{row.provider}/{row.model} from {row.effective_from} stands in line {lines[name]} already"
                )
                continue
            lines[name] = value.line
            rows.append(row)
    return PriceTable(rows)


def _read_rows(value: Value) -> list[PriceRow]:
    """Return the row, and one for each of its aliases; none and a problem for a wrong one."""
    row = read_section(value, _Row)
    if row is None:
        return []
    given = structs.asdict(row)
    aliases, cost = given.pop("aliases"), given.pop("cost")
    try:
        first = PriceRow(**given, cost_reported=cost is not None)
        return [first, *(first.alias(name) for name in aliases)]
    except PriceError as error:
        value.problem(str(error))
        return []


logger = logging.getLogger(__name__)

POLL_S: Final = 0.5


def load_prices(path: Path, environ: Mapping[str, str]) -> PriceTable:
    """Return the table of a file. Raises `ConfigError` with every problem of it."""
    problems = Problems()
    value = read_file(path, str(path), environ, problems)
    table = PriceTable(()) if value is None else read_prices(value)
    problems.refuse()
    return table


class PriceFollower:
    """Puts each new content of a file of prices in force: `store` makes its rows known to the ledger, `apply` prices
    requests by it. `in_force` was read after the file had the marks `seen`."""

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        in_force: PriceTable,
        seen: FileMarks,
        store: Callable[[PriceTable], Awaitable[object]],
        apply: Callable[[PriceTable], None],
    ) -> None:
        self._path = path
        self._environ = environ
        self._rows = in_force.rows
        self._store = store
        self._apply = apply
        self._seen = seen
        self.broken = False
        """Whether the file can't be read, so that a table before it is in force."""

    async def look(self) -> None:
        """Put the file in force where it has changed. A failure of the ledger is tried again with the next look."""
        marks = file_marks(self._path)
        if marks == self._seen:
            return
        try:
            table = await asyncio.to_thread(load_prices, self._path, self._environ)
        except ConfigError as error:
            self._seen, self.broken = marks, True
            logger.error("%s is not read, and the prices before it stay in force: %s", self._path, error)
            return
        if table.rows != self._rows:
            try:
                await self._store(table)
            except MetergateError as error:
                logger.warning("the prices of %s wait for the ledger: %s", self._path, error)
                return
            self._apply(table)
            self._rows = table.rows
            logger.info("prices of %s are in force: %d rows", self._path, len(table.rows))
        self._seen, self.broken = marks, False
