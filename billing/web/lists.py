"""Pages that are lists, and pages about one thing, as values: what a column shows, where it leads, what can be done.

`listed` and `detailed` make views of them, for two templates that every such page has in common. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict, Unpack

from billing.web.pages import View, Visit

# How a value is shown: an amount, a whole number, either (a number, or an amount as text), a time in the zone, a name
# of the API as words, as code, what a row of the audit log has changed, prices, a number in words, a message of the
# API; an id of an account, person, key or organization as what that is called, with a short id.
Kind = Literal[
    "text", "money", "count", "quantity", "time", "state", "code", "changes", "prices", "number", "message", "name"
]
_GOOD: Final = frozenset({"active", "ok", "credited", "delivered", "on", "OK", "settled", "open", "done", "matched"})
_BAD: Final = frozenset(
    {"suspended", "closed", "failed", "disputed", "disabled", "dead", "revoked", "missing_here", "failing"}
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column, or one fact: the attribute `name` of a row. `href` is a path below /console with names of the row's
    attributes in braces; a row without a value has no link."""

    label: str
    name: str
    kind: Kind = "text"
    href: str | None = None

    def value(self, row: Any) -> Any:
        """Return the row's value in this column."""
        return getattr(row, self.name)

    def link(self, visit: Visit, row: Any) -> str | None:
        """Return where the value leads, by a relative address."""
        if self.href is None or not self.value(row):
            return None
        return path_of(visit, self.href, row)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form; `options` are pairs of a value and its words. The first filter of a list is its search. One
    that `picks` a kind of thing takes names, mails and ids, and suggests them."""

    name: str
    label: str
    type: str = "text"
    value: str = ""
    hint: str = ""
    required: bool = False
    options: tuple[tuple[str, str], ...] | None = None
    picks: Literal["", "account", "person", "key"] = ""


@dataclass(frozen=True, slots=True)
class Act:
    """A button in each row that is a form of its own; with `only`, in rows whose attribute of that name is one of
    `among`. `confirm` is asked before."""

    label: str
    path: str
    fields: Mapping[str, str] = field(default_factory=dict)
    danger: bool = False
    confirm: str = ""
    only: str | None = None
    among: tuple[Any, ...] = ()

    def offered(self, row: Any) -> bool:
        """Return whether a row has the button."""
        return self.only is None or getattr(row, self.only) in self.among


@dataclass(frozen=True, slots=True)
class Form:
    """A form beside what it changes."""

    title: str
    path: str
    button: str
    fields: tuple[Field, ...] = ()
    hint: str = ""
    hidden: Mapping[str, str] = field(default_factory=dict)
    danger: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A list: its caption, its rows, the text for an empty list, and a command that changes it."""

    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Any]
    next_cursor: str | None = None
    acts: tuple[Act, ...] = ()
    empty: str = "There is nothing here."
    command: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its name, and the rows that make it; `kind` as of a column."""

    label: str
    value: Any
    kind: Kind = "text"
    note: str = ""
    path: str = ""


# What lists of refused requests show.
REFUSED: Final = (
    Column("Time", "created_at", "time", "/operator/requests/{id}"),
    Column("Account", "account_id", "name", "/operator/accounts/{account_id}"),
    Column("Key", "key_id", "name"),
    Column("Model", "model"),
    Column("Why", "code", "state"),
    Column("Message", "message", "message"),
)


def path_of(visit: Visit, path: str, row: Any) -> str:
    """Return the address of a path with a row's attributes in its braces."""
    parts = path.split("{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        filled.append(f"{getattr(row, name)}{rest}")
    return visit.url("".join(filled))


def mood(state: object) -> str:
    """Return the colour that a state is shown with, beside its words."""
    return "good" if state in _GOOD else "bad" if state in _BAD else "warn"


class Parts(TypedDict, total=False):
    """What a page has beside its tables: `filters` are parameters of its address, `tabs` pairs of a label and a path,
    and a `live` list looks again by itself;
    `layout` is a class of the style sheet."""

    intro: str
    filters: tuple[Field, ...]
    tabs: tuple[tuple[str, str], ...]
    forms: tuple[Form, ...]
    figures: tuple[Figure, ...]
    csv: bool
    live: bool
    layout: str


_NONE: Final = Parts(intro="", filters=(), tabs=(), forms=(), figures=(), csv=False, live=False, layout="")


def listed(title: str, *tables: Listed, **parts: Unpack[Parts]) -> View:
    """Return the page of lists, one below the other."""
    return _view(title, tables, parts)


def detailed(title: str, row: Any, facts: tuple[Column, ...], *tables: Listed, **parts: Unpack[Parts]) -> View:
    """Return the page about one thing: what is known of it, what can be done, and lists that belong to it."""
    return _view(title, tables, parts, row, facts)


def _view(
    title: str, tables: tuple[Listed, ...], parts: Parts, row: Any = None, facts: tuple[Column, ...] = ()
) -> View:
    about = {"heading": title, "tables": tables, "row": row, "facts": facts, "mood": mood, "path_of": path_of}
    return View("listed.html", {**_NONE, **parts, **about})


async def named(visit: Visit, view: View) -> View:
    """Return a page of lists with what the ids in it are called."""
    if view.template not in LISTS:
        return view
    tables, row, facts = view.values["tables"], view.values["row"], view.values["facts"]
    ids = {
        column.value(each)
        for table in tables
        for column in table.columns
        if column.kind == "name"
        for each in table.rows
    }
    ids |= {column.value(row) for column in facts if column.kind == "name"}
    picked = {visit.request.query.get(each.name, "") for each in view.values["filters"] if each.picks}
    names = await visit.services.audit.names(each for each in ids | picked if each)
    return View(view.template, {**view.values, "names": names}, view.status)


LISTS: Final = (
    "listed.html",
    "operator_account.html",
    "operator_home.html",
    "operator_provider.html",
    "operator_providers.html",
    "operator_revenue.html",
)


def once(title: str, secret: str, path: str, label: str) -> View:
    """Return the page that shows a secret, this once."""
    return View("operator_once.html", {"heading": title, "secret": secret, "path": path, "label": label})
