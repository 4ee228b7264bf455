"""Names, mails and beginnings of ids in the place of ids, as people type them."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from billing.cli.output import CommandFailed, Shown
from billing.cli.tables import SHORT_ID, Table
from billing.pages import MAX_LIMIT

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

# Arguments and options that are ids, and of what.
KINDS: Final[dict[str, Literal["account", "key", "person"]]] = {
    "account": "account",
    "account_id": "account",
    "key": "key",
    "key_id": "key",
    "user": "person",
    "user_id": "person",
}
# A cell that is an id, of an actor with what it is before.
_CELL: Final = re.compile(r"(?:user:|key:)?((?:acc|key|usr)_[0-9A-Z]{26})", re.ASCII)
# Ids whose names one call asks for.
_MOST_ASKED: Final = 100
_ID: Final = re.compile(r"[a-z]{3}_[0-9A-Za-z]{26}", re.ASCII)


def _meant(given: dict[str, Any]) -> dict[str, str]:
    return {name: each for name, each in given.items() if isinstance(each, str) and _is_name(name, each)}


def _is_name(name: str, typed: str) -> bool:
    """Return whether something else than an id was typed. The user of a key is whatever its owner calls it: of people
    only mails, and how ids begin, are taken for names."""
    kind = KINDS.get(name)
    return kind is not None and not _ID.match(typed) and (kind != "person" or "@" in typed or typed.startswith("usr_"))


async def of_all(client: "BillingCalls", given: dict[str, Any]) -> dict[str, Any]:
    """Return what an operator gave, with names in it replaced by the ids of what is called so, of all accounts. Raises
    `CommandFailed`."""
    found = {}
    for name, typed in _meant(given).items():
        listing = await client.search(q=typed, kind=KINDS[name])
        if KINDS[name] == "person" and "@" not in typed and not listing.data:
            continue  # another issuer's user, whom nobody here knows
        found[name] = _only(KINDS[name], typed, [(each.id, each.name) for each in listing.data])
    return {**given, **found}


async def with_names(client: "BillingCalls", shown: Shown) -> Shown:
    """Return an operator's result with what ids in the columns of its tables are called."""

    async def ask(ids: Sequence[str]) -> dict[str, str]:
        parts = [ids[at : at + _MOST_ASKED] for at in range(0, len(ids), _MOST_ASKED)]
        return {id: name for part in parts for id, name in (await client.names(ids=",".join(part))).names.items()}

    return await _named(shown, ask)


async def with_own_names(client: "BillingCalls", shown: Shown) -> Shown:
    """Return a person's result with what their account's keys are called in the columns of its tables, if they may
    know."""
    from billing.client.errors import Refused

    async def ask(_: Sequence[str]) -> dict[str, str]:
        try:
            return {each.id: each.name for each in (await client.own_keys(limit=MAX_LIMIT)).data}
        except Refused:
            return {}

    return await _named(shown, ask)


async def _named(shown: Shown, ask: Callable[[Sequence[str]], Awaitable[dict[str, str]]]) -> Shown:
    tables = [part for part in shown.parts if isinstance(part, Table) and part.headers and "name" not in part.headers]
    found = {match[1] for table in tables for row in table.rows for cell in row if (match := _CELL.fullmatch(cell))}
    if not found:
        return shown
    known = await ask(sorted(found))

    def called(cell: str) -> str:
        match = _CELL.fullmatch(cell)
        name = None if match is None else known.get(match[1])
        return cell if match is None or name is None else f"{name} ({match[1][:SHORT_ID]})"

    parts = tuple(
        replace(part, rows=[tuple(map(called, row)) for row in part.rows]) if part in tables else part
        for part in shown.parts
    )
    return replace(shown, parts=parts)


async def of_own_keys(client: "BillingCalls", given: dict[str, Any]) -> dict[str, Any]:
    """Return what a person gave, with names of their account's keys replaced by ids. Raises `CommandFailed`."""
    found = {}
    for name, typed in _meant(given).items():
        if KINDS[name] == "key":
            keys = (await client.own_keys(limit=MAX_LIMIT)).data
            alike = [(each.id, each.name) for each in keys if _begins(typed, each.id, each.name)]
            found[name] = _only("key", typed, alike)
    return {**given, **found}


def _begins(typed: str, key_id: str, name: str) -> bool:
    return key_id.startswith(typed) or name.lower().startswith(typed.lower())


def _only(kind: str, typed: str, found: Sequence[tuple[str, str]]) -> str:
    whole = [each for each in found if typed.lower() in (each[0].lower(), each[1].lower())]
    best = whole or found
    if len(best) == 1:
        return best[0][0]
    if not best:
        raise CommandFailed(f"No {kind} is called {typed!r}, or begins so.")
    listed = ", ".join(f"{name} ({found_id})" for found_id, name in best[:8])
    raise CommandFailed(f"Several are called {typed!r}, or begin so: {listed}. Give the id of one.")
