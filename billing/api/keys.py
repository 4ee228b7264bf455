"""/api/admin/keys: keys of any account. Behind the admin key. A secret is in the answer to a creation, nowhere else."""

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET

from billing.api.errors import BadRequest
from billing.api.operations import KeyOperations
from billing.api.requests import in_future, listing, page_asked
from billing.api.route import Call, serves
from billing.api.services import Services
from billing.schemas.base import Listing
from billing.schemas.keys import (
    KeyPatch,
    KeyShape,
    KeysQuery,
    NewKey,
    NewKeyShape,
    RotatedKeyShape,
    Rotation,
    RulesBody,
    given_rules,
    total_tokens_quota,
)


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
        f"The model {name!r} is none of this gateway's: the key can't use it until it is configured."
        for name in services.unknown_models(models or ())
    ]
