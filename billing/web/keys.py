"""Keys: the list with what each has spent, a key made and shown once, changed, rotated, revoked, and one that leaked.

What is done goes to the functions that /api/billing/keys calls: who may do what is decided there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.api.keys import (
    create_own_key,
    get_own_key,
    list_own_keys,
    revoke_leaked_key,
    revoke_own_key,
    rotate_own_key,
    update_own_key,
)
from billing.api.requests import BadRequest, shaped
from billing.permissions import KEYS_ADMIN, KEYS_READ, KEYS_WRITE, SCOPES
from billing.schemas.keys import DEFAULT_SCOPES, RULES, KeyPatch, LeakedKey, NewOwnKey, OwnKeysQuery, Rotation
from billing.times import parse_rfc3339, rfc3339, within_calendar
from billing.web.forms import (
    LIMIT_VALUES,
    count_typed,
    examples,
    models_of,
    pairs,
    quota_rows,
    quotas_typed,
    spent_by,
    texts,
)
from billing.web.pages import NOTICES, Page, View, Visit, Who, member_names

if TYPE_CHECKING:
    from aiohttp import web

    from billing.schemas.keys import KeyShape

# Rules that are whole numbers: a new one has its field in the form, and its line on the page, by itself.
NUMBERS: Final = {name: rule.option for name, rule in RULES.items() if rule.option.kind == "number"}
# What is chosen where the scopes are none of the usual ones.
CUSTOM: Final = "custom"
# When the secret before a rotation ends, by seconds.
GRACES: Final = (
    ("0", "at once"),
    ("3600", "in an hour"),
    ("86400", "in a day"),
    ("604800", "in a week"),
)
NOTICES.update(
    {
        "key-revoked": "The key is revoked on every gateway.",
        "leak-told": "If this was the secret of a key, it is revoked now, and its owner is notified.",
    }
)


async def keys(visit: Visit) -> View:
    """Show keys, newest first, with what each has spent this month."""
    page = await list_own_keys(visit.call, visit.query(OwnKeysQuery))
    since, spent = await spent_by(visit, "key")
    values = {
        "page": page,
        "states": {each.id: state_of(visit, each) for each in page.data},
        "since": since,
        "spent": spent,
        "owners": await member_names(visit),
    }
    return View("keys.html", values)


def _now(visit: Visit) -> datetime:
    return datetime.fromtimestamp(visit.services.clock(), UTC)


def state_of(visit: Visit, key: KeyShape) -> str:
    """Return the state of a key in a word."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and parse_rfc3339(key.expires_at) <= _now(visit) else "active"


async def new_key(visit: Visit) -> View:
    """Show the form of a new key."""
    return View("key_new.html", _form_values(visit))


def _form_values(visit: Visit, key: KeyShape | None = None) -> dict[str, Any]:
    """Return the values of a key's form: those that were typed, else the key's, else the defaults."""
    kept = list(DEFAULT_SCOPES) if key is None else key.scopes
    chosen = visit.form.getall("scope", []) if visit.form else kept
    offered = [(name, meaning) for name, meaning in SCOPES.items() if visit.may(name) or name in kept]
    offered += [(name, "") for name in kept if name not in SCOPES]
    presets = _presets(visit)
    now = next((name for name, (_, scopes) in presets.items() if sorted(scopes) == sorted(chosen)), CUSTOM)
    return {
        "key": key,
        "presets": [(name, words) for name, (words, _) in presets.items()],
        "preset": visit.typed("preset") or now,
        "scopes": [(name, meaning, name in chosen) for name, meaning in offered],
        "rows": quota_rows(visit, () if key is None else key.quotas),
        "numbers": [(name, option, key and getattr(key, name)) for name, option in NUMBERS.items()],
        "known_models": models_of(visit),
        **LIMIT_VALUES,
    }


def _presets(visit: Visit) -> dict[str, tuple[str, list[str]]]:
    """Return what a key may be given at once: the words of each, and its scopes; none that the visitor lacks."""
    own = [name for name in SCOPES if visit.may(name)]
    ways = {
        "calls": ("Call models, and see the balance", list(DEFAULT_SCOPES)),
        "reads": ("Read usage, money and keys, and change nothing", [name for name in own if name.endswith(":read")]),
        "all": ("Everything that I may do", own),
    }
    return {
        name: (words, found) for name, (words, scopes) in ways.items() if (found := [s for s in scopes if s in own])
    }


def _scopes(visit: Visit) -> list[str]:
    preset = _presets(visit).get(visit.typed("preset"))
    return sorted(visit.form.getall("scope", []) if preset is None else preset[1])


def _typed(visit: Visit) -> dict[str, Any]:
    """Return the rules of a form as the API takes them; None clears."""
    return {
        "name": visit.field("name"),
        "scopes": _scopes(visit),
        "models": texts(visit.typed("models")) or None,
        "quotas": quotas_typed(visit) or None,
        **{name: _number(visit, name) for name in NUMBERS},
        "expires_at": _moment(visit, visit.field("expires_at")),
        "tags": pairs(visit.typed("tags")) or None,
    }


def _number(visit: Visit, name: str) -> int | None:
    """Return a rule that is a number, None where nothing was typed. Raises `BadRequest`."""
    typed = visit.field(name)
    number = None if typed is None else count_typed(typed)
    if typed is not None and number is None:
        raise BadRequest("Enter a whole number.", name)
    return number


def _moment(visit: Visit, given: str | None) -> str | None:
    """Return a time as the API takes it: one without a zone is in that of the page."""
    if not given:
        return None
    try:
        at = datetime.fromisoformat(given)
        return rfc3339(within_calendar(at if at.tzinfo is not None else at.replace(tzinfo=visit.zone)))
    except ValueError:
        return given  # which the rules of keys refuse


async def create(visit: Visit) -> View:
    """Make a key, and show its secret, this once."""
    made = await create_own_key(visit.call, visit.body(NewOwnKey, **_typed(visit)))
    return View("key_made.html", {"key": made, "previous_until": None, **examples(visit, made)})


async def show_key(visit: Visit) -> View:
    """Show a key and the form that changes it."""
    key = await get_own_key(visit.call)
    since, spent = await spent_by(visit, "key")
    is_own = key.user_id == visit.caller.user_id
    values = _form_values(visit, key) | {
        "state": state_of(visit, key),
        "since": since,
        "spent": None if spent is None else spent.get(key.id, 0),
        "owner": (await member_names(visit)).get(key.user_id or ""),
        "may_change": visit.may(KEYS_WRITE) and (is_own or visit.may(KEYS_ADMIN)),
        "graces": [each for each in GRACES if int(each[0]) <= visit.services.rotation_grace_s],
        "expires_local": _local_expiry(visit, key),
        "was": visit.typed("was") or msgspec.json.encode(_shown_rules(visit, key)).decode(),
    }
    return View("key.html", values)


def _local_expiry(visit: Visit, key: KeyShape) -> str:
    """Return when a key expires as a field has it: the time in the zone of the page, to the second."""
    if key.expires_at is None:
        return ""
    return f"{parse_rfc3339(key.expires_at).astimezone(visit.zone):%Y-%m-%dT%H:%M:%S}"


def _shown_rules(visit: Visit, key: KeyShape) -> dict[str, Any]:
    """Return a key's rules, each as `_typed` has it from a form that nobody has changed."""
    quotas = [
        {name: value for name in ("window", "metric", "limit", "model", "feature") if (value := getattr(each, name))}
        | {"limit": each.limit}
        for each in key.quotas
    ]
    return {
        "name": key.name.strip() or None,
        "scopes": sorted(key.scopes),
        "models": texts("\n".join(key.models or ())) or None,
        "quotas": quotas or None,
        **{name: getattr(key, name) for name in NUMBERS},
        "expires_at": _moment(visit, _local_expiry(visit, key)),
        "tags": pairs("\n".join(f"{name}={value}" for name, value in key.tags.items())) or None,
    }


async def update(visit: Visit) -> web.Response:
    """Change what of a key's form was changed since it was shown, and nothing else."""
    try:
        was = msgspec.json.decode(visit.typed("was"), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest("This form is incomplete: open the key's page again.") from error
    changes = {name: value for name, value in _typed(visit).items() if name not in was or was[name] != value}
    if changes.get("name", "") is None:
        raise BadRequest("Give the key a name.", "name")
    if changes:
        await update_own_key(visit.call, shaped(changes, KeyPatch))
    return visit.see(f"/keys/{visit.call.id('key_id')}", "saved")


async def rotate(visit: Visit) -> View:
    """Give a key a new secret, and show it, this once."""
    grace_s = count_typed(visit.typed("grace_seconds", "0"))
    if grace_s is None:
        raise BadRequest("Choose how long the previous secret stays valid.", "grace_seconds")
    made = await rotate_own_key(visit.call, visit.body(Rotation, grace_seconds=grace_s))
    return View("key_made.html", {"key": made, "previous_until": made.previous_until, **examples(visit, made)})


async def revoke(visit: Visit) -> web.Response:
    """Revoke a key."""
    await revoke_own_key(visit.call)
    return visit.see("/keys", "key-revoked")


async def show_leaked(visit: Visit) -> View:
    """Show where a secret is typed in that was found."""
    return View("key_leaked.html")


async def leaked(visit: Visit) -> web.Response:
    """Revoke the key of a secret that was found."""
    await revoke_leaked_key(visit.call, visit.body(LeakedKey, key=visit.field("key")))
    return visit.see("/keys/leaked", "leak-told")


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/keys", keys, scope=KEYS_READ),
    Page("GET", "/keys/new", new_key, scope=KEYS_WRITE),
    Page("POST", "/keys/new", create, scope=KEYS_WRITE, again=new_key),
    Page("GET", "/keys/leaked", show_leaked, Who.anyone),
    Page("POST", "/keys/leaked", leaked, Who.anyone, again=show_leaked),
    Page("GET", "/keys/{key_id}", show_key, scope=KEYS_READ),
    Page("POST", "/keys/{key_id}", update, scope=KEYS_WRITE, again=show_key),
    Page("POST", "/keys/{key_id}/rotate", rotate, scope=KEYS_WRITE, again=show_key),
    Page("POST", "/keys/{key_id}/revoke", revoke, scope=KEYS_WRITE, again=show_key),
)
