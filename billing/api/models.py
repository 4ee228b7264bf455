"""Shapes of request bodies: strict types, no unknown fields, bounded lengths.

Money and quotas are taken as they come and parsed by `billing.money` and `billing.quotas`, whose messages say more.
"""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from billing.principals import Status

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Note = Annotated[str, Meta(max_length=1000)]
IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=255)]
Id = Annotated[str, Meta(min_length=1, max_length=255)]


class NewAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /api/admin/accounts"""

    name: Name
    plan: str | None = None
    credit_limit_usd: Any = "0"
    quotas: Any = ()


class AccountPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /api/admin/accounts/{id}: what is absent stays as it is."""

    name: Name | UnsetType = UNSET
    plan: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    credit_limit_usd: Any = UNSET
    quotas: Any = UNSET


class NewQuotas(Struct, frozen=True, forbid_unknown_fields=True):
    """PUT /api/admin/accounts/{id}/quotas"""

    quotas: Any


class NewGrant(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /api/admin/accounts/{id}/grants, and …/refunds"""

    amount_usd: Any
    idempotency_key: IdempotencyKey
    note: Note | None = None


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /api/admin/keys: `quota` is so many tokens in total, 0 for no limit."""

    account_id: Id
    name: Name
    scopes: str | list[str] | None = None
    models: list[str] | None = None
    quotas: Any = ()
    quota: Annotated[int, Meta(ge=0)] = 0
    max_parallel_requests: int | None = None
    expires_at: str | None = None
    tags: dict[str, str] | None = None
    user_id: Id | None = None


class KeyPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /api/admin/keys/{id}: what is absent stays as it is, null clears."""

    name: Name | UnsetType = UNSET
    scopes: str | list[str] | UnsetType | None = UNSET
    models: list[str] | UnsetType | None = UNSET
    quotas: Any = UNSET
    max_parallel_requests: int | UnsetType | None = UNSET
    expires_at: str | UnsetType | None = UNSET
    tags: dict[str, str] | UnsetType | None = UNSET
