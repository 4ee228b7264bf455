"""Operators: what is found by a name, a mail or an id; and fields of forms and filters that take these for an id."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Final

from multidict import MultiDict, MultiDictProxy

from billing.api.oversight import search
from billing.api.requests import BadRequest
from billing.schemas.system import SearchQuery
from billing.web.pages import Page, View, Visit, Who

if TYPE_CHECKING:
    from billing.schemas.system import FoundShape

# What things of each kind are called, and where each is.
_KINDS: Final = {
    "account": ("Accounts", "/operator/accounts/{id}"),
    "person": ("People", "/operator/people/{id}"),
    "key": ("Keys", "/operator/requests?key_id={id}"),
    "request": ("Requests", "/operator/requests/{id}"),
    "order": ("Orders", "/operator/payments/orders/{id}"),
    "model": ("Models", "/operator/requests?model={id}"),
}
# Fields that take a name for an id, and of what.
_PICKED: Final = {"account_id": "account", "key_id": "key", "user_id": "person"}
_ID: Final = re.compile(r"[a-z]{3}_[A-Za-z0-9]{26}", re.ASCII)


async def found(visit: Visit) -> View:
    """Show what was found, by kind."""
    typed = visit.request.query.get("q", "").strip()
    results = (await search(visit.call, visit.query(SearchQuery))).data if typed else []
    groups = [(_KINDS[kind][0], [(each, place_of(each)) for each in of]) for kind, of in groupby(results, _kind)]
    return View("operator_search.html", {"typed": typed, "groups": groups})


def _kind(each: FoundShape) -> str:
    return each.kind


def place_of(each: FoundShape) -> str:
    """Return the path of the page about something."""
    return _KINDS[each.kind][1].format(id=each.id)


async def picks(visit: Visit) -> View:
    """Show suggestions for a field: `kind` is what it takes, and its own value what was typed so far."""
    query = visit.request.query
    typed = next((value for name, value in query.items() if name != "kind"), "").strip()
    kind = query.get("kind", "")
    results = (await search(visit.call, visit.query(SearchQuery, q=typed))).data if typed and kind in _KINDS else []
    names = [each.name for each in results]
    shown = [(each.id if names.count(each.name) > 1 else each.name, each) for each in results]
    return View("operator_picks.html", {"shown": shown})


async def picked(visit: Visit) -> None:
    """Have names and mails that stand in fields for an id replaced by the id. Raises `BadRequest` for a name that
    nothing has, or several things have."""
    if visit.page.handler is picks:  # what was typed so far
        return
    query = {name: value for name, value in visit.request.query.items() if name in _PICKED}
    if changed := await _ids(visit, query):
        url = visit.request.rel_url.update_query(changed)
        visit.request = visit.request.clone(rel_url=url)
    form = {name: value for name, value in visit.form.items() if name in _PICKED}
    if changed := await _ids(visit, form):
        visit.form = MultiDictProxy(MultiDict({**visit.form, **changed}))


async def _ids(visit: Visit, given: dict[str, str]) -> dict[str, str]:
    changed = {}
    for name, value in given.items():
        text = value.strip()
        if text and not _ID.fullmatch(text):
            changed[name] = await _id_of(visit, name, text)
    return changed


async def _id_of(visit: Visit, name: str, text: str) -> str:
    kind = _PICKED[name]
    matches = await visit.services.search.find(text, kind)  # type: ignore[arg-type]
    whole = [each for each in matches if text.lower() in (each.name.lower(), each.id.lower())]
    best = whole or matches
    if len(best) == 1:
        return best[0].id
    if not best:
        raise BadRequest(f"No {kind} is named {text!r} or begins with it.", name)
    several = ", ".join(f"{each.name} ({each.id})" for each in best)
    raise BadRequest(f"Several match: {several}. Give the id of one.", name)


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/search", found, Who.operator),
    Page("GET", "/operator/picks", picks, Who.operator),
)
