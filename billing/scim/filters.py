"""Filters and paths of SCIM (RFC 7644, sections 3.4.2.2 and 3.5.2): read, and evaluated on a resource. Pure.

    filter  = or        or = and *("or" and)        and = term *("and" term)
    term    = ["not"] "(" filter ")"  /  path "pr"  /  path operator value  /  path "[" filter "]"
    path    = attribute ["." part], with the schema's URN before it or without

A filter is bounded in characters, in depth and in comparisons, before anything is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from billing.scim.attributes import Attribute, Resource, ResourceType, ScimError

MOST_CHARACTERS: Final = 2000
MOST_DEPTH: Final = 10
MOST_COMPARISONS: Final = 50
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<mark>[()\[\]])|(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?(?![\w.:]))|"""
    r"""(?P<word>[A-Za-z$][\w$.:/-]*))""",
    re.ASCII,
)
_OPERATORS: Final = frozenset({"eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le"})
_WORDS: Final[Mapping[str, Any]] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of a path with a value; the operator `pr` asks whether there is one."""

    path: str
    operator: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Both:
    """Every one of some filters."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of some filters."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Inverse:
    """Not a filter."""

    part: Filter


@dataclass(frozen=True, slots=True)
class Within:
    """One value of an attribute that has several, for which all of a filter holds."""

    path: str
    part: Filter


Filter = Comparison | Both | Either | Inverse | Within


@dataclass(frozen=True, slots=True)
class Asked:
    """Which resources: those for which a filter holds, from the `start`th on (the first is 0), `count` at most; without
    `references` nothing is read of members or groups."""

    only: Filter | None
    start: int
    count: int
    references: bool = True


@dataclass(frozen=True, slots=True)
class Path:
    """Where a PATCH changes something: an attribute, with `only` those of its values for which a filter holds, and
    `part` of it."""

    name: str
    only: Filter | None = None
    part: str | None = None


def parse_filter(text: str) -> Filter:
    """Return a filter. Raises `ScimError`."""
    reader = _Reader(text)
    found = reader.either(0)
    reader.end()
    return found


def parse_path(text: str) -> Path:
    """Return the path of a change. Raises `ScimError`."""
    head, bracket, rest = text.strip().partition("[")
    if not bracket:
        name, part = split_path(head)
        return Path(name, None, part)
    inner, closing, after = rest.rpartition("]")
    part = after.removeprefix(".")
    if not closing or (after and not after.startswith(".")) or re.fullmatch(r"[\w$-]*", part) is None:
        raise ScimError(f"This is no path: {text[:100]!r}.", "invalidPath")
    return Path(head, parse_filter(inner), part or None)


def split_path(path: str) -> tuple[str, str | None]:
    """Return the attribute of a path and the part of it, if it names one; the URN of a schema has dots, too."""
    urn, colon, name = path.rpartition(":")
    name, _, part = name.partition(".")
    if re.fullmatch(r"[\w$-]+", name) is None or re.fullmatch(r"[\w$-]*", part) is None:
        raise ScimError(f"This is no path: {path[:100]!r}.", "invalidPath")
    return f"{urn}{colon}{name}", part or None


class _Reader:
    """Reads a filter from its beginning to its end."""

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise ScimError(f"A filter has at most {MOST_CHARACTERS} characters.", "invalidFilter")
        self._tokens = list(_tokens(text))
        self._at = self._compared = 0

    def end(self) -> None:
        """Reject what follows the filter."""
        if self._at < len(self._tokens):
            raise _wrong(f"what follows {self._tokens[self._at - 1]!r}")

    def either(self, depth: int) -> Filter:
        """Read filters with `or` between them."""
        if depth > MOST_DEPTH:
            raise ScimError(f"A filter has at most {MOST_DEPTH} brackets in one another.", "invalidFilter")
        parts = [self._both(depth)]
        while self._is_next("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _both(self, depth: int) -> Filter:
        parts = [self._term(depth)]
        while self._is_next("and"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _term(self, depth: int) -> Filter:
        inverse = self._is_next("not")
        if self._is_next("("):
            inner = self.either(depth + 1)
            self._expect(")")
            return Inverse(inner) if inverse else inner
        if inverse:
            raise _wrong("`not` without brackets")
        path = self._word()
        if self._is_next("["):
            inner = self.either(depth + 1)
            self._expect("]")
            return Within(path, inner)
        self._compared += 1
        if self._compared > MOST_COMPARISONS:
            raise ScimError(f"A filter has at most {MOST_COMPARISONS} comparisons.", "invalidFilter")
        operator = self._word().lower()
        if operator == "pr":
            return Comparison(path, operator)
        if operator not in _OPERATORS:
            raise _wrong(f"{operator[:20]!r}")
        return Comparison(path, operator, self._value())

    def _value(self) -> Any:
        token = self._next()
        try:
            if token.lower() in _WORDS:
                return _WORDS[token.lower()]
            value = msgspec.json.decode(token)
        except msgspec.DecodeError as error:
            raise _wrong(f"the value {token[:50]!r}") from error
        if isinstance(value, str) and "\0" in value:
            raise ScimError("A value in a filter must not contain NUL characters.", "invalidFilter")
        return value

    def _word(self) -> str:
        token = self._next()
        if not (token[0].isalpha() or token[0] == "$"):
            raise _wrong(f"{token[:50]!r}")
        return token

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise _wrong("its end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _is_next(self, wanted: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].lower() == wanted
        self._at += found
        return found

    def _expect(self, wanted: str) -> None:
        if not self._is_next(wanted):
            raise _wrong(f"where {wanted} is missing")


def _tokens(text: str) -> Iterator[str]:
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _wrong(f"{text[at : at + 20]!r}")
        yield found[0].strip()
        at = found.end()


def _wrong(what: str) -> ScimError:
    return ScimError(
        f'This filter can\'t be read at {what}. An example: userName eq "ada@example.com".', "invalidFilter"
    )


def compared(found: Filter, name: str) -> str | None:
    """Return the text that a whole filter compares an attribute with for equality; None for any other filter."""
    if isinstance(found, Comparison) and found.operator == "eq" and isinstance(found.value, str):
        return found.value if found.path.lower() == name.lower() else None
    return None


def names_in(found: Filter) -> frozenset[str]:
    """Return the attributes that a filter asks for, in lower case, without a URN and parts."""
    match found:
        case Both(parts) | Either(parts):
            return frozenset[str]().union(*(names_in(each) for each in parts))
        case Inverse(part):
            return names_in(part)
        case Within(path, _) | Comparison(path):
            return frozenset({path.rpartition(":")[2].partition(".")[0].lower()})


def comparisons(found: Filter) -> int:
    """Return how many comparisons a filter has."""
    match found:
        case Both(parts) | Either(parts):
            return sum(map(comparisons, parts))
        case Inverse(part) | Within(_, part):
            return comparisons(part)
        case Comparison():
            return 1


def holds(found: Filter, type_: ResourceType, resource: Resource) -> bool:
    """Return whether a filter holds for a resource."""

    def read(path: str) -> Iterator[tuple[Attribute, Any]]:
        name, part = split_path(type_.strip(path))
        attribute = type_.attribute(name)
        if attribute is not None:
            yield from _values(attribute, part, resource.get(attribute.name))

    def inside(path: str, inner: Filter) -> bool:
        attribute = type_.attribute(type_.strip(path))
        if attribute is None:
            return False
        values = resource.get(attribute.name)
        several = values if isinstance(values, list) else [] if values is None else [values]
        return any(holds_within(inner, attribute, each) for each in several)

    return _holds(found, read, inside)


def holds_within(found: Filter, attribute: Attribute, value: Any) -> bool:
    """Return whether a filter holds for one value of a complex attribute."""

    def read(path: str) -> Iterator[tuple[Attribute, Any]]:
        part = attribute.part(path)
        if part is not None and isinstance(value, Mapping):
            yield from _values(part, None, value.get(part.name))

    return _holds(found, read, lambda path, inner: False)


def _holds(found: Filter, read: Any, inside: Any) -> bool:
    match found:
        case Both(parts):
            return all(_holds(each, read, inside) for each in parts)
        case Either(parts):
            return any(_holds(each, read, inside) for each in parts)
        case Inverse(part):
            return not _holds(part, read, inside)
        case Within(path, part):
            return bool(inside(path, part))
        case Comparison(path, "ne", value):
            return not any(_compare(attribute, each, "eq", value) for attribute, each in read(path))
        case Comparison(path, operator, value):
            return any(_compare(attribute, each, operator, value) for attribute, each in read(path))


def _values(attribute: Attribute, part: str | None, value: Any) -> Iterator[tuple[Attribute, Any]]:
    """Yield the values at a path: of a complex attribute that has several the `value` of each, where no part is
    named."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    if attribute.kind != "complex":
        yield from ((attribute, each) for each in several)
        return
    if part is None and not attribute.many:
        yield from ((attribute, each) for each in several)
        return
    found = attribute.part(part or "value")
    if found is not None:
        yield from ((found, each[found.name]) for each in several if each.get(found.name) is not None)


def _compare(attribute: Attribute, value: Any, operator: str, wanted: Any) -> bool:
    if operator == "pr":
        return value not in (None, "", [], {})
    if isinstance(value, bool) or isinstance(wanted, bool):
        asked = {"true": True, "false": False}.get(wanted.lower()) if isinstance(wanted, str) else wanted
        return operator == "eq" and value is asked
    if not (isinstance(value, str) and isinstance(wanted, str)):
        return operator == "eq" and value == wanted
    if attribute.kind == "dateTime":
        return _compare_times(value, operator, wanted)
    if not attribute.exact:
        value, wanted = value.casefold(), wanted.casefold()
    return _ordered(value, operator, wanted)


def _compare_times(value: str, operator: str, wanted: str) -> bool:
    try:
        known, asked = (datetime.fromisoformat(each) for each in (value, wanted))
        if asked.tzinfo is None:
            asked = asked.replace(tzinfo=known.tzinfo)
    except ValueError as error:
        raise ScimError(f"This is no time: {wanted[:50]!r}.", "invalidFilter") from error
    if operator in ("co", "sw", "ew"):
        return _ordered(value, operator, wanted)
    return _ordered(known, operator, asked)


def _ordered(value: Any, operator: str, wanted: Any) -> bool:
    match operator:
        case "eq":
            return bool(value == wanted)
        case "co":
            return wanted in value
        case "sw":
            return bool(value.startswith(wanted))
        case "ew":
            return bool(value.endswith(wanted))
        case "gt":
            return bool(value > wanted)
        case "ge":
            return bool(value >= wanted)
        case "lt":
            return bool(value < wanted)
        case _:
            return bool(value <= wanted)
