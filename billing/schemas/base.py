"""What all shapes have in common: their base classes, the types of their fields, lists and errors. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cache, singledispatch
from typing import Annotated, Any, Final, Generic, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

from billing.money import MOST_PRIORITY, format_cents, format_usd
from billing.pages import DEFAULT_LIMIT, MAX_LIMIT
from billing.times import rfc3339

T = TypeVar("T")

# Longest time for one call of a client, unless its caller gives another one.
DEFAULT_TIMEOUT_S: Final = 30.0
_RECEIVED: Final = "received"
_MOST_OF_FILTER: Final = 255
# Amounts up to the bound of all money, 2^53 - 1 nano-USD, but for the last dollar.
_USD: Final = r"([0-9]{1,6}|[0-8][0-9]{6}|900[0-6][0-9]{3}|9007(0[0-9]{2}|1[0-8][0-9]|19[0-8]))(\.[0-9]{1,9})?$"
USD_PATTERN: Final = f"^{_USD}"
POSITIVE_USD_PATTERN: Final = f"^(?=.*[1-9]){_USD}"
SIGNED_USD_PATTERN: Final = f"^-?(?=.*[1-9]){_USD}"


def matching(pattern: str, **more: Any) -> Meta:
    """Return the condition that a text matches `pattern` from its first to its last character: Python's `$` would let
    a newline follow."""
    return Meta(pattern=rf"^{pattern}\Z", **more)


Usd = Annotated[str, Meta(description="USD as a decimal string with at most 9 decimals", examples=["12.50"])]
ExactUsd = Annotated[str, Meta(description="USD as a decimal string, with every digit", examples=["0.1875"])]
Moment = Annotated[str, Meta(description="a time in UTC", extra_json_schema={"format": "date-time"})]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Id = Annotated[str, Meta(min_length=1, max_length=255)]
# Money in a body is taken as it comes and parsed by `billing.money`, whose messages say more.
UsdBody = Annotated[Any, Meta(extra_json_schema={"type": "string", "pattern": USD_PATTERN, "examples": ["12.50"]})]
PositiveUsdBody = Annotated[
    Any, Meta(extra_json_schema={"type": "string", "pattern": POSITIVE_USD_PATTERN, "examples": ["12.50"]})
]
SignedUsdBody = Annotated[
    Any, Meta(extra_json_schema={"type": "string", "pattern": SIGNED_USD_PATTERN, "examples": ["-12.50"]})
]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description=f"an integer from 1 to {MAX_LIMIT}")]
Filter = Annotated[
    str, Meta(min_length=1, max_length=_MOST_OF_FILTER, description=f"a text of 1 to {_MOST_OF_FILTER} characters")
]
# Of credit, among the lots of an account.
Priority = Annotated[
    int, Meta(ge=0, le=MOST_PRIORITY, description=f"an integer from 0 to {MOST_PRIORITY}; the lowest is drawn first")
]
Since = Annotated[
    str,
    Meta(
        description="a time in RFC 3339, or a day",
        examples=["2027-01-31", "2027-01-31T12:00:00Z"],
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}]},
    ),
]


# Fields that rows have by another name.
_ALSO_CALLED: Final = {"transaction_id": "transfer_id", "charge_usd": "charged_nano"}
_MISSING: Final = object()


@singledispatch
def shown(value: Any) -> Any:
    """Return a value of a row as JSON has it. Modules of schemas add types of theirs."""
    return value


@shown.register
def _(value: datetime) -> str:
    return rfc3339(value)


@shown.register
def _(value: date) -> str:
    return value.isoformat()


@shown.register
def _(value: tuple) -> list[Any]:  # type: ignore[type-arg]  # singledispatch takes classes
    return [shown(each) for each in value]


@shown.register
def _(value: Mapping) -> dict[str, Any]:  # type: ignore[type-arg]
    return dict(value)


@cache
def _sources(field: str) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Return which attributes of a row a field comes from, and how they are shown."""
    name = _ALSO_CALLED.get(field, field)
    if not field.endswith("_usd"):
        return tuple((each, shown) for each in dict.fromkeys((field, name)))
    amount = name.removesuffix("_usd").removesuffix("_nano")
    return (field, shown), (f"{amount}_nano", format_usd), (f"{amount}_cents", format_cents)


def _found(field: str, rows: tuple[object, ...]) -> Any:
    for row in rows:
        for attribute, show in _sources(field):
            value = getattr(row, attribute, _MISSING)
            if value is not _MISSING:
                return None if value is None else show(value)
    return _MISSING


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request's body: strict types, no unknown fields, bounded lengths. What is unset is not sent."""


class Query(Struct, frozen=True, kw_only=True):
    """A query string: texts and integers."""


class Answer(Struct, frozen=True, kw_only=True, dict=True):
    """An answer's body."""

    @classmethod
    def of(cls, *rows: object, **more: Any) -> Self:
        """Return the answer that shows rows: each field is that of `more`, or what the first row has that has it. A
        field `x_usd` is `x_nano` or `x_cents` of a row; values are as `shown` returns them."""
        for name in cls.__struct_fields__:
            if name in more:
                more[name] = shown(more[name])
            elif (found := _found(name, rows)) is not _MISSING:
                more[name] = found
        return cls(**more)

    @property
    def received(self) -> Any:
        """Return the JSON that a client has received, with the fields of a newer gateway; the answer itself
        elsewhere."""
        return self.__dict__.get(_RECEIVED, self)

    def with_received(self, received: Any) -> Self:
        """Keep the JSON of which this was made."""
        self.__dict__[_RECEIVED] = received
        return self


class Listing(Answer, Generic[T], frozen=True, kw_only=True):
    """A page of a list, newest first; `next_cursor` is null on the last one."""

    data: list[T]
    next_cursor: str | None


class PageQuery(Query, frozen=True, kw_only=True):
    """Which page of a list."""

    limit: Limit = DEFAULT_LIMIT
    cursor: (
        Annotated[str, Meta(description="`next_cursor` of the page before", extra_json_schema={"format": "cursor"})]
        | None
    ) = None


class ErrorShape(Answer, frozen=True, kw_only=True):
    """What is wrong; some codes bring more fields."""

    message: str
    type: str
    param: Annotated[str, Meta(description="the field that is wrong, where it is known")] | None = None
    code: str


class ErrorEnvelope(Answer, frozen=True, kw_only=True):
    """The body of every refusal: OpenAI's envelope (https://platform.openai.com/docs/guides/error-codes)."""

    error: ErrorShape


def error_body(code: str, message: str, *, type_: str, param: str | None = None, **more: object) -> bytes:
    """Return the envelope of an error in OpenAI's format as JSON; `more` stands inside `error`.

    Source: https://platform.openai.com/docs/guides/error-codes.
    """
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": param, "code": code, **more}})


def percent_text(hundredths: int) -> str:
    """Return hundredths of a percent as a decimal: -1250 -> `"-12.50"`."""
    whole, rest = divmod(abs(hundredths), 100)
    return f"{'-' if hundredths < 0 else ''}{whole}.{rest:02d}"
