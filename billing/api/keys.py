"""/api/admin/keys: keys of any account, behind the admin key; /api/billing/keys: those of the caller's own account,
made and changed by people and by their keys. A secret is in the answer that makes it, nowhere else.

This file owns who may do what to a key of their own account: with `keys:write` one's own, with `keys:admin`
everybody's. No key is given a scope that whoever gives it lacks, or its user's role; nobody is given the secret of a
key that may do more than they do. An API key that is limited itself makes and changes no keys: its limits would be
worth nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from billing.api.auth import require_scope
from billing.api.operations import KeyOperations, OwnKeyOperations
from billing.api.requests import BadRequest, InsufficientScope, in_future, listing, page_asked
from billing.api.route import Call, serves
from billing.identity.organizations import grantable_scopes
from billing.keys.secrets import well_formed
from billing.permissions import KEYS_ADMIN, KEYS_WRITE, ROLES, SCOPES
from billing.schemas.keys import (
    KeyPatch,
    KeyShape,
    KeysQuery,
    LeakedKey,
    LeakedShape,
    NewKey,
    NewKeyShape,
    NewOwnKey,
    OwnKeysQuery,
    RotatedKeyShape,
    Rotation,
    RulesBody,
    ScopeWithheld,
    given_rules,
    total_tokens_quota,
)
from billing.schemas.usage import TotalsShape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.api.services import Services
    from billing.database.connection import Connection
    from billing.keys.keys import Grantable
    from billing.schemas.base import Listing
    from billing.schemas.keys import KeyRow


@serves(KeyOperations.create_key)
async def create_key(call: Call, body: NewKey) -> NewKeyShape:
    """Create a key. The answer holds its secret."""
    services, rules = call.services, new_rules(call.services, body, body.quota)
    key, secret = await services.keys.create(
        body.account_id, body.name, user_id=body.user_id, actor=call.actor, **rules
    )
    return NewKeyShape.of(key, key=secret, warnings=model_warnings(services, key.models))


def new_rules(services: Services, body: RulesBody, quota: int) -> dict[str, Any]:
    """Return the rules of a new key, `quota` among them. Raises `BadRequest` for one that has expired."""
    rules = given_rules(body)
    in_future("expires_at", rules.get("expires_at"), services.clock())
    rules["quotas"] = rules.get("quotas", ()) + total_tokens_quota(quota)
    return rules


@serves(KeyOperations.keys)
async def list_keys(call: Call, query: KeysQuery) -> Listing[KeyShape]:
    """List keys of an account, or of all, newest first; revoked ones stay listed."""
    page = await call.services.keys.page(query.account_id, *page_asked(query))
    return listing(page, KeyShape.of)


@serves(KeyOperations.key)
async def get_key(call: Call) -> KeyShape:
    """Return a key without its secret."""
    return KeyShape.of(await call.services.keys.get(call.id("key_id")))


@serves(KeyOperations.update_key)
async def update_key(call: Call, body: KeyPatch) -> KeyShape:
    """Change a key: what is absent stays as it is, null clears."""
    changes = changed(body)
    key = await call.services.keys.update(call.id("key_id"), changes, actor=call.actor)
    return KeyShape.of(key, warnings=model_warnings(call.services, changes.get("models")))


def changed(body: KeyPatch) -> dict[str, Any]:
    """Return the fields of a key that a body changes, by the names that `ApiKeys.update` takes."""
    changes = given_rules(body)
    return changes if body.name is UNSET else changes | {"name": body.name}


@serves(KeyOperations.rotate_key)
async def rotate_key(call: Call, body: Rotation) -> RotatedKeyShape:
    """Give a key a new secret. The answer holds it; the secret before stays valid for `grace_seconds`."""
    grace_s = checked_grace(call.services, body)
    key, secret = await call.services.keys.rotate(call.id("key_id"), grace_s, actor=call.actor)
    return RotatedKeyShape.of(key, key=secret)


def checked_grace(services: Services, body: Rotation) -> int:
    """Return for how long the secret before a rotation stays valid. Raises `BadRequest` beyond the bound."""
    if body.grace_seconds > services.rotation_grace_s:
        raise BadRequest(f"grace_seconds is at most {services.rotation_grace_s}.", "grace_seconds")
    return body.grace_seconds


@serves(KeyOperations.revoke_key)
async def revoke_key(call: Call) -> None:
    """Revoke a key on every gateway within a second; one that is revoked already stays so."""
    await call.services.keys.revoke(call.id("key_id"), actor=call.actor)


def model_warnings(services: Services, models: Iterable[str] | None) -> list[str]:
    """Return what is allowed and may not be meant: a model that this gateway does not know may be configured later."""
    return [
        f"This gateway has no model {name!r}: the key can't use it until there is one."
        for name in services.unknown_models(models or ())
    ]


LEAKED: Final = "If this is the secret of a key, it is revoked now, and its owner is notified."


@serves(OwnKeyOperations.create_own_key)
async def create_own_key(call: Call, body: NewOwnKey) -> NewKeyShape:
    """Create a key, your own or with `keys:admin` another member's. The answer holds its secret."""
    services, rules = call.services, new_rules(call.services, body, body.quota)
    user_id = body.user_id or call.caller.user_id
    _check_may_change(call, user_id)
    key, secret = await services.keys.create(
        call.account_id,
        body.name,
        user_id=user_id,
        actor=call.actor,
        grantable=_grantable(call, user_id),
        most=services.keys_per_user,
        **rules,
    )
    return NewKeyShape.of(key, key=secret, warnings=model_warnings(services, key.models))


@serves(OwnKeyOperations.own_keys)
async def list_own_keys(call: Call, query: OwnKeysQuery) -> Listing[KeyShape]:
    """List keys of the account, newest first; revoked ones stay listed."""
    page = await call.services.keys.page(call.account_id, *page_asked(query), query.user_id)
    return listing(page, KeyShape.of)


@serves(OwnKeyOperations.own_key)
async def get_own_key(call: Call) -> KeyShape:
    """Return a key of the account without its secret."""
    return KeyShape.of(await _key(call))


@serves(OwnKeyOperations.own_key_usage)
async def get_key_usage(call: Call) -> TotalsShape:
    """Return totals of what a key of the account has used."""
    key = await _key(call)
    return TotalsShape.of_totals(await call.services.reports.usage_totals(key.account_id, key_id=key.id))


@serves(OwnKeyOperations.update_own_key)
async def update_own_key(call: Call, body: KeyPatch) -> KeyShape:
    """Change a key of the account: what is absent stays as it is, null clears."""
    key, changes = await _key(call), changed(body)
    _check_may_change(call, key.user_id)
    after = await call.services.keys.update(
        key.id,
        changes,
        account_id=key.account_id,
        actor=call.actor,
        grantable=_grantable(call, key.user_id) if "scopes" in changes else None,
    )
    return KeyShape.of(after, warnings=model_warnings(call.services, changes.get("models")))


@serves(OwnKeyOperations.rotate_own_key)
async def rotate_own_key(call: Call, body: Rotation) -> RotatedKeyShape:
    """Give a key of the account a new secret. The answer holds it; the secret before stays valid for
    `grace_seconds`."""
    grace_s, key = checked_grace(call.services, body), await _key(call)
    _check_rotates(call, key)
    after, secret = await call.services.keys.rotate(key.id, grace_s, account_id=key.account_id, actor=call.actor)
    return RotatedKeyShape.of(after, key=secret)


@serves(OwnKeyOperations.revoke_own_key)
async def revoke_own_key(call: Call) -> None:
    """Revoke a key of the account on every gateway within a second; one that is revoked already stays so."""
    key = await _key(call)
    _check_owner(call, key.user_id)
    await call.services.keys.revoke(key.id, account_id=key.account_id, actor=call.actor)


@serves(OwnKeyOperations.revoke_leaked_key)
async def revoke_leaked_key(call: Call, body: LeakedKey) -> LeakedShape:
    """Revoke a key whose secret you have found. The secret is proof enough; the answer is the same for every one."""
    services, request = call.services, call.request

    async def revoke() -> KeyRow | None:
        if not well_formed(body.key):
            return None
        return await services.keys.revoke_leaked(body.key, actor=call.actor, tell=services.organizations.tell_of_leak)

    await services.attempts.attempt(request.remote or "", request.headers, revoke, secret=body.key)
    return LeakedShape(success=True, message=LEAKED)


async def _key(call: Call) -> KeyRow:
    """Return the key of the path. Raises `KeyNotFound` also for another account's."""
    return await call.services.keys.get(call.id("key_id"), call.account_id)


def _check_owner(call: Call, user_id: str | None) -> None:
    """Reject who may not change keys of this user: their own everybody may. Raises `InsufficientScope`."""
    if user_id != call.caller.user_id:
        require_scope(call.caller, KEYS_ADMIN)


def _check_may_change(call: Call, user_id: str | None) -> None:
    """Reject as `_check_owner`, and an API key that has limits, which it could lift for itself or another one."""
    _check_owner(call, user_id)
    if call.caller.principal is not None and call.caller.principal.limited:
        raise _limited()


def _limited() -> InsufficientScope:
    return InsufficientScope(
        "An API key with models, quotas, a limit of requests at once or an expiry can't create or change keys: use one "
        "without, or sign in: `metergate auth login`.",
        required_scope=KEYS_WRITE,
    )


def _check_rotates(call: Call, key: KeyRow) -> None:
    """Reject as `_check_owner`, who may do less than the key, and the secret before an earlier rotation: the answer
    holds what opens the key. Raises `InsufficientScope` and `ScopeWithheld`."""
    _check_owner(call, key.user_id)
    caller, own = call.caller, call.caller.principal
    if own is not None:
        expires_at_s = key.expires_at and key.expires_at.timestamp()
        if own.limited and (own.key_id != key.id or own.expires_at_s != expires_at_s):
            raise _limited()
    whole = caller.role is not None and caller.scopes == ROLES[caller.role]  # not a token that was narrowed
    for scope in key.scopes:
        if scope not in caller.scopes and not (whole and scope not in SCOPES):
            raise ScopeWithheld(scope)


def _grantable(call: Call, user_id: str | None) -> Grantable:
    """Return what says which scopes the caller may give a key of this user."""
    caller = call.caller

    async def scopes(connection: Connection) -> frozenset[str]:
        return await grantable_scopes(connection, call.account_id, caller.scopes, caller.user_id, user_id)

    return scopes
