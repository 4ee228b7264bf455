"""Directory: what an organization's directory of people calls and with which tokens, and what its groups give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import to_builtins

from billing.api.directories import (
    create_scim_token,
    get_directory,
    get_group_rules,
    list_scim_tokens,
    revoke_scim_token,
    set_group_rules,
)
from billing.api.requests import BadRequest
from billing.identity.directories import EVERYONE
from billing.permissions import MEMBERS_READ, ORG_TRANSFER
from billing.schemas.base import PageQuery
from billing.schemas.directories import NewScimToken, RuleBody, RulesOfGroups
from billing.web.forms import count_typed
from billing.web.pages import NOTICES, Page, View, Visit, does, page

if TYPE_CHECKING:
    from aiohttp import web

# Tokens that the page has.
TOKENS: Final = 50
NOTICES.update(
    {
        "token-revoked": "The token is revoked: the directory's next call with it is refused.",
        "rules-saved": "Saved: it applies to people of the directory now, to others when they next sign in.",
    }
)
_ROLES: Final = (
    ("member", "member: own keys and requests"),
    ("admin", "admin: members, all keys, buying"),
    ("viewer", "viewer: sees everything, changes nothing"),
)


async def directory(visit: Visit) -> View:
    """Show where the directory calls, its tokens, and what groups give."""
    call = visit.call
    values = {
        "directory": await get_directory(call),
        "tokens": (await list_scim_tokens(call, PageQuery(limit=TOKENS))).data,
        "rules": (await get_group_rules(call)).rules,
        "roles": _ROLES,
        "may": visit.may(ORG_TRANSFER),
    }
    return View("directory.html", values)


async def add_token(visit: Visit) -> View:
    """Make a token, and show it, this once."""
    made = await create_scim_token(visit.call, visit.body(NewScimToken, name=visit.field("name") or ""))
    return View("directory_token.html", {"token": made})


async def _rules(visit: Visit, without: str) -> list[RuleBody]:
    """Return the rules that there are, without the one for a group."""
    found = (await get_group_rules(visit.call)).rules
    kept = [each for each in found if each.group.casefold() != without.casefold()]
    return [
        RuleBody(group=each.group, role=each.role, max_keys=each.max_keys, quotas=to_builtins(each.quotas))
        for each in kept
    ]


async def add_rule(visit: Visit) -> web.Response:
    """Add a rule, or replace that for its group; one for everybody comes last."""
    group, amount, keys = visit.field("group") or "", visit.field("limit"), visit.typed("max_keys").strip()
    most = count_typed(keys) if keys else None
    if keys and most is None:
        raise BadRequest("Keys are a whole number.", "max_keys")
    quotas = [{"window": "month", "metric": "cost", "limit": amount.lstrip("$")}] if amount else None
    made = visit.body(RuleBody, group=group, role=visit.typed("role", "member"), max_keys=most, quotas=quotas)
    rules = await _rules(visit, group)
    last = next((n for n, each in enumerate(rules) if each.group == EVERYONE), len(rules))
    rules.insert(len(rules) if group == EVERYONE else last, made)
    await set_group_rules(visit.call, RulesOfGroups(rules=rules))
    return visit.see("/directory", "rules-saved")


async def remove_rule(visit: Visit) -> web.Response:
    """Remove the rule for a group."""
    await set_group_rules(visit.call, RulesOfGroups(rules=await _rules(visit, visit.typed("group"))))
    return visit.see("/directory", "rules-saved")


ROUTES: Final[tuple[Page, ...]] = page(
    "/directory",
    directory,
    ("/tokens", add_token),
    ("/tokens/{token_id}/revoke", does(revoke_scim_token, "/directory", "token-revoked")),
    ("/rules", add_rule),
    ("/rules/remove", remove_rule),
    scope=MEMBERS_READ,
    changes=ORG_TRANSFER,
)
