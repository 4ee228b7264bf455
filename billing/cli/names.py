"""Names, mails and beginnings of ids in the place of ids, as people type them."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from billing.cli.output import CommandFailed
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
        found[name] = _only(KINDS[name], typed, [(each.id, each.name) for each in listing.data])
    return {**given, **found}


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
